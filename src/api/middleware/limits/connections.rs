//! The number of open connections: in all, and for one network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::owner::{is_scarce, network, share};
use crate::api::errors::{CONNECTIONS, NETWORK_CONNECTIONS, NamedLimit};

/// Limits open connections.
pub(in crate::api) struct ConnectionLimiter {
    max: usize,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// Permits one open connection until it is dropped.
pub(in crate::api) struct ConnectionPermit {
    connections: Arc<ConnectionLimiter>,
    network: IpAddr,
}

impl ConnectionLimiter {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// Permits one more connection.
    ///
    /// # Errors
    /// The limit that is reached: all are in use, or they are scarce and this network has its share.
    pub fn open(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, NamedLimit> {
        let network = network(address);
        let mut open = self.lock();
        let own = open.by_network.get(&network).copied().unwrap_or_default();
        if open.all >= self.max {
            return Err(CONNECTIONS.with(self.max));
        }
        if is_scarce(open.all, self.max) && own >= share(self.max) {
            return Err(NETWORK_CONNECTIONS.with(share(self.max)));
        }
        open.all += 1;
        open.by_network.insert(network, own + 1);
        drop(open);
        Ok(ConnectionPermit { connections: Arc::clone(self), network })
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.all -= 1;
        if let Some(own) = open.by_network.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                open.by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_a_network_binds_while_connections_are_scarce() {
        let connections = ConnectionLimiter::new(8);
        let open = |address: &str| connections.open(address.parse().unwrap());
        // Alone, one network gets more than half.
        let proxy: Vec<_> = std::iter::from_fn(|| open("10.0.0.1").ok()).collect();
        assert_eq!(proxy.len(), 5);
        let others = [open("10.0.0.2"), open("10.0.0.2"), open("10.0.0.3")];
        assert!(others.iter().all(Result::is_ok));
        let refused = ["10.0.0.1", "10.0.0.4"].map(|address| open(address).err().unwrap());
        assert_eq!(refused, [CONNECTIONS.with(8); 2]);
        drop((proxy, others));
        let open = connections.lock();
        assert_eq!((open.all, open.by_network.len()), (0, 0), "networks without connections are forgotten");
    }
}

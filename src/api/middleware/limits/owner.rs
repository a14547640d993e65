//! The owner of a limited resource: an authenticated caller, or a network of unauthenticated ones.

use std::net::{IpAddr, Ipv6Addr};

use crate::auth::CallerKey;

/// The owner of streams and of buffered bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::api) enum Owner {
    /// An authenticated caller.
    Caller(CallerKey),
    /// The unauthenticated callers of one network: those without credentials, and those whose credentials are not verified yet.
    Unauthenticated(Option<IpAddr>),
}

impl Owner {
    /// An unauthenticated caller at this address.
    pub fn unauthenticated(address: Option<IpAddr>) -> Self {
        Self::Unauthenticated(address.map(network))
    }

    pub fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Unauthenticated(_))
    }
}

/// The network of an address. One IPv6 client usually has a whole /64 network.
pub(in crate::api) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Whether a resource is scarce: more than half of it is in use. Only then do the shares of its owners apply. Until then one owner may
/// take more than its share, since behind a proxy all clients have one address.
pub(super) fn is_scarce(used: usize, whole: usize) -> bool {
    used > whole / 2
}

/// The share of one owner in a resource: a quarter.
pub(super) fn share(whole: usize) -> usize {
    (whole / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_network_is_one_owner() {
        let at = |address: &str| Owner::unauthenticated(address.parse().ok());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }
}

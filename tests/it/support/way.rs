//! The way from a client to a server, which can lose what a network loses, and lead to another server later on.

use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections. When it changes, those that are there end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// To this server.
    To(SocketAddr),
    /// To this server, but nothing comes back.
    OnlyTo(SocketAddr),
    /// Nowhere: they end at once.
    Nowhere,
}

/// An address that leads to a server.
pub struct Way {
    pub address: SocketAddr,
    leads: watch::Sender<Leads>,
}

impl Way {
    pub async fn new(leads: Leads) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leads, state) = watch::channel(leads);
        tokio::spawn(take(listener, state));
        Self { address, leads }
    }

    pub fn set(&self, leads: Leads) {
        self.leads.send_replace(leads);
    }
}

async fn take(listener: TcpListener, state: watch::Receiver<Leads>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let mut state = state.clone();
        let leads = *state.borrow_and_update();
        tokio::spawn(async move {
            tokio::select! {
                _ = pass(near, leads) => {}
                _ = state.changed() => {}
            }
        });
    }
}

async fn pass(mut near: TcpStream, leads: Leads) -> std::io::Result<()> {
    let (Leads::To(far) | Leads::OnlyTo(far)) = leads else { return Ok(()) };
    let mut far = TcpStream::connect(far).await?;
    if let Leads::To(_) = leads {
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
        return Ok(());
    }
    let ((mut near_in, _near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
    let mut nowhere = tokio::io::sink();
    tokio::try_join!(copy(&mut near_in, &mut far_out), copy(&mut far_in, &mut nowhere))?;
    far_out.shutdown().await
}

//! The way from a client to a server, which can lose what a network loses, and lead to another server later on.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections. When it changes, those that are there end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// To this server.
    To(SocketAddr),
    /// To this server, but nothing comes back.
    OnlyTo(SocketAddr),
    /// To this server, but no more than so many bytes come back over each.
    UpTo(SocketAddr, u64),
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
        Self::at("127.0.0.1:0".parse().unwrap(), leads).await
    }

    /// One at an address that is known already.
    pub async fn at(address: SocketAddr, leads: Leads) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
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
    let (address, most) = match leads {
        Leads::To(address) => (address, u64::MAX),
        Leads::UpTo(address, most) => (address, most),
        Leads::OnlyTo(address) => (address, 0),
        Leads::Nowhere => return Ok(()),
    };
    let mut far = TcpStream::connect(address).await?;
    if let Leads::To(_) = leads {
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
        return Ok(());
    }
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
    let back = async {
        copy(&mut (&mut far_in).take(most), &mut near_out).await?;
        copy(&mut far_in, &mut tokio::io::sink()).await
    };
    tokio::try_join!(copy(&mut near_in, &mut far_out), back)?;
    far_out.shutdown().await
}

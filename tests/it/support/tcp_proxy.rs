//! A TCP proxy between a client and a server. It can lose bytes, refuse connections, and switch to another server.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the proxy treats connections. A change closes the open ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Forwards both directions.
    Forward(SocketAddr),
    /// Forwards requests and drops all replies.
    DropReplies(SocketAddr),
    /// Forwards requests, and at most this many bytes of replies per connection.
    LimitReplies(SocketAddr, u64),
    /// Closes each connection at once.
    Reject,
}

/// A proxy with an address of its own.
pub struct TcpProxy {
    pub address: SocketAddr,
    route: watch::Sender<Route>,
}

impl TcpProxy {
    pub async fn new(route: Route) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), route).await
    }

    /// A proxy that listens on a given address.
    pub async fn at(address: SocketAddr, route: Route) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (route, receiver) = watch::channel(route);
        tokio::spawn(accept(listener, receiver));
        Self { address, route }
    }

    pub fn set(&self, route: Route) {
        self.route.send_replace(route);
    }
}

async fn accept(listener: TcpListener, routes: watch::Receiver<Route>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut routes = routes.clone();
        let route = *routes.borrow_and_update();
        tokio::spawn(async move {
            tokio::select! {
                _ = forward(client, route) => {}
                _ = routes.changed() => {}
            }
        });
    }
}

async fn forward(mut client: TcpStream, route: Route) -> std::io::Result<()> {
    let (address, reply_limit) = match route {
        Route::Forward(address) => (address, u64::MAX),
        Route::LimitReplies(address, limit) => (address, limit),
        Route::DropReplies(address) => (address, 0),
        Route::Reject => return Ok(()),
    };
    let mut server = TcpStream::connect(address).await?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    if let Route::Forward(_) = route {
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) = (client.split(), server.split());
    let replies = async {
        copy(&mut (&mut server_in).take(reply_limit), &mut client_out).await?;
        copy(&mut server_in, &mut tokio::io::sink()).await
    };
    tokio::try_join!(copy(&mut client_in, &mut server_out), replies)?;
    server_out.shutdown().await
}

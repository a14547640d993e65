//! The other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::api::middleware::limits::ConnectionBytes;
use crate::mirror::ClientConnection;
use crate::tls::ClientCertificate;

/// The other end of a connection.
#[derive(Debug)]
pub(in crate::api) struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// The client certificate, verified against the configured CA; only where client certificates are required.
    pub certificate: Option<ClientCertificate>,
    /// What the connection has buffered.
    pub bytes: ConnectionBytes,
    /// Its identity, by which fan-out counts the time spent writing to it.
    pub(super) connection: ClientConnection,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: Option<ClientCertificate>) -> Arc<Self> {
        let (bytes, connection) = (ConnectionBytes::default(), ClientConnection::default());
        Arc::new(Self { address, certificate, bytes, connection })
    }

    /// The peer of a request with these extensions.
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get::<Arc<Self>>().map(|peer| &**peer)
    }

    /// The identity of the connection on which a request with these extensions arrived; a new one without a [`Peer`].
    pub fn connection(extensions: &http::Extensions) -> ClientConnection {
        Self::of(extensions).map(|peer| peer.connection.clone()).unwrap_or_default()
    }
}

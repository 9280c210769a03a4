//! TLS of the admin listener, with rustls's blocking stream.

use std::io::{self, Read, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// TLS over a blocking stream.
pub(super) type TlsStream<S> = StreamOwned<ServerConnection, S>;

/// The server side of TLS. Clones share the same configuration.
#[derive(Clone)]
pub struct Acceptor(Arc<ArcSwap<ServerConfig>>);

impl Acceptor {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// Replaces the configuration for later connections.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    /// Begins TLS over `stream`; the handshake happens with the first read.
    pub(super) fn accept<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let connection = ServerConnection::new(self.0.load_full()).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// Sends close_notify.
pub(super) fn close<S: Read + Write>(stream: &mut TlsStream<S>) {
    stream.conn.send_close_notify();
    // The answer has been sent completely even if this fails.
    let _ = stream.flush();
}

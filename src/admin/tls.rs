//! TLS of the admin listener: rustls's blocking stream.

use std::io::{self, Read, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A session over a blocking stream.
pub(super) type TlsStream<S> = StreamOwned<ServerConnection, S>;

/// Begins sessions. Its clones are one.
#[derive(Clone)]
pub struct Acceptor(Arc<ArcSwap<ServerConfig>>);

impl Acceptor {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// Has the sessions that begin from now on be as `config` says.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    /// A session over `stream`; the handshake happens with the first read.
    pub(super) fn accept<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let connection = ServerConnection::new(self.0.load_full()).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// Says that nothing more will come.
pub(super) fn close<S: Read + Write>(stream: &mut TlsStream<S>) {
    stream.conn.send_close_notify();
    // The answer is complete without it.
    let _ = stream.flush();
}

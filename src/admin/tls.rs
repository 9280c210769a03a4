//! TLS of the admin listener: rustls's blocking stream.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A session over a blocking stream.
pub(super) type Session<S> = StreamOwned<ServerConnection, S>;

/// Begins sessions.
#[derive(Clone)]
pub(super) struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self(config)
    }

    /// A session over `stream`; the handshake happens with the first read.
    pub(super) fn accept<S: Read + Write>(&self, stream: S) -> io::Result<Session<S>> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// Says that nothing more will come.
pub(super) fn close<S: Read + Write>(stream: &mut Session<S>) {
    stream.conn.send_close_notify();
    // The answer is complete without it.
    let _ = stream.flush();
}

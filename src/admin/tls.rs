//! TLS of the admin listener, over non-blocking sockets.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ServerConfig, ServerConnection};

/// TLS over a non-blocking socket.
pub(super) struct TlsStream {
    session: ServerConnection,
    socket: TcpStream,
    has_received: bool,
}

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

    /// Begins TLS over `socket`; the handshake happens while reading.
    pub(super) fn accept(&self, socket: TcpStream) -> io::Result<TlsStream> {
        let session = ServerConnection::new(self.0.load_full()).map_err(io::Error::other)?;
        Ok(TlsStream { session, socket, has_received: false })
    }
}

impl TlsStream {
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn has_received(&self) -> bool {
        self.has_received
    }

    pub(super) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Reads plaintext; 0 bytes at the end of the session. If the session fails, the alert has been
    /// sent.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.flush()?;
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.has_received = true;
            if let Err(error) = self.session.process_new_packets() {
                // The alert may follow other records, without which the peer could not read it. If
                // it does not fit into the socket, the connection just ends.
                let _ = self.flush();
                return Err(io::Error::other(error));
            }
        }
    }

    /// Writes some plaintext.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        self.session.writer().write(bytes)
    }

    /// Sends everything, then close_notify.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        self.flush()
    }

    /// Sends all records: one call of `write_tls` need not take all of them.
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

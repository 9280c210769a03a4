//! TLS to a collector (RFC 5425).

use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::limits::{MAX_SYSLOG_READS, SYSLOG_HANDSHAKE_TIMEOUT, SYSLOG_WRITE_BYTES};

/// The name that a collector's certificate must have, and the configuration for new connections,
/// which a reload replaces.
#[derive(Clone, Debug)]
pub struct ClientTls {
    name: ServerName<'static>,
    config: Arc<ArcSwap<ClientConfig>>,
}

/// Equal if the names are: the rest can be replaced.
impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ClientTls {}

impl ClientTls {
    /// Creates the configuration.
    #[must_use]
    pub fn new(name: ServerName<'static>, config: Arc<ClientConfig>) -> Self {
        Self { name, config: Arc::new(ArcSwap::new(config)) }
    }

    /// Uses the authorities and the certificate of `other` for new connections.
    pub fn renew(&self, other: &Self) {
        self.config.store(other.config.load_full());
    }
}

/// A TLS connection over a blocking socket with time-outs.
pub(super) struct TlsStream {
    connection: ClientConnection,
    socket: TcpStream,
}

impl TlsStream {
    /// Performs the handshake.
    pub(super) fn open(mut socket: TcpStream, tls: &ClientTls) -> io::Result<Self> {
        let deadline = Instant::now() + SYSLOG_HANDSHAKE_TIMEOUT;
        socket.set_read_timeout(Some(SYSLOG_HANDSHAKE_TIMEOUT))?;
        let mut connection = ClientConnection::new(tls.config.load_full(), tls.name.clone())
            .map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(2 * SYSLOG_WRITE_BYTES));
        while connection.is_handshaking() || connection.wants_write() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if connection.wants_write() {
                connection.write_tls(&mut socket)?;
            } else if connection.read_tls(&mut socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            } else if let Err(error) = connection.process_new_packets() {
                // Sends the alert, so that the collector's log shows the reason.
                while connection.wants_write() && connection.write_tls(&mut socket).is_ok() {}
                return Err(io::Error::other(error));
            }
        }
        Ok(Self { connection, socket })
    }

    /// Encrypts some of the bytes, at least one, and sends what has been encrypted.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
        let taken = self.connection.writer().write(bytes)?;
        while self.connection.wants_write() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(taken)
    }

    /// Reads whatever has arrived, without waiting, and returns whether the collector has closed
    /// the connection. Session tickets, changes of keys and the like are taken up. The end is not
    /// found behind more than [`MAX_SYSLOG_READS`] take.
    pub(super) fn has_ended(&mut self) -> bool {
        for _ in 0..MAX_SYSLOG_READS {
            match self.connection.read_tls(&mut WithoutWaiting(&self.socket)) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
            let Ok(state) = self.connection.process_new_packets() else { return true };
            if state.peer_has_closed() {
                return true;
            }
            // A collector has nothing to say.
            let mut unused = vec![0; state.plaintext_bytes_to_read()];
            if self.connection.reader().read_exact(&mut unused).is_err() {
                return true;
            }
        }
        false
    }

    /// Says that no more will follow.
    pub(super) fn close(&mut self) {
        self.connection.send_close_notify();
        while self.connection.wants_write()
            && self.connection.write_tls(&mut self.socket).is_ok_and(|count| count > 0)
        {}
    }
}

/// Reads what a socket has at present.
pub(super) struct WithoutWaiting<'s, S>(pub(super) &'s S);

impl<S: AsFd> Read for WithoutWaiting<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

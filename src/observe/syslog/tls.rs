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
        is_at_end(&mut self.connection, WithoutWaiting(&self.socket))
    }

    /// Says that no more will follow.
    pub(super) fn close(&mut self) {
        self.connection.send_close_notify();
        while self.connection.wants_write()
            && self.connection.write_tls(&mut self.socket).is_ok_and(|count| count > 0)
        {}
    }
}

fn is_at_end(connection: &mut ClientConnection, mut source: impl Read) -> bool {
    for _ in 0..MAX_SYSLOG_READS {
        match connection.read_tls(&mut source) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
        let Ok(state) = connection.process_new_packets() else { return true };
        if state.peer_has_closed() {
            return true;
        }
        // A collector has nothing to say.
        let mut unused = vec![0; state.plaintext_bytes_to_read()];
        if connection.reader().read_exact(&mut unused).is_err() {
            return true;
        }
    }
    false
}

/// Reads what a socket has at present.
pub(super) struct WithoutWaiting<'s, S>(pub(super) &'s S);

impl<S: AsFd> Read for WithoutWaiting<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::thread;
    use std::time::Duration;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A client's and a server's side after the handshake.
    fn connected() -> (ClientConnection, ServerConnection) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(["collector".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("collector").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
            while !flight.is_empty() {
                let taken = server.read_tls(&mut &flight[..]).unwrap();
                flight.drain(..taken);
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            while !flight.is_empty() {
                let taken = client.read_tls(&mut &flight[..]).unwrap();
                flight.drain(..taken);
                client.process_new_packets().unwrap();
            }
        }
        (client, server)
    }

    /// Text of a collector that never ends.
    struct Talk {
        server: ServerConnection,
        waiting: Vec<u8>,
    }

    impl Read for Talk {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.waiting.is_empty() {
                self.server.writer().write_all(&[b'x'; 8_192])?;
                while self.server.wants_write() {
                    self.server.write_tls(&mut self.waiting)?;
                }
            }
            let count = (&self.waiting[..]).read(buffer)?;
            self.waiting.drain(..count);
            Ok(count)
        }
    }

    /// A collector that never stops talking does not keep the thread from sending, nor does its text
    /// pile up.
    #[test]
    fn a_collector_that_talks_without_end() {
        let (mut client, server) = connected();
        let check = thread::spawn(move || {
            let mut talk = Talk { server, waiting: Vec::new() };
            let ends: Vec<_> = (0..50).map(|_| is_at_end(&mut client, &mut talk)).collect();
            (ends, client.process_new_packets().unwrap().plaintext_bytes_to_read())
        });
        let end = Instant::now() + Duration::from_secs(60);
        while !check.is_finished() {
            assert!(Instant::now() < end, "it is read without end");
            thread::yield_now();
        }
        assert_eq!(check.join().unwrap(), (vec![false; 50], 0));
    }

    /// The end of a connection is found, with a close_notify or without.
    #[test]
    fn ends() {
        for says_so in [true, false] {
            let (mut client, mut server) = connected();
            let mut last = Vec::new();
            server.writer().write_all(b"bye").unwrap();
            if says_so {
                server.send_close_notify();
            }
            while server.wants_write() {
                server.write_tls(&mut last).unwrap();
            }
            assert!(is_at_end(&mut client, &last[..]));
        }
    }
}

//! The TCP connection below HTTP and TLS, and its time limits.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;

/// Returns the addresses of the endpoint's host.
///
/// # Errors
/// The name cannot be resolved.
pub fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let name = endpoint.host_name();
    let found: Vec<SocketAddr> = (name, endpoint.port).to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::other(format!("{name} has no address")));
    }
    Ok(found)
}

/// Connects to the first of these addresses that accepts.
///
/// # Errors
/// No address accepts, with the error of the last one.
pub fn connect(addresses: &[SocketAddr], timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other("no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, timeout) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket whose reads and writes fail with [`io::ErrorKind::TimedOut`] from a deadline on. The
/// limit is set before each of them, so that neither a byte at a time nor a TLS record of which a
/// piece comes now and then puts the end off.
pub(super) struct Limited {
    socket: TcpStream,
    deadline: Instant,
}

impl Limited {
    pub(super) fn new(socket: TcpStream, deadline: Instant) -> Self {
        Self { socket, deadline }
    }

    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn left(&self) -> io::Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Read for Limited {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(piece).map_err(named)
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A stream that ends by a deadline.
pub(super) trait Stream: Read + Write + Send {
    /// Sets the deadline of all reads and writes from now on.
    fn set_deadline(&mut self, deadline: Instant);
}

impl Stream for Limited {
    fn set_deadline(&mut self, deadline: Instant) {
        Limited::set_deadline(self, deadline);
    }
}

/// Gives a time-out its name: the kernel reports that of a socket as EAGAIN, "Resource temporarily
/// unavailable".
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

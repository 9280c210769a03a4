//! The TCP connection below HTTP and TLS, and its time limits.

use std::io;
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

/// Limits reading and writing to `deadline`.
pub(super) fn limit(socket: &TcpStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.set_read_timeout(Some(left))?;
    socket.set_write_timeout(Some(left))
}

//! A connection to a collector: blocking, with time-outs, for the forwarder's own thread.

use std::io::{self, ErrorKind, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Instant;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_send_buffer_size, set_socket_timeout, set_tcp_user_timeout,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::config::Address;
use super::message::Framing;
use super::tls::{TlsStream, WithoutWaiting};
use crate::limits::{
    MAX_SYSLOG_READS, SYSLOG_CONNECT_TIMEOUT, SYSLOG_SEND_BUFFER_BYTES,
    SYSLOG_UNACKNOWLEDGED_TIMEOUT, SYSLOG_WRITE_TIMEOUT,
};

pub(super) enum Connection {
    UnixDatagram(UnixDatagram),
    UnixStream(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The collector cannot be reached in time, or TLS fails.
    pub(super) fn open(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::UnixDatagram(path) => {
                Self::UnixDatagram(unix(path, SocketType::DGRAM)?.into())
            }
            Address::UnixStream(path) => Self::UnixStream(unix(path, SocketType::STREAM)?.into()),
            Address::Tcp(host_port) => Self::Tcp(tcp(host_port)?),
            Address::Tls(host_port, tls) => {
                Self::Tls(Box::new(TlsStream::open(tcp(host_port)?, tls)?))
            }
        })
    }

    /// Returns the way in which messages are told apart.
    pub(super) fn framing(address: &Address) -> Framing {
        match address {
            Address::UnixDatagram(_) => Framing::Datagram,
            Address::UnixStream(_) => Framing::Newline,
            Address::Tcp(_) | Address::Tls(..) => Framing::OctetCount,
        }
    }

    /// Sends messages; in the case of datagrams, one.
    ///
    /// # Errors
    /// The collector does not take them within [`SYSLOG_WRITE_TIMEOUT`], or the connection has
    /// failed. A stream cannot be used any more: part of a message may have been sent.
    pub(super) fn send(&mut self, messages: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + SYSLOG_WRITE_TIMEOUT;
        let mut rest = messages;
        while !rest.is_empty() {
            let sent = match self {
                Self::UnixDatagram(socket) => socket.send(rest),
                Self::UnixStream(socket) => socket.write(rest),
                Self::Tcp(socket) => socket.write(rest),
                Self::Tls(stream) => stream.write(rest, deadline),
            };
            match sent {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The socket's time-out has passed.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
            if !rest.is_empty() && Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Returns whether the collector has closed the connection. Messages sent after that would be
    /// lost without an error. Never waits.
    pub(super) fn has_ended(&mut self) -> bool {
        match self {
            // The next datagram fails instead.
            Self::UnixDatagram(_) => false,
            Self::UnixStream(socket) => is_at_end(WithoutWaiting(socket)),
            Self::Tcp(socket) => is_at_end(WithoutWaiting(socket)),
            Self::Tls(stream) => stream.has_ended(),
        }
    }

    /// Ends the connection in the way that its protocol has for it.
    pub(super) fn close(mut self) {
        if let Self::Tls(stream) = &mut self {
            stream.close();
        }
    }
}

/// Returns whether the error is about the one message, not about the connection: no collector with
/// this socket could be sent a datagram of that length.
pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error())
}

/// Reads and discards what has arrived, and returns whether the peer has ended the stream. The end
/// is not found behind more than [`MAX_SYSLOG_READS`] take.
fn is_at_end(mut stream: impl io::Read) -> bool {
    let mut unused = [0; 512];
    for _ in 0..MAX_SYSLOG_READS {
        match stream.read(&mut unused) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

/// Connects to a Unix socket. The time-out also bounds the wait for a listener whose queue is full.
fn unix(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(SYSLOG_WRITE_TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connects to the first of the host's addresses that answers.
fn tcp(host_port: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, SYSLOG_CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_write_timeout(Some(SYSLOG_WRITE_TIMEOUT))?;
                set_socket_send_buffer_size(&socket, SYSLOG_SEND_BUFFER_BYTES)?;
                socket.set_nodelay(true)?;
                // A collector that is gone without a word (a failed machine) is noticed by what it
                // does not acknowledge.
                let millis = SYSLOG_UNACKNOWLEDGED_TIMEOUT.as_millis();
                set_tcp_user_timeout(&socket, u32::try_from(millis).unwrap_or(u32::MAX))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A collector that never stops talking does not keep the thread from sending.
    #[test]
    fn a_collector_that_talks_without_end() {
        let check = thread::spawn(|| is_at_end(io::repeat(b'x')));
        let end = Instant::now() + SYSLOG_WRITE_TIMEOUT;
        while !check.is_finished() {
            assert!(Instant::now() < end, "it is read without end");
            thread::yield_now();
        }
        assert!(check.join().is_ok_and(|is_at_end| !is_at_end));
    }
}

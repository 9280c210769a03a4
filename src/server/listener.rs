//! Opening listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::TcpKeepalive;
use crate::limits::{LISTEN_BACKLOG, SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};

/// The other sockets that may listen on the address of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// None, ever.
    Alone,
    /// None before it, and afterwards those that join it: another process that listens there is
    /// found, although it may have the same option set.
    First,
    /// Those that have joined the first one.
    Joins,
}

/// Listens on `address`. If several sockets share it, the kernel spreads connections over them
/// (SO_REUSEPORT, socket(7)). Accepted sockets inherit the options set here.
///
/// # Errors
/// An error of the system calls, for instance that the address is in use.
pub(super) fn listen(
    address: SocketAddr,
    sharing: Sharing,
    keepalive: Option<TcpKeepalive>,
) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait until the old process's connections leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Joins)?;
    if address.is_ipv6() && address.ip() == IpAddr::from([0_u16; 8]) {
        socket.set_only_v6(false)?;
    }
    set_options(&socket, keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    if sharing == Sharing::First {
        // Only now: the kernel compares the options of both sockets when one is bound and again
        // when it begins to listen, so of two processes that start together one fails.
        socket.set_reuse_port(true)?;
    }
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

/// Listens on a socket that another process has bound; connections may already wait in its queue.
///
/// # Errors
/// An error of the system calls.
pub(super) fn adopt(
    socket: impl Into<OwnedFd>,
    keepalive: Option<TcpKeepalive>,
) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::from(socket.into());
    socket.set_nonblocking(true)?;
    set_options(&socket, keepalive)?;
    // listen(2) again sets the length of its queue; systemd's default was 128 once.
    socket.listen(LISTEN_BACKLOG)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

fn set_options(socket: &Socket, keepalive: Option<TcpKeepalive>) -> io::Result<()> {
    // Bounds what the kernel holds for peers that don't read, or that send ahead.
    socket.set_send_buffer_size(SOCKET_SEND_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_RECEIVE_BYTES)?;
    // An answer is one write; Nagle's algorithm would delay a second one.
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        let mut options = socket2::TcpKeepalive::new().with_time(keepalive.idle);
        if let Some(interval) = keepalive.interval {
            options = options.with_interval(interval);
        }
        if let Some(retries) = keepalive.retries {
            options = options.with_retries(retries);
        }
        socket.set_tcp_keepalive(&options)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn in_use(address: SocketAddr, sharing: Sharing) -> bool {
        let error = listen(address, sharing, None).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    /// The sockets of one process share an address, and another process's first socket finds them,
    /// also if one of the two listens on all interfaces.
    #[test]
    fn an_address_has_one_process() {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first = listen(any_port, Sharing::First, None).unwrap();
        let address = first.local_addr().unwrap();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        for address in [address, everywhere] {
            assert!(in_use(address, Sharing::First) && in_use(address, Sharing::Alone));
        }
        let second = listen(address, Sharing::Joins, None).unwrap();
        assert!(in_use(address, Sharing::First));
        drop(first);
        assert!(in_use(address, Sharing::First), "while any of them is open");
        drop(second);
        assert!(!in_use(address, Sharing::First));
    }
}

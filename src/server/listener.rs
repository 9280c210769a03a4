//! Opening listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::TcpKeepalive;
use crate::limits::{LISTEN_BACKLOG, SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};

/// Listens on `address`. If `shared`, several sockets may listen there, and the kernel spreads
/// connections over them (SO_REUSEPORT, socket(7)). Accepted sockets inherit the options set here.
///
/// # Errors
/// An error of the system calls, for instance that the address is in use.
pub(super) fn listen(
    address: SocketAddr,
    shared: bool,
    keepalive: Option<TcpKeepalive>,
) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait until the old process's connections leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() && address.ip() == IpAddr::from([0_u16; 8]) {
        socket.set_only_v6(false)?;
    }
    set_options(&socket, keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
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

//! Distribution of listening sockets over event loops.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};

use super::accept_share::AcceptShare;
use super::config::Config;
use super::listener::{self, Sharing};
use super::listening_socket::ListeningSocket;
use crate::proto::Listener;

/// Listening sockets that systemd or the previous process has bound. If there are none, the server
/// binds its own.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets for the API; several with the same address have SO_REUSEPORT.
    pub api: Vec<TcpListener>,
    /// Sockets for `/ping` on its own port.
    pub ping: Vec<TcpListener>,
}

/// Assigns listening sockets to event loops, and keeps a descriptor of each.
pub(super) struct Sockets<'a> {
    config: &'a Config,
    kept: Vec<(Listener, OwnedFd)>,
}

impl<'a> Sockets<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, kept: Vec::new() }
    }

    pub(super) fn kept(self) -> Vec<(Listener, OwnedFd)> {
        self.kept
    }

    /// Opens a socket for each loop.
    pub(super) fn listen_for_all(
        &mut self,
        listeners: &mut [Vec<ListeningSocket>],
        mut address: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let is_shared = listeners.len() > 1;
        for index in 0..listeners.len() {
            let sharing = match (is_shared, index) {
                (false, _) => Sharing::Alone,
                (true, 0) => Sharing::First,
                (true, _) => Sharing::Joins,
            };
            // With port 0, all loops use the port that the first one gets.
            let socket = listener::listen(address, sharing, self.config.tcp_keepalive)?;
            address = self.add(listeners, index, socket, Listener::Api, None)?;
        }
        Ok(address)
    }

    /// Assigns each socket to a loop, and to each loop a socket or a share of one.
    pub(super) fn spread(
        &mut self,
        listeners: &mut [Vec<ListeningSocket>],
        sockets: Vec<TcpListener>,
    ) -> io::Result<SocketAddr> {
        let loops = listeners.len();
        let count = sockets.len();
        let mut address = SocketAddr::new(self.config.ip, self.config.port);
        for (index, socket) in sockets.into_iter().enumerate() {
            let users: Vec<usize> = match index < loops {
                true => (index..loops).step_by(count).collect(),
                false => vec![index % loops],
            };
            if let [only] = users[..] {
                let socket = listener::adopt(socket, self.config.tcp_keepalive)?;
                address = self.add(listeners, only, socket, Listener::Api, None)?;
                continue;
            }
            for (nth, (user, share)) in
                users.iter().zip(AcceptShare::split(users.len())).enumerate()
            {
                let socket = listener::adopt(socket.try_clone()?, self.config.tcp_keepalive)?;
                address = self.add(listeners, *user, socket, Listener::Api, Some(share))?;
                if nth > 0 {
                    // The same socket is handed on only once.
                    self.kept.pop();
                }
            }
        }
        Ok(address)
    }

    pub(super) fn add(
        &mut self,
        listeners: &mut [Vec<ListeningSocket>],
        index: usize,
        socket: mio::net::TcpListener,
        listener: Listener,
        share: Option<AcceptShare>,
    ) -> io::Result<SocketAddr> {
        let address = socket.local_addr()?;
        self.kept.push((listener, socket.as_fd().try_clone_to_owned()?));
        let tls = match listener {
            Listener::Api => self.config.tls.clone(),
            Listener::Ping => None,
        };
        if let Some(listeners) = listeners.get_mut(index) {
            listeners.push(ListeningSocket::new(socket, listener, tls, share));
        }
        Ok(address)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn spread(sockets: usize, loops: usize) -> (Vec<usize>, usize) {
        let config = Config::local();
        let mut listeners: Vec<Vec<ListeningSocket>> = (0..loops).map(|_| Vec::new()).collect();
        let given = (0..sockets).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let mut placed = Sockets::new(&config);
        placed.spread(&mut listeners, given).unwrap();
        (listeners.iter().map(Vec::len).collect(), placed.kept().len())
    }

    /// For any numbers of sockets and loops, every socket has a loop, every loop has a socket, and
    /// each socket is handed on once.
    #[test]
    fn any_number_for_any_number() {
        assert_eq!(spread(1, 1), (vec![1], 1));
        assert_eq!(spread(1, 3), (vec![1, 1, 1], 1));
        assert_eq!(spread(2, 5), (vec![1; 5], 2));
        assert_eq!(spread(3, 3), (vec![1, 1, 1], 3));
        assert_eq!(spread(5, 2), (vec![3, 2], 5));
        assert_eq!(spread(64, 1), (vec![64], 64));
    }
}

//! What a load balancer says before all else.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Instant;

use super::{Fate, Peer, Phase};
use crate::limits::MAX_PROXY_HEADER_BYTES;
use crate::proto::Listener;
use crate::proto::proxy_header::{self, ProxyHeaderError};
use crate::server::turn::Turn;

impl Peer {
    /// Reads what a load balancer says before all else, and goes on to the next phase; else the
    /// connection's fate. The bytes stay in the socket until they are whole.
    pub(super) fn take_proxy_header(&mut self, since: Instant, turn: &mut Turn) -> Option<Fate> {
        let into = &mut turn.scratch[..MAX_PROXY_HEADER_BYTES];
        let received = match self.stream.peek(into) {
            Ok(0) => return Some(Fate::Ends),
            Ok(received) => &into[..received],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Some(Fate::Stays);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return None,
            Err(_) => return Some(Fate::Ends),
        };
        match proxy_header::parse(received) {
            Ok(Some(header)) => {
                let into = &mut turn.scratch[..header.length];
                if self.stream.read_exact(into).is_err() {
                    return Some(Fate::Ends);
                }
                if let Some((ip, port)) = header.source {
                    self.address = SocketAddr::new(ip, port);
                    self.connection.set_peer(ip);
                    if !self.ticket.count(ip) {
                        turn.note_too_many(self.address);
                        return Some(Fate::Ends);
                    }
                }
            }
            // What comes next is told anew.
            Ok(None) if !self.is_read_closed => {
                self.is_readable = false;
                return Some(Fate::Stays);
            }
            Ok(None) => return Some(Fate::Ends),
            // The same network's probes may come through the load balancer or not.
            Err(ProxyHeaderError::Missing) if self.listener() == Listener::Ping => {}
            Err(error) => {
                turn.note_bad_proxy_header(self.address, &error);
                return Some(Fate::Ends);
            }
        }
        self.phase = match self.tls {
            Some(_) => Phase::Handshake { since, is_answered: false },
            None => Phase::Open,
        };
        None
    }
}

//! Taking connections in.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};

use super::Running;
use crate::limits::{
    ACCEPT_PAUSE, ACCEPT_PAUSE_LOG_INTERVAL, LISTEN_BACKLOG, MAX_ACCEPTS_PER_TURN,
};
use crate::proto::{Connection, Listener};
use crate::server::admission::Ticket;
use crate::server::peer::Peer;
use crate::server::tls::Acceptor;

/// A listening socket and what comes in by it.
pub(in crate::server) struct Listening {
    pub(super) socket: TcpListener,
    pub(super) listener: Listener,
    /// For connections that come from now on.
    pub(super) tls: Option<Acceptor>,
    /// A connection for which there was no place.
    in_hand: Option<(TcpStream, SocketAddr)>,
    /// Connections may be waiting: edge-triggered readiness is remembered.
    pub(super) is_ready: bool,
    /// After a failure, for instance for want of descriptors, when to try again.
    pub(super) paused_until: Option<Instant>,
    /// When the log last said so.
    pause_logged: Option<Instant>,
}

impl Listening {
    pub(in crate::server) fn new(
        socket: TcpListener,
        listener: Listener,
        tls: Option<Acceptor>,
    ) -> Self {
        Self {
            socket,
            listener,
            tls,
            in_hand: None,
            is_ready: false,
            paused_until: None,
            pause_logged: None,
        }
    }

    /// Those who wait do so in the kernel's queue.
    fn pause(&mut self, now: Instant, reason: &dyn std::fmt::Display) {
        self.paused_until = Some(now + ACCEPT_PAUSE);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= ACCEPT_PAUSE_LOG_INTERVAL;
        if self.pause_logged.is_none_or(is_due) {
            self.pause_logged = Some(now);
            tracing::error!(%reason, "accepting connections pauses");
        }
    }
}

impl Running {
    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..MAX_ACCEPTS_PER_TURN {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
    }

    /// Whether there may be another.
    fn accept_one(&mut self, index: usize) -> bool {
        let now = self.turn.moment.now;
        let Some(listening) = self.listeners.get_mut(index).filter(|listening| listening.is_ready)
        else {
            return false;
        };
        if listening.paused_until.is_some_and(|until| until > now) {
            return false;
        }
        listening.paused_until = None;
        let accepted = listening.in_hand.take().map_or_else(|| listening.socket.accept(), Ok);
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    listening.is_ready = false;
                    return false;
                }
                // The peer has gone again, or a signal came.
                ErrorKind::ConnectionAborted | ErrorKind::Interrupted => return true,
                // No descriptor or no memory: asking again at once would only spin.
                _ => {
                    listening.pause(now, &error);
                    self.turn.protocol.metrics.accept_pauses.add(1);
                    return false;
                }
            },
        };
        let listener = listening.listener;
        if let Some(ticket) = self.place_for_one_more(listener) {
            self.take_in(index, stream, address, ticket);
            return true;
        }
        if let Some(listening) = self.listeners.get_mut(index) {
            listening.in_hand = Some((stream, address));
            listening.pause(now, &"the limit of connections is reached, and all are at work");
        }
        self.turn.protocol.metrics.accept_pauses.add(1);
        false
    }

    fn place_for_one_more(&mut self, listener: Listener) -> Option<Ticket> {
        let ticket = self.turn.admission.admit(listener);
        if ticket.is_none() && self.make_room_for_connections(listener) {
            return self.turn.admission.admit(listener);
        }
        ticket
    }

    fn take_in(
        &mut self,
        index: usize,
        stream: TcpStream,
        address: SocketAddr,
        mut ticket: Ticket,
    ) {
        let now = self.turn.moment.now;
        let Some(listening) = self.listeners.get(index) else {
            return;
        };
        let is_proxied = self.turn.admission.is_proxy(address.ip());
        if !is_proxied && !ticket.count(address.ip()) {
            self.turn.note_too_many(address);
            return;
        }
        let tls = match listening.tls.as_ref().map(Acceptor::accept).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(%error, "a TLS session cannot begin");
                return;
            }
        };
        let connection = Connection::new(listening.listener, Some(address.ip()), now);
        self.next_number += 1;
        let number = self.next_number;
        let entry = self.peers.vacant_entry();
        let slot = entry.key();
        let stream = (stream, address);
        let peer =
            entry.insert(Peer::new(stream, ticket, is_proxied, number, tls, connection, now));
        self.turn.protocol.metrics.connections_accepted.add(1);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(peer.stream(), Token(slot), interest) {
            tracing::error!(%error, "a connection cannot be watched");
            self.end(slot);
            return;
        }
        // What the peer has sent already may be read at once.
        self.with_peer(slot, |peer, turn| peer.on_readable(false, turn));
    }

    /// Takes in what waits in the listeners' queues, closes them, and ends idle connections.
    pub(super) fn end_accepting(&mut self) {
        for listening in &mut self.listeners {
            listening.is_ready = true;
            listening.paused_until = None;
        }
        for index in 0..self.listeners.len() {
            // No more than the kernel's queue holds, or a flood of connections could go on.
            for _ in 0..LISTEN_BACKLOG {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
        self.listeners.clear();
        let idle: Vec<usize> =
            self.peers.iter().filter(|(_, peer)| peer.is_idle()).map(|(slot, _)| slot).collect();
        for slot in idle {
            self.end(slot);
        }
    }
}

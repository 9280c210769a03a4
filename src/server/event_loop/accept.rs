//! Taking connections in.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};

use super::Running;
use crate::limits::{
    ACCEPT_PAUSE, ACCEPT_PAUSE_LOG_INTERVAL, ACCEPT_YIELD, LISTEN_BACKLOG, MAX_ACCEPTS_PER_TURN,
};
use crate::proto::{Connection, Listener};
use crate::server::admission::Ticket;
use crate::server::peer::{Fate, Peer};
use crate::server::tls::Acceptor;

/// A listening socket and what comes in by it.
pub(in crate::server) struct Listening {
    pub(super) socket: TcpListener,
    pub(super) listener: Listener,
    /// For connections that come from now on.
    pub(super) tls: Option<Acceptor>,
    share: Option<Share>,
    /// A connection for which there was no place.
    in_hand: Option<(TcpStream, SocketAddr)>,
    /// Connections may be waiting: edge-triggered readiness is remembered.
    pub(super) is_ready: bool,
    /// After a failure, for instance for want of descriptors, when to try again.
    pub(super) paused_until: Option<Instant>,
    /// When the log last said so.
    pause_logged: Option<Instant>,
}

/// A loop's share in a socket that several loops accept from. The kernel tells all of them of each
/// connection, and the first to ask for it gets it; left alone, that would often be the same one.
pub(in crate::server) struct Share {
    /// Connections of each loop.
    loads: Arc<[AtomicUsize]>,
    /// This loop's place among them.
    index: usize,
    /// The next one has been left to the others for as long as it may be.
    has_yielded: bool,
}

impl Share {
    /// A share for each of `loops`.
    pub(in crate::server) fn split(loops: usize) -> Vec<Self> {
        let loads: Arc<[AtomicUsize]> = (0..loops).map(|_| AtomicUsize::new(0)).collect();
        let share = |index| Self { loads: Arc::clone(&loads), index, has_yielded: false };
        (0..loops).map(share).collect()
    }

    /// Whether to leave the next connection to a loop that has fewer, once. A loop that does not
    /// take its turn is not waited for.
    fn yields(&mut self, load: usize) -> bool {
        if let Some(own) = self.loads.get(self.index) {
            own.store(load, Ordering::Relaxed);
        }
        let has_fewer = |other: &AtomicUsize| other.load(Ordering::Relaxed) < load;
        self.has_yielded = !self.has_yielded && self.loads.iter().any(has_fewer);
        self.has_yielded
    }
}

impl Listening {
    pub(in crate::server) fn new(
        socket: TcpListener,
        listener: Listener,
        tls: Option<Acceptor>,
        share: Option<Share>,
    ) -> Self {
        Self {
            socket,
            listener,
            tls,
            share,
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
            // What is shared is taken one by one, so that a busy loop takes fewer.
            let is_shared = self.listeners.get(index).is_some_and(|it| it.share.is_some());
            for _ in 0..if is_shared { 1 } else { MAX_ACCEPTS_PER_TURN } {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
    }

    /// Whether there may be another.
    fn accept_one(&mut self, index: usize) -> bool {
        let now = self.context.snapshot.now;
        let load = self.peers.len();
        let Some(listening) = self.listeners.get_mut(index).filter(|listening| listening.is_ready)
        else {
            return false;
        };
        if listening.paused_until.is_some_and(|until| until > now) {
            return false;
        }
        listening.paused_until = None;
        if !self.context.snapshot.is_stopping
            && listening.share.as_mut().is_some_and(|it| it.yields(load))
        {
            listening.paused_until = Some(now + ACCEPT_YIELD);
            return false;
        }
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
                    self.context.loop_state.metrics.accept_pauses.add(1);
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
        self.context.loop_state.metrics.accept_pauses.add(1);
        false
    }

    fn place_for_one_more(&mut self, listener: Listener) -> Option<Ticket> {
        let ticket = self.context.admission.admit(listener);
        if ticket.is_none() && self.evict_for_connections(listener) {
            return self.context.admission.admit(listener);
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
        let now = self.context.snapshot.now;
        let Some(listening) = self.listeners.get(index) else {
            return;
        };
        let is_proxied = self.context.admission.is_proxy(address.ip());
        if !is_proxied && !ticket.count(address.ip()) {
            self.context.note_too_many(address);
            return;
        }
        let tls = match listening.tls.as_ref().map(Acceptor::accept).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(%error, "a TLS session cannot begin");
                return;
            }
        };
        let connection =
            Connection::new(listening.listener, Some(address.ip()), &self.context.snapshot);
        self.next_number += 1;
        let number = self.next_number;
        let entry = self.peers.vacant_entry();
        let slot = entry.key();
        let stream = (stream, address);
        let peer =
            entry.insert(Peer::new(stream, ticket, is_proxied, number, tls, connection, now));
        self.context.loop_state.metrics.connections_accepted.add(1);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(peer.stream(), Token(slot), interest) {
            tracing::error!(%error, "a connection cannot be watched");
            self.end(slot);
            return;
        }
        // What the peer has sent already may be read at once.
        self.with_peer(slot, |peer, context| peer.read_at_once(context));
    }

    /// Closes this process's descriptors of sockets that another one accepts from. A connection for
    /// which there was no place is in no queue any more where that one would find it, so it gets
    /// one now if it can be had.
    pub(super) fn let_go_of_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            let Some(listening) = self.listeners.get_mut(index) else { break };
            let listener = listening.listener;
            if let Some((stream, address)) = listening.in_hand.take()
                && let Some(ticket) = self.place_for_one_more(listener)
            {
                self.take_in(index, stream, address, ticket);
            }
        }
        for mut listening in self.listeners.drain(..) {
            // A socket that is still open elsewhere would stay in the epoll set. It is in there.
            let _ = self.poll.registry().deregister(&mut listening.socket);
        }
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
        self.let_go_of_listeners();
        let slots: Vec<usize> = self.peers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            // What has come is read first. Then the deadline, which is another one from now on.
            self.with_peer(slot, |peer, context| match peer.read_at_once(context) {
                Fate::Stays if peer.deadline(context) <= context.snapshot.now => {
                    peer.on_deadline(context)
                }
                fate => fate,
            });
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The loop that has more leaves one to the other, but not for ever.
    #[test]
    fn shares() {
        let mut shares = Share::split(2);
        let mut second = shares.pop().unwrap();
        let mut first = shares.pop().unwrap();
        assert!(!first.yields(0));
        assert!(first.yields(1));
        assert!(!first.yields(1), "nobody took it");
        assert!(!second.yields(0));
        assert!(!second.yields(1), "as many");
        assert!(second.yields(2));
    }
}

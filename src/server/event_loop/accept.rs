//! Accepting connections.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::Running;
use crate::limits::{ACCEPT_YIELD, LISTEN_BACKLOG};
use crate::proto::{Connection, Listener};
use crate::server::admission::ConnectionPermit;
use crate::server::config::ProxyProtocol;
use crate::server::listening_socket::ListeningSocket;
use crate::server::network::canonical;
use crate::server::peer::{Fate, Peer};
use crate::server::tls::Acceptor;
use crate::server::waiting::List;

impl Running {
    /// Returns whether connections may be waiting to be accepted now.
    pub(super) fn may_accept(&self) -> bool {
        let now = self.context.snapshot.now;
        let may = |it: &ListeningSocket| it.is_ready && it.paused_until.is_none_or(|at| at <= now);
        self.listeners.iter().any(may)
    }

    /// Time for which the kernel's queue of a listener of the API has not been empty.
    pub(super) fn longest_backlog(&self) -> Duration {
        let now = self.context.snapshot.now;
        let of_api = self.listeners.iter().filter(|it| it.listener == Listener::Api);
        let since = of_api.filter_map(|listening| listening.ready_since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Accepts a connection from each listener. A shared socket's connections are accepted one in a
    /// turn, so that a busy loop gets fewer.
    pub(super) fn accept(&mut self, is_first_in_turn: bool) {
        for index in 0..self.listeners.len() {
            let is_shared = self.listeners.get(index).is_some_and(|it| it.share.is_some());
            if is_first_in_turn || !is_shared {
                self.accept_one(index);
            }
        }
    }

    /// Accepts one connection, and returns whether there may be another.
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
        listening.note_ready(now);
        if !self.context.snapshot.is_stopping
            && listening.share.as_mut().is_some_and(|it| it.yields(load))
        {
            listening.paused_until = Some(now + ACCEPT_YIELD);
            return false;
        }
        let accepted = listening.unplaced.take().map_or_else(|| listening.socket.accept(), Ok);
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, canonical(address)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    listening.note_empty();
                    return false;
                }
                // The peer has disconnected, or a signal has arrived.
                ErrorKind::ConnectionAborted | ErrorKind::Interrupted => return true,
                // Out of descriptors or memory: trying again at once would only spin.
                _ => {
                    listening.pause(now, &error);
                    self.context.loop_state.metrics.accept_pauses.add(1);
                    return false;
                }
            },
        };
        let listener = listening.listener;
        if let Some(permit) = self.permit_one_more(listener) {
            self.add_peer(index, stream, address, permit);
            return true;
        }
        if let Some(listening) = self.listeners.get_mut(index) {
            listening.unplaced = Some((stream, address));
            listening.pause(now, &"the limit of connections is reached, and none may be evicted");
        }
        self.context.loop_state.metrics.accept_pauses.add(1);
        false
    }

    fn permit_one_more(&mut self, listener: Listener) -> Option<ConnectionPermit> {
        let permit = self.context.admission.admit(listener);
        if permit.is_none() && self.evict_for_connections(listener) {
            return self.context.admission.admit(listener);
        }
        permit
    }

    fn add_peer(
        &mut self,
        index: usize,
        stream: TcpStream,
        address: SocketAddr,
        mut permit: ConnectionPermit,
    ) {
        let now = self.context.snapshot.now;
        let Some(listening) = self.listeners.get(index) else {
            return;
        };
        // Only where a header is required does its address count, and then instead of this one.
        let headers = self.context.admission.proxy_protocol(address.ip());
        if headers != Some(ProxyProtocol::Require) && !permit.count(address.ip()) {
            self.context.note_too_many(address);
            return;
        }
        let tls = match listening.tls.as_ref().map(Acceptor::start_session).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(%error, "connection closed: a TLS session cannot be started");
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
        let peer = entry.insert(Peer::new(stream, permit, headers, number, tls, connection, now));
        self.context.loop_state.metrics.connections_accepted.add(1);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(peer.stream(), Token(slot), interest) {
            tracing::error!(%error, "a connection cannot be registered for events");
            self.end(slot);
            return;
        }
        // Bytes that the peer has sent already can be read at once, unless others wait: then the
        // kernel's event comes first, which also tells whether the peer has left. Until then only
        // its timer is set.
        let list = self.peers.get(slot).map_or(List::Unproven, Peer::list);
        if self.congestion.is_congested(list) {
            self.with_peer(slot, |_, _| Fate::Stays);
        } else {
            self.with_peer(slot, |peer, context| peer.read_at_once(context));
        }
    }

    /// Closes this process's descriptors of sockets that another process accepts from. A connection
    /// that was accepted but not admitted is in no queue where the other process would find it, so
    /// it is admitted now if possible.
    pub(super) fn release_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            let Some(listening) = self.listeners.get_mut(index) else { break };
            let listener = listening.listener;
            if let Some((stream, address)) = listening.unplaced.take()
                && let Some(permit) = self.permit_one_more(listener)
            {
                self.add_peer(index, stream, address, permit);
            }
        }
        for mut listening in self.listeners.drain(..) {
            // A socket that is still open elsewhere would stay in the epoll set. It is registered,
            // so this does not fail.
            let _ = self.poll.registry().deregister(&mut listening.socket);
        }
    }

    /// Accepts the connections that wait in the listeners' queues, closes the listeners, and ends
    /// idle connections.
    pub(super) fn end_accepting(&mut self) {
        for listening in &mut self.listeners {
            listening.note_ready(self.context.snapshot.now);
            listening.paused_until = None;
        }
        for index in 0..self.listeners.len() {
            // Limited to the length of the kernel's queue: a flood of connections could keep this
            // loop going.
            for _ in 0..LISTEN_BACKLOG {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
        self.release_listeners();
        let slots: Vec<usize> = self.peers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            // Bytes that have arrived are read first. From now on a shorter deadline applies.
            self.with_peer(slot, |peer, context| match peer.read_at_once(context) {
                Fate::Stays if peer.deadline(context) <= context.snapshot.now => {
                    peer.on_deadline(context)
                }
                fate => fate,
            });
        }
    }
}

//! A listening socket of an event loop.

use std::net::SocketAddr;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};

use super::accept_share::AcceptShare;
use super::tls::Acceptor;
use crate::limits::{ACCEPT_PAUSE, ACCEPT_PAUSE_LOG_INTERVAL};
use crate::proto::Listener;

/// A listening socket, and the state of accepting from it.
pub(super) struct ListeningSocket {
    pub(super) socket: TcpListener,
    pub(super) listener: Listener,
    /// Used for connections accepted from now on.
    pub(super) tls: Option<Acceptor>,
    pub(super) share: Option<AcceptShare>,
    /// A connection that was accepted but could not be admitted.
    pub(super) unplaced: Option<(TcpStream, SocketAddr)>,
    /// Connections may be waiting: edge-triggered readiness is remembered.
    pub(super) is_ready: bool,
    /// Time since which connections may have been waiting without a pause: longer than an instant
    /// means that the kernel's queue does not empty, and that its connections are old.
    pub(super) ready_since: Option<Instant>,
    /// Time at which to try again after a failure, for instance for lack of descriptors.
    pub(super) paused_until: Option<Instant>,
    /// Time at which a pause was last logged.
    pause_logged: Option<Instant>,
}

impl ListeningSocket {
    pub(super) fn new(
        socket: TcpListener,
        listener: Listener,
        tls: Option<Acceptor>,
        share: Option<AcceptShare>,
    ) -> Self {
        Self {
            socket,
            listener,
            tls,
            share,
            unplaced: None,
            is_ready: false,
            ready_since: None,
            paused_until: None,
            pause_logged: None,
        }
    }

    /// Records that connections may be waiting.
    pub(super) fn note_ready(&mut self, now: Instant) {
        self.is_ready = true;
        self.ready_since.get_or_insert(now);
    }

    /// Records that none is waiting.
    pub(super) fn note_empty(&mut self) {
        self.is_ready = false;
        self.ready_since = None;
    }

    /// Stops accepting for a while; connections wait in the kernel's queue, though not for CPU time.
    pub(super) fn pause(&mut self, now: Instant, reason: &dyn std::fmt::Display) {
        self.ready_since = None;
        self.paused_until = Some(now + ACCEPT_PAUSE);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= ACCEPT_PAUSE_LOG_INTERVAL;
        if self.pause_logged.is_none_or(is_due) {
            self.pause_logged = Some(now);
            tracing::error!(%reason, "accepting connections pauses");
        }
    }
}

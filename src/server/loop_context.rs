//! The context in which a connection works during a turn of its event loop.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::admission::Admission;
use super::tls::{Outgoing, TlsSession};
use crate::hsm::Hsm;
use crate::job::Job;
use crate::limits::{MAX_REFUSALS_LOGGED_PER_SEC, READ_SCRATCH_BYTES};
use crate::proto::{LoopState, Snapshot};
use crate::rate::PerSecond;

/// An event loop's state without its connections.
pub(super) struct LoopContext {
    pub(super) snapshot: Snapshot,
    pub(super) loop_state: LoopState,
    pub(super) hsm: Arc<Hsm>,
    pub(super) admission: Arc<Admission>,
    /// Received bytes before they enter a connection's buffer.
    pub(super) scratch: Box<[u8]>,
    /// TLS records before they are written to a socket.
    pub(super) outgoing: Outgoing,
    /// Jobs for the HSM.
    pub(super) jobs: Vec<Job>,
    /// Slot of the connection that is being served.
    pub(super) slot: usize,
    /// Time at which that connection became ready.
    pub(super) ready_since: Instant,
    /// Number of answers that it may still get in this turn.
    pub(super) answers_left: u32,
    /// The expensive part of a TLS handshake may be done now.
    pub(super) may_handshake: bool,
    /// Memory that connections hold besides their receive buffers.
    pub(super) held_bytes: usize,
    /// Memory that connections hold from which no authentic request has come.
    pub(super) unproven_bytes: usize,
    /// Time at which quiet connections are closed, once the process stops.
    pub(super) quiet_until: Option<Instant>,
    handshakes: PerSecond<Instant>,
    proxy_headers: PerSecond<Instant>,
    addresses: PerSecond<Instant>,
    evictions: PerSecond<Instant>,
}

impl LoopContext {
    pub(super) fn new(
        snapshot: Snapshot,
        loop_state: LoopState,
        hsm: Arc<Hsm>,
        admission: Arc<Admission>,
    ) -> Self {
        // Limited, so that strangers cannot fill the log.
        let limit = || PerSecond::new(MAX_REFUSALS_LOGGED_PER_SEC);
        Self {
            ready_since: snapshot.now,
            handshakes: limit(),
            proxy_headers: limit(),
            addresses: limit(),
            evictions: limit(),
            snapshot,
            loop_state,
            hsm,
            admission,
            scratch: vec![0; READ_SCRATCH_BYTES].into_boxed_slice(),
            outgoing: Outgoing::default(),
            jobs: Vec::new(),
            slot: 0,
            answers_left: 0,
            may_handshake: false,
            held_bytes: 0,
            unproven_bytes: 0,
            quiet_until: None,
        }
    }

    /// Collects a job until the next submission to the HSM side.
    pub(super) fn submit(&mut self, mut job: Job) {
        job.reply_to.slot = u32::try_from(self.slot).unwrap_or(u32::MAX);
        self.jobs.push(job);
    }

    /// Wipes the remains of a connection that could not finish its turn.
    pub(super) fn wipe(&mut self) {
        self.loop_state.reset();
        self.outgoing.clear();
        self.scratch.fill(0);
    }

    /// Memory that this loop's connections hold, in bytes.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.loop_state.held_bytes() + self.held_bytes
    }

    /// Counts a session that ends before its handshake is complete.
    pub(super) fn count_unfinished_handshake(&self, tls: Option<&TlsSession>) {
        if tls.is_some_and(TlsSession::is_handshaking) {
            self.loop_state.metrics.tls_handshake_failures.add(1);
        }
    }

    /// Logs a failed handshake: a refused client certificate is reported nowhere else.
    pub(super) fn note_failed_handshake(&mut self, peer: SocketAddr, error: &dyn fmt::Display) {
        if let Some(left_out) = self.handshakes.admit(self.snapshot.now) {
            tracing::info!(%peer, %error, left_out, "TLS handshake failed");
        }
    }

    pub(super) fn note_bad_proxy_header(&mut self, peer: SocketAddr, error: &dyn fmt::Display) {
        if let Some(left_out) = self.proxy_headers.admit(self.snapshot.now) {
            tracing::warn!(%peer, %error, left_out, "PROXY protocol header refused");
        }
    }

    pub(super) fn note_too_many(&mut self, peer: SocketAddr) {
        self.loop_state.metrics.connections_refused.add(1);
        if let Some(left_out) = self.addresses.admit(self.snapshot.now) {
            tracing::warn!(
                %peer, left_out,
                "connection refused: the address has its max_connections_per_address already"
            );
        }
    }

    pub(super) fn note_evictions(&mut self, count: usize, reason: &str) {
        self.loop_state.metrics.connections_evicted.add(count as u64);
        if let Some(left_out) = self.evictions.admit(self.snapshot.now) {
            tracing::warn!(count, reason, left_out, "connections ended to make room");
        }
    }
}

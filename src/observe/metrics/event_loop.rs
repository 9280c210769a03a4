//! The counters of one event loop.

use super::counter::{Counter, Gauge};
use super::histogram::Histogram;
use super::labels::CallLabel;
use super::outcomes::Outcomes;

/// How long calls of one kind took.
#[derive(Debug, Default)]
pub struct Durations {
    /// Waiting for a session.
    pub queue: Histogram,
    /// In the HSM, all attempts together.
    pub hsm: Histogram,
    /// From the request's first byte to the answer.
    pub total: Histogram,
}

/// One event loop's own counters: it alone writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopMetrics {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Of these, those that have ended.
    pub connections_closed: Counter,
    /// Connections ended at once: their address had as many as it may have.
    pub connections_refused: Counter,
    /// Connections ended to make room for others.
    pub connections_evicted: Counter,
    /// Times that accepting paused: at the limit of connections or of descriptors.
    pub accept_pauses: Counter,
    /// TLS handshakes that came to their end.
    pub tls_handshakes: Counter,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    /// Requests turned away unseen, since the loop cannot keep up with what comes.
    pub congestion_refusals: Counter,
    /// Requests that wait for the HSM's answer.
    pub in_flight: Gauge,
    /// Times that the policy was evaluated.
    pub policy_evaluations: Counter,
    /// Times that what it had decided before was remembered.
    pub policy_decisions_remembered: Counter,
    /// Requests that reached no store.
    pub storeless: Outcomes,
    /// Indexed by [`CallLabel`].
    durations: [Durations; CallLabel::ALL.len()],
}

impl LoopMetrics {
    /// Returns the durations of a call.
    #[must_use]
    pub fn durations(&self, call: CallLabel) -> &Durations {
        &self.durations[call as usize]
    }
}

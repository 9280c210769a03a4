//! The counters of one event loop.

use super::counter::{Counter, Gauge};
use super::histogram::Histogram;
use super::labels::CallLabel;
use super::outcomes::Outcomes;

/// The durations of one kind of call.
#[derive(Debug, Default)]
pub struct Durations {
    /// Time in the queue, waiting for a session.
    pub queue: Histogram,
    /// Time in the HSM, all attempts together.
    pub hsm: Histogram,
    /// Time from the request's first byte to the answer.
    pub total: Histogram,
}

/// The counters of one event loop, which only its thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopMetrics {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Accepted connections that have ended.
    pub connections_closed: Counter,
    /// Connections closed at once, as their address had reached its limit.
    pub connections_refused: Counter,
    /// Connections closed to make room for others.
    pub connections_evicted: Counter,
    /// Pauses in accepting, at the limit of connections or of descriptors.
    pub accept_pauses: Counter,
    /// TLS handshakes completed.
    pub tls_handshakes: Counter,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    /// Requests refused unread, as the event loop was overloaded.
    pub congestion_refusals: Counter,
    /// Requests that wait for the HSM's answer.
    pub in_flight: Gauge,
    /// Evaluations of the policy.
    pub policy_evaluations: Counter,
    /// Decisions of the policy taken from memory.
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

//! The counters of one event loop.

use std::sync::Arc;

use super::clock_skew::ClockSkew;
use super::counter::{Counter, Gauge};
use super::histogram::Histogram;
use super::labels::CallLabel;
use super::outcomes::Outcomes;

/// The durations of one kind of call.
#[derive(Debug, Default)]
pub struct Durations {
    /// Time in the queue, waiting for a session.
    pub queue: Histogram,
    /// Time in the HSM, summed over all attempts.
    pub hsm: Histogram,
    /// Time from the request's first byte to the answer.
    pub total: Histogram,
}

/// The counters of one event loop, which only its own thread updates.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopMetrics {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Accepted connections that have been closed.
    pub connections_closed: Counter,
    /// Connections closed at once because their address had reached its limit.
    pub connections_refused: Counter,
    /// Connections closed to free resources for others.
    pub connections_evicted: Counter,
    /// Connections to the API that began with a PROXY protocol header.
    pub proxied: Counter,
    /// Connections to the API that could have begun with a PROXY protocol header, but did not.
    pub unproxied: Counter,
    /// Pauses in accepting because the limit of connections or of descriptors was reached.
    pub accept_pauses: Counter,
    /// TLS handshakes completed.
    pub tls_handshakes: Counter,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    /// Requests refused without being read because the event loop was overloaded.
    pub congestion_refusals: Counter,
    /// Connections ended unread because their peers had closed them by the time the event loop, which
    /// was overloaded, came to them.
    pub given_up_unread: Counter,
    /// Requests that are waiting for the HSM's answer.
    pub in_flight: Gauge,
    /// Evaluations of the policy.
    pub policy_evaluations: Counter,
    /// Decisions of the policy taken from the cache.
    pub policy_decisions_remembered: Counter,
    /// The difference between the clocks; shared by the event loops.
    pub clock_skew: Arc<ClockSkew>,
    /// Requests that reached no store.
    pub storeless: Outcomes,
    /// Indexed by [`CallLabel`].
    durations: [Durations; CallLabel::ALL.len()],
}

impl LoopMetrics {
    /// Makes counters for an event loop that measures this difference of the clocks too.
    pub(super) fn with(clock_skew: Arc<ClockSkew>) -> Self {
        Self { clock_skew, ..Self::default() }
    }

    /// Returns the durations of a call.
    #[must_use]
    pub fn durations(&self, call: CallLabel) -> &Durations {
        &self.durations[call as usize]
    }
}

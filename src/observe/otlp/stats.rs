//! Counters of the export.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::observe::metrics::counter::SharedCounter;

/// The things exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Data points.
    Metrics,
    /// Lines of the log.
    Logs,
    /// Calls.
    Traces,
}

impl Signal {
    /// All of them, in the order of the metrics page.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Logs, Self::Traces];

    /// Returns the name in settings and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }
}

/// Counters of all signals.
#[derive(Debug, Default)]
pub struct OtlpStats {
    metrics: SignalStats,
    logs: SignalStats,
    traces: SignalStats,
}

impl OtlpStats {
    /// Returns the counters of one signal.
    #[must_use]
    pub fn of(&self, signal: Signal) -> &SignalStats {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
            Signal::Traces => &self.traces,
        }
    }
}

/// Counters of one signal, in data points, lines or calls.
#[derive(Debug, Default)]
pub struct SignalStats {
    /// Those that the exporter, or its queue of calls, has accepted.
    pub(super) accepted: SharedCounter,
    /// Those that the collector has taken.
    pub exported: SharedCounter,
    /// Those lost as they came faster than the collector took them.
    pub overflowed: SharedCounter,
    /// Those lost as the collector could not be reached, or asked to wait, for too long.
    pub undelivered: SharedCounter,
    /// Those that the collector has refused.
    pub rejected: SharedCounter,
    /// Requests to the collector that failed.
    pub failed_requests: SharedCounter,
    is_failing: AtomicBool,
}

impl SignalStats {
    /// Returns the number of those that were accepted and whose fate is not known yet.
    pub(super) fn unsent(&self) -> u64 {
        self.accepted.get().saturating_sub(self.exported.get() + self.given_up())
    }

    /// Returns the number of those that were accepted and will not be sent any more.
    pub(super) fn given_up(&self) -> u64 {
        self.undelivered.get() + self.rejected.get()
    }

    /// Returns the losses by their reason.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, u64); 3] {
        [
            ("overflow", self.overflowed.get()),
            ("undelivered", self.undelivered.get()),
            ("rejected", self.rejected.get()),
        ]
    }

    /// Returns whether the last request failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Notes whether the last request failed, and returns whether the one before did.
    pub(super) fn set_failing(&self, is_failing: bool) -> bool {
        self.is_failing.swap(is_failing, Ordering::Relaxed)
    }
}

//! The lines that are missing from the log, as the log itself reports them.

use std::time::{Duration, Instant};

use super::stats::Counters;

/// Name of the event.
pub(super) const EVENT: &str = "gap";

/// Counts of missing lines that have already been reported in the log. They outlast a writer, so
/// that nothing is reported twice when the log changes hands.
pub(super) struct Gaps {
    reported: Counts,
    reported_at: Instant,
}

/// Counts since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    dropped: u64,
    refused: u64,
    left_out: u64,
}

/// The members of a line that reports missing lines.
pub(super) type Members = [(&'static str, u64); 3];

impl Gaps {
    pub(super) fn new() -> Self {
        Self { reported: Counts::default(), reported_at: Instant::now() }
    }

    /// Returns the members of a line that reports what has gone missing since the last one, and the
    /// counts to pass to [`Self::reported`] once it is kept; `None` if nothing has, or if the last
    /// one is more recent than `interval`.
    pub(super) fn due(&self, counters: &Counters, interval: Duration) -> Option<(Members, Counts)> {
        let now = Counts {
            dropped: counters.dropped.get(),
            refused: counters.refused.get(),
            left_out: counters.left_out.get(),
        };
        if now == self.reported || self.reported_at.elapsed() < interval {
            return None;
        }
        let numbers = [
            ("droppedLines", now.dropped - self.reported.dropped),
            ("refusedCalls", now.refused - self.reported.refused),
            ("leftOutUnauthenticatedCalls", now.left_out - self.reported.left_out),
        ];
        Some((numbers, now))
    }

    /// Records that these counts are in the log.
    pub(super) fn reported(&mut self, counts: Counts) {
        *self = Self { reported: counts, reported_at: Instant::now() };
    }
}

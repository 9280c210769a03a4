//! The difference between our clock and the one that a request was signed by.

use crate::limits::MAX_CLOCK_SKEW;

/// A difference of the clocks, from a request whose signature is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// Seconds by which our clock is ahead of the time at which the request was signed.
    pub ahead_secs: i64,
    /// A part of the signature, by which a repeated request is recognised.
    pub tag: u64,
}

impl ClockSample {
    /// Returns whether the request must be refused for its date.
    pub(super) fn is_skewed(self) -> bool {
        self.ahead_secs.unsigned_abs() > MAX_CLOCK_SKEW.as_secs()
    }
}

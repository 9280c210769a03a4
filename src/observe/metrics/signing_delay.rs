//! The time that authentic requests take from their signature to their arrival, by which those that
//! somebody has kept and replays later are recognised.
//!
//! It is measured by the monotonic clock, so an error or a step of this machine's wall clock makes
//! all requests late or none: only the differences between requests count.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::limits::{MAX_SIGNING_DELAY, SIGNING_DELAY_PERIOD};

/// The smallest delay in the present period and in the one before, from an arbitrary origin.
#[derive(Debug)]
pub(super) struct SigningDelay {
    present_secs: AtomicI64,
    former_secs: AtomicI64,
    period: AtomicU32,
}

/// No request in that period.
const NONE: i64 = i64::MAX;

impl Default for SigningDelay {
    fn default() -> Self {
        Self {
            present_secs: AtomicI64::new(NONE),
            former_secs: AtomicI64::new(NONE),
            period: AtomicU32::default(),
        }
    }
}

impl SigningDelay {
    /// Returns whether a request that was signed at this time, and has arrived at `second` of the
    /// monotonic clock, came as soon as others do.
    pub(super) fn is_usual(&self, signed_unix_secs: i64, second: u32) -> bool {
        self.follow(second);
        let delay_secs = i64::from(second).saturating_sub(signed_unix_secs);
        let present = self.present_secs.fetch_min(delay_secs, Ordering::Relaxed);
        let least = present.min(self.former_secs.load(Ordering::Relaxed));
        let max_secs = i64::try_from(MAX_SIGNING_DELAY.as_secs()).unwrap_or(i64::MAX);
        delay_secs <= least.saturating_add(max_secs)
    }

    /// Begins the next period, if it is time to. A request that another event loop notes meanwhile
    /// may be left out.
    fn follow(&self, second: u32) {
        let period = second / u32::try_from(SIGNING_DELAY_PERIOD.as_secs()).unwrap_or(u32::MAX);
        let before = self.period.swap(period, Ordering::Relaxed);
        if before != period {
            let present = self.present_secs.swap(NONE, Ordering::Relaxed);
            let former = if before.checked_add(1) == Some(period) { present } else { NONE };
            self.former_secs.store(former, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests may come late by a minute, compared with the fastest of the last hour or two.
    #[test]
    fn late_ones() {
        let delay = SigningDelay::default();
        let now = 1_800_000_000;
        assert!(delay.is_usual(now - 3_600, 0), "the first one: nothing is known");
        assert!(delay.is_usual(now, 0), "signed later, so the first one was late");
        assert!(!delay.is_usual(now - 3_600, 0));
        assert!(delay.is_usual(now - 60, 0) && !delay.is_usual(now - 61, 0));
        // The same request, ever later.
        assert!(delay.is_usual(now, 60) && !delay.is_usual(now, 61));
        // After the period's end, and after the end of the one that follows.
        assert!(!delay.is_usual(now, 3_600));
        let delay = SigningDelay::default();
        assert!(delay.is_usual(now, 10) && delay.is_usual(now - 3_600, 7_200));
    }
}

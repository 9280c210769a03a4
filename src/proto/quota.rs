//! Limits on one key store's requests, so that it cannot starve another.
//!
//! There are two limits over all event loops: requests per second, and requests in flight. The
//! second keeps the HSM's queue fair: for any request rate and any speed of the HSM, at most that
//! many of a store's jobs wait ahead of another store's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::rate::Rate;

/// A store's quota and its current use.
#[derive(Debug, Default)]
pub struct Quota {
    rate: Option<Rate>,
    max_in_flight: Option<u32>,
    in_flight: Arc<AtomicU32>,
}

/// The limit that refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaExceeded {
    /// `max_in_flight` requests are being worked on.
    InFlight,
    /// `max_requests_per_sec` is used up.
    Rate,
}

/// A place in a store's quota: the request counts as in flight until this is dropped.
pub struct QuotaPermit(Arc<AtomicU32>);

impl Quota {
    /// Makes limits of `max_requests_per_sec`, which is also the allowed burst, and
    /// `max_in_flight`. `None` means no limit.
    #[must_use]
    pub fn new(max_requests_per_sec: Option<u32>, max_in_flight: Option<u32>) -> Self {
        Self {
            rate: max_requests_per_sec.map(|per_sec| Rate::new(per_sec, per_sec)),
            max_in_flight,
            in_flight: Arc::default(),
        }
    }

    /// Replaces `former`, whose current use still counts.
    #[must_use]
    pub fn succeeding(mut self, former: &Self) -> Self {
        self.in_flight = Arc::clone(&former.in_flight);
        self.rate = self.rate.map(|rate| match &former.rate {
            Some(former) => rate.succeeding(former),
            None => rate,
        });
        self
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: one of the limits is reached; nothing was counted.
    pub fn admit(&self, now: Instant) -> Result<Option<QuotaPermit>, QuotaExceeded> {
        let in_flight = match self.max_in_flight {
            None => None,
            Some(max) => {
                // Counted first, so that two threads can't both take the last place.
                let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
                let in_flight = QuotaPermit(Arc::clone(&self.in_flight));
                if before >= max {
                    return Err(QuotaExceeded::InFlight);
                }
                Some(in_flight)
            }
        };
        if self.rate.as_ref().is_some_and(|rate| !rate.take(now)) {
            return Err(QuotaExceeded::Rate);
        }
        Ok(in_flight)
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A request that has ended frees its place, in whichever way it ended.
    #[test]
    fn in_flight() {
        let quota = Quota::new(None, Some(2));
        let now = Instant::now();
        let first = quota.admit(now).ok().flatten();
        let second = quota.admit(now).ok().flatten();
        assert!(first.is_some() && second.is_some());
        for _ in 0..10 {
            assert!(quota.admit(now).is_err_and(|error| error == QuotaExceeded::InFlight));
        }
        drop(second);
        let third = quota.admit(now);
        assert!(third.is_ok() && quota.admit(now).is_err());
    }

    /// A request refused by one limit does not count for the other.
    #[test]
    fn a_refusal_costs_nothing() {
        let quota = Quota::new(Some(2), Some(1));
        let now = Instant::now();
        let first = quota.admit(now);
        for _ in 0..10 {
            assert!(quota.admit(now).is_err());
        }
        drop(first);
        assert!(quota.admit(now).is_ok());
        // Now the rate is the limit: two at once, then one every half second.
        assert!(quota.admit(now).is_err_and(|error| error == QuotaExceeded::Rate));
        let later = now + Duration::from_millis(500);
        assert!(quota.admit(later).is_ok() && quota.admit(later).is_err());
    }

    /// A reload resets nothing: requests that began before it count until they end.
    #[test]
    fn a_successor_knows_what_is_used() {
        let former = Quota::new(Some(100), Some(2));
        let now = Instant::now();
        let first = former.admit(now);
        let quota = Quota::new(Some(100), Some(2)).succeeding(&former);
        let second = quota.admit(now);
        assert!(first.is_ok() && second.is_ok() && quota.admit(now).is_err());
        drop(first);
        assert!(quota.admit(now).is_ok());
        drop(second);
        let stricter = Quota::new(None, Some(1)).succeeding(&quota);
        let third = stricter.admit(now);
        assert!(third.is_ok() && stricter.admit(now).is_err());
    }

    #[test]
    fn no_bounds() {
        let quota = Quota::default();
        let now = Instant::now();
        assert!((0..100_000).all(|_| matches!(quota.admit(now), Ok(None))));
    }
}

//! Whether a token gets jobs: a circuit breaker, closed by a probe that succeeds and opened by
//! faults in a row or a probe that fails.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{MAX_FAULTS_IN_A_ROW, RECENT_TRAFFIC, TRICKLE_SUCCESSES};

/// One token's.
pub struct Circuit {
    /// Times are counted from here.
    start: Instant,
    is_usable: AtomicBool,
    faults_in_a_row: AtomicU32,
    /// Answers still to come before a returned token gets more than a trickle.
    trickle: AtomicU32,
    /// Milliseconds after `start`, plus one; 0: never.
    last_success_milli: AtomicU64,
    /// How often it was opened: sessions older than that are suspect.
    epoch: AtomicU64,
    reason: Mutex<Option<String>>,
}

impl Circuit {
    /// Open: nothing is known of the token yet.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            is_usable: AtomicBool::new(false),
            faults_in_a_row: AtomicU32::new(0),
            trickle: AtomicU32::new(0),
            last_success_milli: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            reason: Mutex::new(Some("not connected yet".to_owned())),
        }
    }

    /// Whether the token gets jobs.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Acquire)
    }

    /// Whether it has just returned and gets one job at a time.
    #[must_use]
    pub fn is_trickling(&self) -> bool {
        self.trickle.load(Ordering::Relaxed) > 0
    }

    /// Counts the times that it was opened.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Why the token gets no jobs.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }

    /// The token gave an answer.
    pub fn success(&self, now: Instant) {
        let milli = u64::try_from(now.saturating_duration_since(self.start).as_millis())
            .unwrap_or(u64::MAX - 1)
            + 1;
        // Mostly unchanged: then the cache line stays shared.
        if self.last_success_milli.load(Ordering::Relaxed) != milli {
            self.last_success_milli.store(milli, Ordering::Relaxed);
        }
        if self.faults_in_a_row.load(Ordering::Relaxed) != 0 {
            self.faults_in_a_row.store(0, Ordering::Relaxed);
        }
        let trickle = self.trickle.load(Ordering::Relaxed);
        if trickle > 0 {
            self.trickle.store(trickle - 1, Ordering::Relaxed);
        }
    }

    /// When the token last gave an answer.
    #[must_use]
    pub fn last_success(&self) -> Option<Instant> {
        let milli = self.last_success_milli.load(Ordering::Relaxed).checked_sub(1)?;
        self.start.checked_add(Duration::from_millis(milli))
    }

    /// Whether it did lately.
    #[must_use]
    pub fn is_answering(&self, now: Instant) -> bool {
        self.last_success().is_some_and(|then| now.saturating_duration_since(then) < RECENT_TRAFFIC)
    }

    /// Faults since the last answer.
    #[must_use]
    pub fn faults_in_a_row(&self) -> u32 {
        self.faults_in_a_row.load(Ordering::Relaxed)
    }

    /// The token failed at a job. Says whether that opened the circuit.
    pub fn fault(&self, reason: impl FnOnce() -> String) -> bool {
        let faults = self.faults_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        faults >= MAX_FAULTS_IN_A_ROW && self.open(reason())
    }

    /// No more jobs until [`Self::close`]. Says whether they got some till now.
    pub fn open(&self, reason: String) -> bool {
        let mut current = self.reason.lock();
        *current = Some(reason);
        let was_usable = self.is_usable.swap(false, Ordering::AcqRel);
        if was_usable {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        was_usable
    }

    /// A probe succeeded. Says whether the token got no jobs till now.
    pub fn close(&self) -> bool {
        if self.is_usable() {
            return false;
        }
        let mut reason = self.reason.lock();
        *reason = None;
        self.faults_in_a_row.store(0, Ordering::Relaxed);
        if self.epoch() > 0 {
            self.trickle.store(TRICKLE_SUCCESSES, Ordering::Relaxed);
        }
        !self.is_usable.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Faults in a row open it, an answer in between does not count, a probe closes it, and what
    /// comes back gets a trickle first.
    #[test]
    fn opens_and_closes() {
        let start = Instant::now();
        let circuit = Circuit::new(start);
        assert!(!circuit.is_usable() && circuit.close() && !circuit.is_trickling());
        for _ in 1..MAX_FAULTS_IN_A_ROW {
            assert!(!circuit.fault(String::new));
        }
        circuit.success(start + RECENT_TRAFFIC);
        for _ in 1..MAX_FAULTS_IN_A_ROW {
            assert!(!circuit.fault(String::new));
        }
        assert!(circuit.fault(|| "broken".to_owned()));
        assert!(!circuit.is_usable());
        assert_eq!(circuit.reason().as_deref(), Some("broken"));
        assert!(circuit.is_answering(start + RECENT_TRAFFIC));
        assert!(!circuit.is_answering(start + 2 * RECENT_TRAFFIC));
        assert!(circuit.close() && !circuit.close());
        assert!(circuit.is_trickling());
        for _ in 0..TRICKLE_SUCCESSES {
            circuit.success(start);
        }
        assert!(!circuit.is_trickling());
    }
}

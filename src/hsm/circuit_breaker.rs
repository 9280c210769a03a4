//! The circuit breaker of a token, which decides whether the token gets jobs. It is opened by
//! consecutive faults or a failed health check, and closed by a successful one. It also keeps a
//! record of recent outcomes.

use std::time::{Duration, Instant};

use crate::limits::{
    HALF_OPEN_SUCCESSES, MAX_EXPIRED_IN_A_ROW, MAX_FAULTS_IN_A_ROW, MIN_DEGRADED_FAULTS,
    RECENT_FAULTS, RECENT_TRAFFIC, TOKEN_FAULT_WINDOW,
};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The circuit breaker of one token.
pub struct CircuitBreaker {
    /// Origin of the times below.
    start: Instant,
    is_usable: AtomicBool,
    faults_in_a_row: AtomicU32,
    /// Number of requests that expired since the last answer.
    expired_in_a_row: AtomicU32,
    /// Time allowed to the request that expired last, in microseconds; 0 if none has expired.
    request_micros: AtomicU64,
    /// Number of answers that are still needed before the token gets several jobs at a time.
    half_open_successes: AtomicU32,
    /// Time of the last answer in milliseconds after `start`, plus one; 0 if there was no answer.
    last_success_milli: AtomicU64,
    /// Time of the last fault, in the same form.
    last_fault_milli: AtomicU64,
    /// Time of the last fault that was not attributed to a key, in the same form.
    last_own_fault_milli: AtomicU64,
    /// A bit for each recent outcome, the newest in the lowest bit; set for a fault.
    outcomes: AtomicU64,
    /// Number of times that the breaker was opened; sessions opened before that are no longer used.
    epoch: AtomicU64,
    reason: Mutex<Option<String>>,
}

impl CircuitBreaker {
    /// Creates an open breaker, since nothing is known about the token yet.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            is_usable: AtomicBool::new(false),
            faults_in_a_row: AtomicU32::new(0),
            expired_in_a_row: AtomicU32::new(0),
            request_micros: AtomicU64::new(0),
            half_open_successes: AtomicU32::new(0),
            last_success_milli: AtomicU64::new(0),
            last_fault_milli: AtomicU64::new(0),
            last_own_fault_milli: AtomicU64::new(0),
            outcomes: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            reason: Mutex::new(Some("not connected yet".to_owned())),
        }
    }

    /// Returns whether the token gets jobs.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Acquire)
    }

    /// Returns whether the token has just been put back in use and still gets only one job at a
    /// time.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        self.half_open_successes.load(Ordering::Relaxed) > 0
    }

    /// Returns how many times the breaker was opened.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Returns why the token gets no jobs.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }

    /// Records that the token gave an answer. Returns whether it is the first one in this
    /// millisecond.
    pub fn record_success(&self, now: Instant) -> bool {
        let milli = self.milli(now);
        // Usually unchanged, so that nothing is written and the cache line stays shared.
        let is_first = self.last_success_milli.load(Ordering::Relaxed) != milli;
        if is_first {
            self.last_success_milli.store(milli, Ordering::Relaxed);
        }
        if self.outcomes.load(Ordering::Relaxed) != 0 {
            self.push_outcome(0);
        }
        if self.faults_in_a_row.load(Ordering::Relaxed) != 0 {
            self.faults_in_a_row.store(0, Ordering::Relaxed);
        }
        if self.expired_in_a_row.load(Ordering::Relaxed) != 0 {
            self.expired_in_a_row.store(0, Ordering::Relaxed);
        }
        if self.is_half_open() {
            // Not a store: the breaker may have been opened and closed again in the meantime.
            let left = &self.half_open_successes;
            let less = |left: u32| left.checked_sub(1);
            let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        is_first
    }

    /// Returns when the token last gave an answer.
    #[must_use]
    pub fn last_success(&self) -> Option<Instant> {
        self.instant(&self.last_success_milli)
    }

    fn milli(&self, now: Instant) -> u64 {
        let milli = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(milli).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, milli: &AtomicU64) -> Option<Instant> {
        let milli = milli.load(Ordering::Relaxed).checked_sub(1)?;
        self.start.checked_add(Duration::from_millis(milli))
    }

    fn push_outcome(&self, outcome: u64) {
        let shifted = |outcomes: u64| Some(outcomes << 1 | outcome);
        let _ = self.outcomes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shifted);
    }

    /// Returns whether the token gave an answer recently.
    #[must_use]
    pub fn is_answering(&self, now: Instant) -> bool {
        self.last_success().is_some_and(|then| now.saturating_duration_since(then) < RECENT_TRAFFIC)
    }

    /// Returns the number of faults since the last answer.
    #[must_use]
    pub fn faults_in_a_row(&self) -> u32 {
        self.faults_in_a_row.load(Ordering::Relaxed)
    }

    /// Records that a request to this token expired after `time`. Returns whether a health check is
    /// now needed to find out whether the token answers at all.
    pub fn record_expiry(&self, time: Duration) -> bool {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.request_micros.store(micros, Ordering::Relaxed);
        self.expired_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 == MAX_EXPIRED_IN_A_ROW
    }

    /// Returns the time allowed to a request if the latest requests all expired; `None` while the
    /// token answers.
    #[must_use]
    pub fn unanswered(&self) -> Option<Duration> {
        let is_silent = self.expired_in_a_row.load(Ordering::Relaxed) >= MAX_EXPIRED_IN_A_ROW;
        self.request_time().filter(|_| is_silent)
    }

    /// Returns the time that was allowed to the request that expired last.
    #[must_use]
    pub fn request_time(&self) -> Option<Duration> {
        let micros = self.request_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Records a fault of the token that does not count towards opening the breaker, since the
    /// token worked again immediately afterwards.
    pub fn record_fault(&self, now: Instant) {
        self.record_key_fault(now);
        self.last_own_fault_milli.store(self.milli(now), Ordering::Relaxed);
        self.push_outcome(1);
    }

    /// Records a fault with one key while another works. The token may still be at fault, so its
    /// verdicts that a ciphertext is bad are verified more often; but its health is not affected.
    pub fn record_key_fault(&self, now: Instant) {
        self.last_fault_milli.store(self.milli(now), Ordering::Relaxed);
    }

    /// Returns whether a fault was recently attributed to the token or one of its sessions.
    #[must_use]
    pub fn has_recent_own_fault(&self, now: Instant) -> bool {
        let is_recent = |then| now.saturating_duration_since(then) < TOKEN_FAULT_WINDOW;
        self.instant(&self.last_own_fault_milli).is_some_and(is_recent)
    }

    /// Returns whether the token had any fault within the last [`RECENT_FAULTS`].
    #[must_use]
    pub fn has_recent_fault(&self, now: Instant) -> bool {
        let is_recent = |then| now.saturating_duration_since(then) < RECENT_FAULTS;
        self.instant(&self.last_fault_milli).is_some_and(is_recent)
    }

    /// Returns the number of faults among the latest 64 outcomes, if it is at least
    /// [`MIN_DEGRADED_FAULTS`]: the token still serves requests, but is degraded.
    #[must_use]
    pub fn recent_faults(&self, now: Instant) -> Option<u32> {
        let faults = self.outcomes.load(Ordering::Relaxed).count_ones();
        (faults >= MIN_DEGRADED_FAULTS && self.has_recent_fault(now)).then_some(faults)
    }

    /// Records a fault of the token. Returns whether that opened the breaker.
    pub fn count_fault(&self, now: Instant, reason: impl FnOnce() -> String) -> bool {
        self.record_fault(now);
        let faults = self.faults_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        faults >= MAX_FAULTS_IN_A_ROW && self.open(reason())
    }

    /// Opens the breaker: the token gets no more jobs until [`Self::close`] is called. Returns
    /// whether the breaker was closed before.
    pub fn open(&self, reason: String) -> bool {
        let mut current = self.reason.lock();
        *current = Some(reason);
        let was_usable = self.is_usable.swap(false, Ordering::AcqRel);
        if was_usable {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        was_usable
    }

    /// Closes the breaker after a successful health check. Returns whether the breaker was open
    /// before.
    pub fn close(&self) -> bool {
        if self.is_usable() {
            return false;
        }
        let mut reason = self.reason.lock();
        *reason = None;
        self.faults_in_a_row.store(0, Ordering::Relaxed);
        self.expired_in_a_row.store(0, Ordering::Relaxed);
        self.outcomes.store(0, Ordering::Relaxed);
        if self.epoch() > 0 {
            self.half_open_successes.store(HALF_OPEN_SUCCESSES, Ordering::Relaxed);
        }
        !self.is_usable.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Consecutive faults open the breaker, an answer in between resets the count, and a health
    /// check closes it; at first the token then gets only one job at a time.
    #[test]
    fn opens_and_closes() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(start);
        assert!(!breaker.is_usable() && breaker.close() && !breaker.is_half_open());
        for _ in 1..MAX_FAULTS_IN_A_ROW {
            assert!(!breaker.count_fault(start, String::new));
        }
        breaker.record_success(start + RECENT_TRAFFIC);
        for _ in 1..MAX_FAULTS_IN_A_ROW {
            assert!(!breaker.count_fault(start, String::new));
        }
        assert!(breaker.count_fault(start, || "broken".to_owned()));
        assert!(!breaker.is_usable());
        assert_eq!(breaker.reason().as_deref(), Some("broken"));
        assert!(breaker.is_answering(start + RECENT_TRAFFIC));
        assert!(!breaker.is_answering(start + 2 * RECENT_TRAFFIC));
        assert!(breaker.close() && !breaker.close());
        assert!(breaker.is_half_open());
        for _ in 0..HALF_OPEN_SUCCESSES {
            breaker.record_success(start);
        }
        assert!(!breaker.is_half_open());
    }
    /// Several consecutive expired requests trigger a health check.
    #[test]
    fn requests_that_expire() {
        let now = Instant::now();
        let (breaker, time) = (CircuitBreaker::new(now), Duration::from_millis(180));
        breaker.close();
        for _ in 1..MAX_EXPIRED_IN_A_ROW {
            assert!(!breaker.record_expiry(time));
        }
        breaker.record_success(now);
        for _ in 1..MAX_EXPIRED_IN_A_ROW {
            assert!(!breaker.record_expiry(time) && breaker.unanswered().is_none());
        }
        assert!(breaker.record_expiry(time));
        assert_eq!(breaker.unanswered(), Some(time));
        breaker.open(String::new());
        breaker.close();
        assert_eq!(breaker.unanswered(), None);
    }

    /// A key's faults do not affect the token's health, but cast doubt on its verdicts that a
    /// ciphertext is bad.
    #[test]
    fn faults_of_keys() {
        let now = Instant::now();
        let breaker = CircuitBreaker::new(now);
        breaker.close();
        (0..100).for_each(|_| breaker.record_key_fault(now));
        assert!(breaker.has_recent_fault(now) && !breaker.has_recent_own_fault(now));
        assert_eq!(breaker.recent_faults(now), None);
        breaker.record_fault(now);
        assert!(
            breaker.has_recent_own_fault(now)
                && !breaker.has_recent_own_fault(now + TOKEN_FAULT_WINDOW)
        );
    }

    /// A token that fails three calls in ten stays in use but is degraded, until enough calls
    /// succeed, enough time passes without calls, or a health check puts it back in service.
    #[test]
    fn remembers_what_came_of_the_latest_calls() {
        let now = Instant::now();
        let breaker = CircuitBreaker::new(now);
        breaker.close();
        assert!(!breaker.has_recent_fault(now) && breaker.recent_faults(now).is_none());
        let serve_badly = || {
            for n in 0..200 {
                match n % 10 {
                    0..3 => assert!(!breaker.count_fault(now, String::new)),
                    _ => drop(breaker.record_success(now)),
                }
            }
        };
        serve_badly();
        assert!(breaker.is_usable() && breaker.has_recent_fault(now));
        assert!(breaker.recent_faults(now).is_some_and(|faults| (18..=21).contains(&faults)));
        assert_eq!(breaker.recent_faults(now + RECENT_FAULTS), None);
        for _ in 0..60 {
            breaker.record_success(now);
        }
        assert_eq!(breaker.recent_faults(now), None, "a few faults do not make it degraded");
        assert!(breaker.has_recent_fault(now));
        serve_badly();
        breaker.open(String::new());
        breaker.close();
        assert_eq!(breaker.recent_faults(now), None);
    }
}

//! A rate, shared by threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// So many events a second, with a burst: the generic cell rate algorithm (ITU-T I.371, Annex A),
/// which keeps a single number, the time at which the next event would be due if all came evenly.
/// The clock is an argument.
#[derive(Debug)]
pub struct Rate {
    /// Between two events that come evenly.
    interval_nanos: u64,
    /// How far ahead of its time an event may come.
    tolerance_nanos: u64,
    /// What has been used of it; shared with those that take its place.
    used: Arc<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// Nanoseconds after `epoch`.
    due: AtomicU64,
    /// The first time that was seen.
    epoch: OnceLock<Instant>,
}

impl Rate {
    /// `per_sec` events a second (at least 1), of which `burst` (at least 1) may come at once.
    #[must_use]
    pub fn new(per_sec: u32, burst: u32) -> Self {
        let interval_nanos = 1_000_000_000 / u64::from(per_sec.max(1));
        Self {
            interval_nanos,
            tolerance_nanos: interval_nanos * u64::from(burst.max(1) - 1),
            used: Arc::default(),
        }
    }

    /// Takes the place of `former`: what was used of that counts against this.
    #[must_use]
    pub fn succeeding(self, former: &Self) -> Self {
        Self { used: Arc::clone(&former.used), ..self }
    }

    /// Counts an event if the rate allows one now.
    #[must_use]
    pub fn take(&self, now: Instant) -> bool {
        let now = self.nanos(now);
        let next = |due: u64| {
            (due <= now + self.tolerance_nanos).then(|| due.max(now) + self.interval_nanos)
        };
        self.used.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Counts an event that could not be prevented: the next ones wait for longer.
    pub fn charge(&self, now: Instant) {
        let now = self.nanos(now);
        let next = |due: u64| Some(due.max(now) + self.interval_nanos);
        let _ = self.used.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// How long until the rate allows an event; zero if it does now.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let due = self.used.due.load(Ordering::Relaxed);
        Duration::from_nanos(due.saturating_sub(self.nanos(now) + self.tolerance_nanos))
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(*self.used.epoch.get_or_init(|| now));
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The burst at once, then one an interval, and no more saved up than the burst.
    #[test]
    fn burst_then_evenly() {
        let rate = Rate::new(100, 5);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let taken = |millis| (0..50).filter(|_| rate.take(at(millis))).count();
        assert_eq!(taken(0), 5);
        assert_eq!(rate.wait(at(0)), Duration::from_millis(10));
        assert_eq!(taken(9), 0);
        assert_eq!(taken(10), 1);
        assert_eq!(taken(40), 3);
        assert_eq!(rate.wait(at(50)), Duration::ZERO);
        assert_eq!(taken(10_000), 5);
        // A thread whose clock lags gets nothing out of it.
        assert_eq!(taken(9_000), 0);
    }

    /// What could not be prevented is paid for.
    #[test]
    fn charges_are_paid_back() {
        let rate = Rate::new(1000, 1);
        let now = Instant::now();
        for _ in 0..10 {
            rate.charge(now);
        }
        assert_eq!(rate.wait(now), Duration::from_millis(10));
        assert!(!rate.take(now + Duration::from_millis(9)));
        assert!(rate.take(now + Duration::from_millis(10)));
    }

    /// Settings that are read again give nobody a second burst.
    #[test]
    fn a_successor_knows_what_was_used() {
        let rate = Rate::new(100, 10);
        let start = Instant::now();
        let taken = |rate: &Rate, millis| {
            let now = start + Duration::from_millis(millis);
            (0..500).filter(|_| rate.take(now)).count()
        };
        assert_eq!(taken(&rate, 0), 10);
        let same = Rate::new(100, 10).succeeding(&rate);
        assert_eq!((taken(&same, 0), taken(&same, 10)), (0, 1));
        assert_eq!(taken(&rate, 10), 0, "nor by asking both");
        let wider = Rate::new(1000, 200).succeeding(&same);
        assert!((90..=110).contains(&taken(&wider, 10)), "the difference");
    }

    /// Over any second, all threads together get the rate and the burst, and not one more.
    #[test]
    fn threads_share_it() {
        let rate = Rate::new(1000, 100);
        let start = Instant::now();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let at = |milli| start + Duration::from_millis(milli);
                        (0..1000).map(|milli| (0..3).filter(|_| rate.take(at(milli))).count()).sum()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0_usize)).sum()
        });
        assert!((999..=1099).contains(&taken), "{taken}");
    }
}

//! Limits on how often events may happen: [`Rate`] spaces them and is shared by threads without a
//! lock; [`PerSecond`] admits a fixed number in each second and has one owner.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A number of events a second, with a burst: the generic cell rate algorithm (ITU-T I.371, Annex
/// A), whose only state is the time at which the next event would be due if all came evenly. The
/// current time is an argument.
#[derive(Debug)]
pub struct Rate {
    /// Time between two evenly spaced events.
    interval_nanos: u64,
    /// Greatest time by which an event may be early.
    tolerance_nanos: u64,
    /// The part of the rate that has been used up; shared with successors.
    used: Arc<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// Nanoseconds after `epoch`.
    due: AtomicU64,
    /// The first time that was passed as an argument.
    epoch: OnceLock<Instant>,
}

impl Rate {
    /// Creates a rate of `per_sec` events a second, of which `burst` may come at once. Both count
    /// as at least 1.
    #[must_use]
    pub fn new(per_sec: u32, burst: u32) -> Self {
        let interval_nanos = 1_000_000_000 / u64::from(per_sec.max(1));
        Self {
            interval_nanos,
            tolerance_nanos: interval_nanos * u64::from(burst.max(1) - 1),
            used: Arc::default(),
        }
    }

    /// Returns this rate as the successor of `former`, whose events count against this one.
    #[must_use]
    pub fn succeeding(self, former: &Self) -> Self {
        Self { used: Arc::clone(&former.used), ..self }
    }

    /// Counts an event and returns true if the rate permits one now.
    #[must_use]
    pub fn take(&self, now: Instant) -> bool {
        let now = self.nanos(now);
        let next = |due: u64| {
            (due <= now + self.tolerance_nanos).then(|| due.max(now) + self.interval_nanos)
        };
        self.used.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Counts an event that could not be refused, so that later ones wait longer.
    pub fn charge(&self, now: Instant) {
        let now = self.nanos(now);
        let next = |due: u64| Some(due.max(now) + self.interval_nanos);
        let _ = self.used.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Returns the time until the rate permits an event; zero if it does now.
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

/// A fixed maximum of events in each second, and a count of those refused. A second begins with the
/// first event after the previous second is over.
#[derive(Debug)]
pub struct PerSecond<T> {
    max: u32,
    /// Start of the current second, on the caller's clock.
    second: Option<T>,
    admitted: u32,
    refused: u64,
}

/// A clock reading that [`PerSecond`] can divide into seconds.
pub trait ClockReading: Copy {
    /// Returns whether a second that began at `start` is over.
    fn is_second_over(self, start: Self) -> bool;
}

/// A reading taken before `start`, by another thread, belongs to the same second.
impl ClockReading for Instant {
    fn is_second_over(self, start: Self) -> bool {
        self.saturating_duration_since(start) >= Duration::from_secs(1)
    }
}

/// Whole seconds since 1970, of a clock that may be set back.
impl ClockReading for u64 {
    fn is_second_over(self, start: Self) -> bool {
        self != start
    }
}

impl<T: ClockReading> PerSecond<T> {
    /// Creates a limit of `max` events a second.
    #[must_use]
    pub const fn new(max: u32) -> Self {
        Self { max, second: None, admitted: 0, refused: 0 }
    }

    /// Admits an event and returns the number refused since the last report, or refuses the event
    /// and returns `None`.
    pub fn admit(&mut self, now: T) -> Option<u64> {
        if self.is_second_over(now) {
            self.second = Some(now);
            self.admitted = 0;
        }
        if self.admitted >= self.max {
            self.refused += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.refused))
    }

    /// Returns whether refused events are yet to be reported.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.refused > 0
    }

    /// Reports the number of refused events once the second in which they occurred is over; until
    /// then, returns 0.
    pub fn take_refused(&mut self, now: T) -> u64 {
        if self.is_second_over(now) { std::mem::take(&mut self.refused) } else { 0 }
    }

    fn is_second_over(&self, now: T) -> bool {
        self.second.is_none_or(|start| now.is_second_over(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first events of a second are admitted; the next admitted one reports how many were
    /// refused.
    #[test]
    fn per_second_admits_and_reports() {
        let start = Instant::now();
        let mut limit = PerSecond::new(10);
        let admitted = (0..1000).filter_map(|_| limit.admit(start)).collect::<Vec<_>>();
        assert_eq!(admitted, [0; 10]);
        assert!(limit.admit(start + Duration::from_millis(999)).is_none());
        let next = start + Duration::from_secs(1);
        assert_eq!(limit.admit(next), Some(991));
        assert_eq!(limit.admit(next), Some(0));
        assert_eq!(limit.admit(start), Some(0), "a thread whose clock lags opens no new second");
        assert_eq!((0..10).filter_map(|_| limit.admit(start)).count(), 7);
    }

    /// Refused events are reported even if no other event follows, but not before their second is
    /// over.
    #[test]
    fn per_second_reports_when_the_second_is_over() {
        let mut limit = PerSecond::new(1);
        assert_eq!((limit.take_refused(7_u64), limit.admit(7)), (0, Some(0)));
        assert!(limit.admit(7).is_none() && limit.admit(7).is_none());
        assert_eq!((limit.has_refused(), limit.take_refused(7)), (true, 0));
        assert_eq!((limit.take_refused(8), limit.has_refused()), (2, false));
        assert_eq!(limit.admit(6), Some(0), "a clock that was set back begins another second");
    }

    /// The burst may come at once, then one event per interval; unused events do not accumulate
    /// beyond the burst.
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
        // A thread whose clock lags gains nothing.
        assert_eq!(taken(9_000), 0);
    }

    /// Events that could not be refused delay later ones.
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

    /// A reload of the settings grants no second burst.
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
        assert_eq!(taken(&rate, 10), 0, "nor by asking both rates");
        let wider = Rate::new(1000, 200).succeeding(&same);
        assert!((90..=110).contains(&taken(&wider, 10)), "the difference between the bursts");
    }

    /// In any second, all threads together get the rate and the burst, and not one event more.
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

//! How fast a token is, and whether it computes in this process or waits on a network.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{
    CPU_SAMPLES_PER_WINDOW, HANG_FACTOR, MAX_HANG, MAX_OUTLIER_FACTOR, MIN_HANG, MIN_PACE_DIVISOR,
    PACE_MEMORY,
};

/// One token's pace, by its recent calls.
pub struct Pace {
    /// The average service time in 1/1024 ns: many small steps must not be lost to rounding.
    service: AtomicU64,
    /// `service` is a probe's, until there is a job's.
    is_guess: AtomicBool,
    start: Instant,
    /// When the last call ended, nanoseconds after `start`.
    last_end: AtomicU64,
    window: Mutex<Window>,
}

/// A run of samples. What counts is the sample that waited least: on a busy machine, or with
/// sessions that contend for a module's locks, most calls wait, but the luckiest of many does not
/// if the token computes here, and always does if the token is elsewhere.
#[derive(Default)]
struct Window {
    samples: u32,
    /// The largest part of a call's wall time that was its thread's CPU time, in percent.
    most_cpu_percent: u64,
}

/// CPU time that the calling thread has used so far. A system call.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// Where a token's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process, on this machine's cores.
    Here,
    /// Elsewhere: the call waits.
    Elsewhere,
}

impl Pace {
    /// Nothing is known yet. `start` is any time before the first call's end.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            service: AtomicU64::new(0),
            is_guess: AtomicBool::new(false),
            start,
            last_end: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// Takes in how long a call took that ended at `end`.
    ///
    /// A call weighs by the time since the one before it, whichever session's that was. When the
    /// machine is busy for some milliseconds, all sessions' calls are slow at once; each for itself,
    /// they would be enough to make the token look slow, and requests be refused that it could have
    /// done in time.
    pub fn record(&self, service: Duration, end: Instant) {
        let sample = fixed_point(service).max(1);
        let end = nanos(end.saturating_duration_since(self.start));
        // Two workers at once may lose one of two samples, which an average can bear.
        let passed = end.saturating_sub(self.last_end.swap(end, Ordering::Relaxed)).max(1);
        let old = self.service.load(Ordering::Relaxed);
        let is_first = old == 0 || self.is_guess.load(Ordering::Relaxed);
        let new = if is_first {
            sample
        } else {
            let sample = sample.min(old.saturating_mul(MAX_OUTLIER_FACTOR));
            let weight = (nanos(PACE_MEMORY) / passed).max(MIN_PACE_DIVISOR);
            old - old / weight + sample / weight
        };
        self.service.store(new.max(1), Ordering::Relaxed);
        if is_first {
            self.is_guess.store(false, Ordering::Relaxed);
        }
    }

    /// Takes in how long a probe took, two operations, if no job tells better.
    pub fn prime(&self, probe: Duration) {
        if self.service().is_zero() {
            self.record(probe / 2, self.start);
            self.is_guess.store(true, Ordering::Relaxed);
        }
    }

    /// How long a call takes, on average.
    #[must_use]
    pub fn service(&self) -> Duration {
        Duration::from_nanos(self.service.load(Ordering::Relaxed) >> FRACTION_BITS)
    }

    /// How long a call must last to be held to hang, once its job's deadline is over.
    #[must_use]
    pub fn hang(&self) -> Duration {
        self.service().saturating_mul(HANG_FACTOR).clamp(MIN_HANG, MAX_HANG)
    }

    /// Takes in a call's CPU and wall time. At the end of a window of samples, says where the
    /// work is done.
    pub fn sample(&self, cpu: Duration, wall: Duration) -> Option<Place> {
        let percent = cpu.as_nanos().saturating_mul(100) / wall.as_nanos().max(1);
        let percent = u64::try_from(percent).unwrap_or(100).min(100);
        let mut window = self.window.lock();
        window.most_cpu_percent = window.most_cpu_percent.max(percent);
        window.samples += 1;
        (window.samples >= CPU_SAMPLES_PER_WINDOW).then(|| window.close())
    }

    /// Ends the window early: where the work is done by the samples so far, if there are any.
    pub fn conclude(&self) -> Option<Place> {
        let mut window = self.window.lock();
        (window.samples > 0).then(|| window.close())
    }
}

/// Of `Pace::service`.
const FRACTION_BITS: u32 = 10;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn fixed_point(duration: Duration) -> u64 {
    nanos(duration).saturating_mul(1 << FRACTION_BITS)
}

impl Window {
    fn close(&mut self) -> Place {
        let closed = std::mem::take(self);
        if closed.most_cpu_percent >= 50 { Place::Here } else { Place::Elsewhere }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Most calls wait for a core or a lock on a busy machine; one that doesn't tells.
    #[test]
    fn a_token_that_computes_here_is_told_by_its_luckiest_call() {
        let pace = Pace::new(Instant::now());
        let places = (0..CPU_SAMPLES_PER_WINDOW).filter_map(|n| {
            let wall = if n == 3 { MILLI } else { 20 * MILLI };
            pace.sample(MILLI, wall)
        });
        assert_eq!(places.collect::<Vec<_>>(), [Place::Here]);
        let places = (0..2 * CPU_SAMPLES_PER_WINDOW).filter_map(|_| pace.sample(MILLI, 20 * MILLI));
        assert_eq!(places.collect::<Vec<_>>(), [Place::Elsewhere; 2]);
        assert_eq!(pace.conclude(), None);
    }

    /// The average follows, and one outlier does not carry it away.
    #[test]
    fn average() {
        let mut now = Instant::now();
        let pace = Pace::new(now);
        let mut record = |service| {
            now += service;
            pace.record(service, now);
            pace.service()
        };
        pace.prime(100 * MILLI);
        assert_eq!(pace.service(), 50 * MILLI);
        assert_eq!(record(2 * MILLI), 2 * MILLI);
        pace.prime(100 * MILLI);
        assert_eq!(pace.service(), 2 * MILLI);
        assert!(record(34 * MILLI) < 6 * MILLI);
        for _ in 0..8 {
            record(200 * MILLI);
        }
        assert!(pace.service() > 50 * MILLI, "a token that is slow now is soon known to be");
        for _ in 0..400 {
            record(MILLI);
        }
        assert!(pace.service() < 2 * MILLI);
        for _ in 0..40_000 {
            record(MILLI / 100);
        }
        assert!(pace.service() < MILLI / 90, "small steps count too: {:?}", pace.service());
    }

    /// Sixty-four sessions whose calls of 2 ms all lasted 10 ms once, since the machine was busy.
    #[test]
    fn a_moment_does_not_count_once_for_each_session() {
        let mut now = Instant::now();
        let pace = Pace::new(now);
        for _ in 0..640 {
            now += 2 * MILLI / 64;
            pace.record(2 * MILLI, now);
        }
        now += 8 * MILLI;
        for _ in 0..64 {
            now += MILLI / 100;
            pace.record(10 * MILLI, now);
        }
        assert!(pace.service() < 5 * MILLI, "{:?}", pace.service());
        // But if it goes on, it does.
        for _ in 0..2_000 {
            now += 10 * MILLI / 64;
            pace.record(10 * MILLI, now);
        }
        assert!(pace.service() > 9 * MILLI, "{:?}", pace.service());
    }
}

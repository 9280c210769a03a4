//! How fast a token is, and whether it computes in this process or waits on a network.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::{CPU_SAMPLES_PER_WINDOW, HANG_FACTOR, MAX_HANG, MAX_OUTLIER_FACTOR, MIN_HANG};

/// Calls that the average remembers: one of each session, where there are many, since all are slow
/// at once when the machine is busy for a moment.
const MEMORY: u64 = 64;

/// One token's pace, by its recent calls.
#[derive(Default)]
pub struct Pace {
    service_nanos: AtomicU64,
    /// `service_nanos` is a probe's, until there is a job's.
    is_guess: AtomicBool,
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
    /// Takes in how long a call took.
    pub fn record(&self, service: Duration) {
        let sample = u64::try_from(service.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.service_nanos.load(Ordering::Relaxed);
        // Two workers at once may lose one of two samples, which an average can bear.
        let is_first = old == 0 || self.is_guess.load(Ordering::Relaxed);
        // A thread that lost its core for some milliseconds says nothing of the next calls, but to
        // an average of microseconds it would be enough to refuse what can be done in time.
        let new = if is_first {
            sample
        } else {
            old - old / MEMORY + sample.min(old.saturating_mul(MAX_OUTLIER_FACTOR)) / MEMORY
        };
        self.service_nanos.store(new.max(1), Ordering::Relaxed);
        if is_first {
            self.is_guess.store(false, Ordering::Relaxed);
        }
    }

    /// Takes in how long a probe took, two operations, if no job tells better.
    pub fn prime(&self, probe: Duration) {
        if self.service().is_zero() {
            self.record(probe / 2);
            self.is_guess.store(true, Ordering::Relaxed);
        }
    }

    /// How long a call takes, on average.
    #[must_use]
    pub fn service(&self) -> Duration {
        Duration::from_nanos(self.service_nanos.load(Ordering::Relaxed))
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
        let pace = Pace::default();
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
        let pace = Pace::default();
        pace.prime(100 * MILLI);
        assert_eq!(pace.service(), 50 * MILLI);
        pace.record(2 * MILLI);
        pace.prime(100 * MILLI);
        assert_eq!(pace.service(), 2 * MILLI);
        pace.record(34 * MILLI);
        let after_one = pace.service();
        assert!(after_one < 3 * MILLI, "{after_one:?}");
        for _ in 0..30 {
            pace.record(200 * MILLI);
        }
        assert!(pace.service() > 50 * MILLI, "a token that is slow now is soon known to be");
        for _ in 0..500 {
            pace.record(MILLI);
        }
        assert!(pace.service() < 2 * MILLI);
    }
}

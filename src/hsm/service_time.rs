//! How fast a token is, and whether it computes in this process or waits on a network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{
    CPU_SAMPLES_PER_WINDOW, HANG_FACTOR, MAX_HANG, MIN_HANG, SERVICE_TIME_CALLS,
    SERVICE_TIME_FIRST_CALLS, SERVICE_TIME_WINDOW,
};

/// One token's service time, by its recent calls.
pub struct ServiceTime {
    /// The average service time; the shortest, among the first calls.
    service_nanos: AtomicU64,
    /// Jobs' calls so far, not counted beyond [`SERVICE_TIME_FIRST_CALLS`]. With none, `service_nanos` is a
    /// health check's.
    first_calls: AtomicU64,
    start: Instant,
    /// When the present stretch of time began, nanoseconds after `start`.
    stretch_start: AtomicU64,
    /// The calls that ended in it.
    stretch_calls: AtomicU64,
    /// How long they took in all, nanoseconds.
    stretch_sum: AtomicU64,
    window: Mutex<Window>,
}

/// A run of samples. What counts is the fastest call: on a busy machine, or with sessions that
/// contend for a module's locks, most calls wait, but the luckiest of many does not if the token
/// computes here, and always does if the token is elsewhere. (Not the one with the largest part of
/// CPU time: where a hypervisor stops the machine for a while, the thread that ran has computed all
/// that time as far as it can tell, and a token elsewhere would be left with a session for each
/// core until the next window's end.)
#[derive(Default)]
struct Window {
    samples: u32,
    /// The shortest call, and its thread's CPU time.
    fastest: Option<(Duration, Duration)>,
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
pub enum Locality {
    /// In this process, on this machine's cores.
    InProcess,
    /// Elsewhere: the call waits.
    Remote,
}

impl ServiceTime {
    /// Nothing is known yet. `start` is any time before the first call's end.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            service_nanos: AtomicU64::new(0),
            first_calls: AtomicU64::new(0),
            start,
            stretch_start: AtomicU64::new(0),
            stretch_calls: AtomicU64::new(0),
            stretch_sum: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// Takes in how long a call took that ended at `end`.
    ///
    /// What counts is the mean over a stretch of time: when the machine is busy for some
    /// milliseconds, the calls of all sessions are slow at once, or one call of microseconds lasts
    /// for milliseconds, and an average of so many calls would make the token look slow and
    /// requests be refused that it could have done in time.
    ///
    /// Of the first calls the shortest counts. They are made while a new process shakes hands with
    /// all its clients at once, and wait for a core more than for the token: a mean of them had
    /// requests refused in each restart under load.
    pub fn record(&self, service: Duration, end: Instant) {
        let relaxed = Ordering::Relaxed;
        let sample = nanos(service).max(1);
        let is_among_first = self.first_calls.load(relaxed) < SERVICE_TIME_FIRST_CALLS;
        if is_among_first {
            if self.first_calls.fetch_add(1, relaxed) == 0 {
                self.service_nanos.store(sample, relaxed);
            } else {
                self.service_nanos.fetch_min(sample, relaxed);
            }
        }
        self.stretch_sum.fetch_add(sample, relaxed);
        self.stretch_calls.fetch_add(1, relaxed);
        let end = nanos(end.saturating_duration_since(self.start));
        let began = self.stretch_start.load(relaxed);
        let is_over = end.saturating_sub(began) >= nanos(SERVICE_TIME_WINDOW);
        // Of several workers one ends it.
        if !is_over || self.stretch_start.compare_exchange(began, end, relaxed, relaxed).is_err() {
            return;
        }
        let calls = self.stretch_calls.swap(0, relaxed).max(1);
        let mean = self.stretch_sum.swap(0, relaxed) / calls;
        if is_among_first {
            return;
        }
        let weight = calls.min(SERVICE_TIME_CALLS);
        let old = self.service_nanos.load(relaxed);
        let new = (old * (SERVICE_TIME_CALLS - weight) + mean * weight) / SERVICE_TIME_CALLS;
        self.service_nanos.store(new.max(1), relaxed);
    }

    /// Takes in how long a health check took, two operations, if no job tells better.
    pub fn seed(&self, check: Duration) {
        if self.first_calls.load(Ordering::Relaxed) == 0 {
            self.service_nanos.store(nanos(check / 2), Ordering::Relaxed);
        }
    }

    /// How long a call takes, on average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.service_nanos.load(Ordering::Relaxed))
    }

    /// How long a call must last to be held to hang, once its job's deadline is over.
    #[must_use]
    pub fn hang_limit(&self) -> Duration {
        self.mean().saturating_mul(HANG_FACTOR).clamp(MIN_HANG, MAX_HANG)
    }

    /// Takes in a call's CPU and wall time. At the end of a window of samples, says where the
    /// work is done.
    pub fn sample_cpu(&self, cpu: Duration, wall: Duration) -> Option<Locality> {
        let mut window = self.window.lock();
        if window.fastest.is_none_or(|(fastest, _)| wall < fastest) {
            window.fastest = Some((wall, cpu));
        }
        window.samples += 1;
        (window.samples >= CPU_SAMPLES_PER_WINDOW).then(|| window.close())
    }

    /// Ends the window early: where the work is done by the samples so far, if there are any.
    pub fn close_window(&self) -> Option<Locality> {
        let mut window = self.window.lock();
        (window.samples > 0).then(|| window.close())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Window {
    fn close(&mut self) -> Locality {
        let closed = std::mem::take(self);
        let computes = closed.fastest.is_some_and(|(wall, cpu)| cpu >= wall / 2);
        if computes { Locality::InProcess } else { Locality::Remote }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Records so many calls, each of which ends that long after the one before. Gives the average
    /// then.
    fn recorder(service_time: &ServiceTime) -> impl FnMut(Duration, Duration, u64) -> Duration {
        let mut now = service_time.start;
        move |service, after, times| {
            for _ in 0..times {
                now += after;
                service_time.record(service, now);
            }
            service_time.mean()
        }
    }

    /// Most calls wait for a core or a lock on a busy machine; one that doesn't tells.
    #[test]
    fn a_token_that_computes_here_is_told_by_its_luckiest_call() {
        let service_time = ServiceTime::new(Instant::now());
        let localities = (0..CPU_SAMPLES_PER_WINDOW).filter_map(|n| {
            let wall = if n == 3 { MILLI } else { 20 * MILLI };
            service_time.sample_cpu(MILLI, wall)
        });
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::InProcess]);
        let localities = (0..2 * CPU_SAMPLES_PER_WINDOW)
            .filter_map(|_| service_time.sample_cpu(MILLI, 20 * MILLI));
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::Remote; 2]);
        assert_eq!(service_time.close_window(), None);
    }

    /// A machine that was stopped for a while in the middle of a call, which looks like computing.
    #[test]
    fn a_stop_of_the_machine_is_no_computing() {
        let service_time = ServiceTime::new(Instant::now());
        let localities = (0..CPU_SAMPLES_PER_WINDOW).filter_map(|n| {
            let (cpu, wall) = if n == 3 { (20, 22) } else { (0, 2) };
            service_time.sample_cpu(cpu * MILLI, wall * MILLI)
        });
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::Remote]);
    }

    /// The average follows, and one outlier does not carry it away.
    #[test]
    fn average() {
        let service_time = ServiceTime::new(Instant::now());
        let mut apart = recorder(&service_time);
        let mut record = |service, times| apart(service, service, times);
        service_time.seed(100 * MILLI);
        assert_eq!(service_time.mean(), 50 * MILLI);
        assert_eq!(record(2 * MILLI, 1), 2 * MILLI);
        service_time.seed(100 * MILLI);
        assert_eq!(service_time.mean(), 2 * MILLI);
        record(2 * MILLI, SERVICE_TIME_FIRST_CALLS);
        record(34 * MILLI, 1);
        assert!(record(2 * MILLI, 25) < 6 * MILLI);
        assert!(record(200 * MILLI, 8) > 100 * MILLI, "slow now, and soon known to be");
        assert!(record(MILLI, 400) < 2 * MILLI);
        // A thread that computes for 3 ms and then waits for its core for 3 ms: two a 40 us.
        for _ in 0..100 {
            record(3 * MILLI, 1);
            record(MILLI / 50, 150);
        }
        assert!(service_time.mean() < MILLI / 20, "{:?}", service_time.mean());
    }

    /// Sixty-four sessions whose calls of 2 ms all lasted 10 ms once, since the machine was busy.
    #[test]
    fn a_moment_does_not_count_once_for_each_session() {
        let service_time = ServiceTime::new(Instant::now());
        let mut record = recorder(&service_time);
        record(2 * MILLI, 2 * MILLI / 64, 6_400);
        record(10 * MILLI, MILLI / 10, 64);
        assert!(record(2 * MILLI, 2 * MILLI / 64, 1_600) < 3 * MILLI);
        assert!(record(10 * MILLI, 10 * MILLI / 64, 2_000) > 9 * MILLI, "but if it goes on");
    }

    /// A new process that shakes hands with all its clients has little of the cores for its calls,
    /// for longer than one stretch; what it could do in time then must not be refused.
    #[test]
    fn a_busy_start_does_not_make_a_token_slow() {
        let service_time = ServiceTime::new(Instant::now());
        let mut apart = recorder(&service_time);
        let mut record = |service, times| apart(service, service, times);
        assert_eq!(record(38 * MILLI, 1), 38 * MILLI);
        assert_eq!(record(MILLI / 20, 5), MILLI / 20);
        assert_eq!(record(38 * MILLI, 8), MILLI / 20);
        record(MILLI / 20, SERVICE_TIME_FIRST_CALLS);
        assert!(record(10 * MILLI, 100) > 9 * MILLI, "but if it goes on");
    }
}

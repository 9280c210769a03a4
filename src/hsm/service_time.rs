//! Measurement of a token's speed, and of whether it computes in this process or across a network.

use std::time::{Duration, Instant};

use crate::limits::{
    CPU_SAMPLES_PER_WINDOW, HANG_FACTOR, MAX_CPU_WINDOW, MAX_HANG, MIN_CPU_SAMPLES_PER_WINDOW,
    MIN_HANG, SERVICE_TIME_CALLS, SERVICE_TIME_FIRST_CALLS, SERVICE_TIME_WINDOW,
};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Service time of one token, averaged over recent calls.
pub struct ServiceTime {
    /// Average service time; during the first calls, the shortest so far.
    service_nanos: AtomicU64,
    /// Number of calls for jobs, counted up to [`SERVICE_TIME_FIRST_CALLS`]. If it is zero,
    /// `service_nanos` is from a health check.
    first_calls: AtomicU64,
    start: Instant,
    /// Start of the current window, in nanoseconds after `start`.
    stretch_start: AtomicU64,
    /// Number of calls that ended in the current window.
    stretch_calls: AtomicU64,
    /// Total duration of those calls, in nanoseconds.
    stretch_sum: AtomicU64,
    window: Mutex<Window>,
}

/// A series of CPU-time samples. Only the fastest call counts: on a busy machine, or with sessions
/// that contend for a module's locks, most calls wait, but the fastest of many does not wait if the
/// token computes in this process, and always waits if the token is remote. (The call with the
/// largest share of CPU time would be misleading: if a hypervisor pauses the machine, the running
/// thread appears to have computed all that time, and a remote token would be limited to one
/// session per core until the end of the next window.)
#[derive(Default)]
struct Window {
    samples: u32,
    /// End of the first call.
    began: Option<Instant>,
    /// The shortest call, with its thread's CPU time.
    fastest: Option<(Duration, Duration)>,
}

/// The place where a token's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// In this process, on this machine's cores.
    InProcess,
    /// On another device, while the calling thread waits.
    Remote,
}

impl ServiceTime {
    /// Creates an empty measurement. `start` is any time before the first call ends.
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

    /// Records the duration of a call that ended at `end`.
    ///
    /// The average is over time, not over calls. If the machine is busy for some milliseconds, the
    /// calls of all sessions are slow at once, or a call of microseconds takes milliseconds.
    /// Averaging over calls would make the token look slow, and requests would be rejected that it
    /// could have completed in time.
    ///
    /// Among the first calls, the shortest counts. They are made while a new process performs TLS
    /// handshakes with all its clients, and wait for a core more than for the token. When their
    /// mean was used, requests were rejected at each restart under load.
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
        // Only one of several workers closes the window.
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

    /// Sets the service time from a health check, which is two operations, if no job has been done
    /// yet.
    pub fn seed(&self, check: Duration) {
        if self.first_calls.load(Ordering::Relaxed) == 0 {
            self.service_nanos.store(nanos(check / 2), Ordering::Relaxed);
        }
    }

    /// Returns the average duration of a call.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.service_nanos.load(Ordering::Relaxed))
    }

    /// Returns the duration after which a call counts as hanging, once its job's deadline has
    /// passed.
    #[must_use]
    pub fn hang_limit(&self) -> Duration {
        self.mean().saturating_mul(HANG_FACTOR).clamp(MIN_HANG, MAX_HANG)
    }

    /// Records the CPU and wall time of a call that ended at `end`. At the end of a window of
    /// samples, returns where the work is done.
    ///
    /// A window also ends by time. A token that computes in this process has few active sessions:
    /// if it becomes slow, a full window of its calls would take seconds, during which most
    /// requests would be refused while its other sessions are unused.
    pub fn sample_cpu(&self, cpu: Duration, wall: Duration, end: Instant) -> Option<Locality> {
        let mut window = self.window.lock();
        let began = *window.began.get_or_insert(end);
        let is_long = end.saturating_duration_since(began) >= MAX_CPU_WINDOW;
        let wanted = if is_long { MIN_CPU_SAMPLES_PER_WINDOW } else { CPU_SAMPLES_PER_WINDOW };
        if window.fastest.is_none_or(|(fastest, _)| wall < fastest) {
            window.fastest = Some((wall, cpu));
        }
        window.samples += 1;
        (window.samples >= wanted).then(|| window.close())
    }

    /// Closes the window early. Returns where the work is done, if there were any samples.
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

    /// Returns a function that records a number of calls, each ending a given time after the
    /// previous one, and returns the average.
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

    /// On a busy machine most calls wait for a core or a lock; a single call that does not wait is
    /// enough.
    #[test]
    fn a_token_that_computes_here_is_told_by_its_luckiest_call() {
        let now = Instant::now();
        let service_time = ServiceTime::new(now);
        let localities = (0..CPU_SAMPLES_PER_WINDOW).filter_map(|n| {
            let wall = if n == 3 { MILLI } else { 20 * MILLI };
            service_time.sample_cpu(MILLI, wall, now)
        });
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::InProcess]);
        let localities = (0..2 * CPU_SAMPLES_PER_WINDOW)
            .filter_map(|_| service_time.sample_cpu(MILLI, 20 * MILLI, now));
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::Remote; 2]);
        assert_eq!(service_time.close_window(), None);
    }

    /// A pause of the machine in the middle of a call looks like CPU time.
    #[test]
    fn a_stop_of_the_machine_is_no_computing() {
        let now = Instant::now();
        let service_time = ServiceTime::new(now);
        let localities = (0..CPU_SAMPLES_PER_WINDOW).filter_map(|n| {
            let (cpu, wall) = if n == 3 { (20, 22) } else { (0, 2) };
            service_time.sample_cpu(cpu * MILLI, wall * MILLI, now)
        });
        assert_eq!(localities.collect::<Vec<_>>(), [Locality::Remote]);
    }

    /// A token with one active session becomes slow: within a second, not after a full window, it
    /// is known that its calls wait, and it gets its other sessions.
    #[test]
    fn a_token_that_becomes_slow_is_told_within_a_second() {
        let start = Instant::now();
        let service_time = ServiceTime::new(start);
        let first = (1..=50).find_map(|n| {
            let end = start + 80 * MILLI * n;
            service_time.sample_cpu(MILLI / 50, 80 * MILLI, end).map(|found| (end - start, found))
        });
        assert_eq!(first, Some((640 * MILLI, Locality::Remote)));
    }

    /// The average follows changes, and is robust against a single outlier.
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
        assert!(record(200 * MILLI, 8) > 100 * MILLI, "a slow token is soon noticed");
        assert!(record(MILLI, 400) < 2 * MILLI);
        // Calls of 20 us by a thread that computes for 3 ms, and then waits 3 ms for its core.
        for _ in 0..100 {
            record(3 * MILLI, 1);
            record(MILLI / 50, 150);
        }
        assert!(service_time.mean() < MILLI / 20, "{:?}", service_time.mean());
    }

    /// The calls of 64 sessions, usually 2 ms long, all take 10 ms once because the machine is
    /// busy.
    #[test]
    fn a_moment_does_not_count_once_for_each_session() {
        let service_time = ServiceTime::new(Instant::now());
        let mut record = recorder(&service_time);
        record(2 * MILLI, 2 * MILLI / 64, 6_400);
        record(10 * MILLI, MILLI / 10, 64);
        assert!(record(2 * MILLI, 2 * MILLI / 64, 1_600) < 3 * MILLI);
        assert!(record(10 * MILLI, 10 * MILLI / 64, 2_000) > 9 * MILLI, "if it continues");
    }

    /// A new process that performs handshakes with all its clients has little CPU time for its
    /// calls, for longer than one window. Jobs that it can do in time must not be rejected.
    #[test]
    fn a_busy_start_does_not_make_a_token_slow() {
        let service_time = ServiceTime::new(Instant::now());
        let mut apart = recorder(&service_time);
        let mut record = |service, times| apart(service, service, times);
        assert_eq!(record(38 * MILLI, 1), 38 * MILLI);
        assert_eq!(record(MILLI / 20, 5), MILLI / 20);
        assert_eq!(record(38 * MILLI, 8), MILLI / 20);
        record(MILLI / 20, SERVICE_TIME_FIRST_CALLS);
        assert!(record(10 * MILLI, 100) > 9 * MILLI, "if it continues");
    }
}

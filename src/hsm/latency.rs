//! A histogram of the durations of a token's calls in the last minute, updated by many threads.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{LATENCY_WINDOW, LATENCY_WINDOWS, MIN_LATENCY_SAMPLES};

/// Four buckets per octave, from 1 us to 16 s.
const BUCKETS: usize = 4 * 24;

/// The durations of one token's calls.
pub struct Latencies {
    windows: Box<[[AtomicU32; BUCKETS]; LATENCY_WINDOWS]>,
    current: AtomicUsize,
    began: Mutex<Option<Instant>>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            windows: Box::new([const { [const { AtomicU32::new(0) }; BUCKETS] }; LATENCY_WINDOWS]),
            current: AtomicUsize::new(0),
            began: Mutex::default(),
        }
    }
}

impl Latencies {
    /// Records the duration of a call.
    pub fn record(&self, call: Duration) {
        // Acquire, with the Release of `advance`: a window is seen as the current one only once it
        // is empty, or this call could be counted before the old counts are erased, and erased too.
        let window = &self.windows[self.current.load(Ordering::Acquire) % LATENCY_WINDOWS];
        window[bucket(call)].fetch_add(1, Ordering::Relaxed);
    }

    /// Drops durations older than a minute. Called periodically, by one thread.
    pub fn advance(&self, now: Instant) {
        let mut began = self.began.lock();
        let start = *began.get_or_insert(now);
        let passed = now.saturating_duration_since(start).as_nanos() / LATENCY_WINDOW.as_nanos();
        for _ in 0..passed.min(LATENCY_WINDOWS as u128) {
            let next = (self.current.load(Ordering::Relaxed) + 1) % LATENCY_WINDOWS;
            self.windows[next].iter().for_each(|count| count.store(0, Ordering::Relaxed));
            self.current.store(next, Ordering::Release);
        }
        if passed > 0 {
            *began = Some(now);
        }
    }

    /// Returns a duration that nine in ten calls did not exceed, at most a quarter too high; `None`
    /// if there were too few calls.
    #[must_use]
    pub fn p90(&self) -> Option<Duration> {
        let mut counts = [0_u64; BUCKETS];
        for window in self.windows.iter() {
            for (sum, count) in counts.iter_mut().zip(window) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
        let all: u64 = counts.iter().sum();
        if all < MIN_LATENCY_SAMPLES {
            return None;
        }
        let mut below = 0;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            if below * 10 >= all * 9 {
                return Some(end_of(index));
            }
        }
        None
    }
}

fn bucket(call: Duration) -> usize {
    let micros = u64::try_from(call.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2();
    // The two bits that follow the leading one.
    let quarter =
        if octave >= 2 { (micros >> (octave - 2)) & 3 } else { (micros << 2 >> octave) & 3 };
    (4 * octave as usize + usize::try_from(quarter).unwrap_or(0)).min(BUCKETS - 1)
}

/// Returns the shortest duration that is too long for the bucket.
fn end_of(bucket: usize) -> Duration {
    let next = u64::try_from(bucket + 1).unwrap_or(u64::MAX);
    let nanos = (1000_u64 << (next / 4)) / 4 * (4 + next % 4);
    Duration::from_nanos(nanos)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Each duration is in its bucket, whose end is at most a quarter above its start.
    #[test]
    fn buckets() {
        for micros in (1..5000).chain([100_000, 1_000_000, 15_999_999]) {
            let call = Duration::from_micros(micros);
            let end = end_of(bucket(call));
            assert!(
                call < end && end <= call * 5 / 4 + Duration::from_micros(1),
                "{call:?} {end:?}"
            );
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_secs(1000)), BUCKETS - 1);
    }

    /// One slow call in a hundred does not change the result; one in five does.
    #[test]
    fn the_slow_ones_do_not_set_it() {
        let latencies = Latencies::default();
        assert_eq!(latencies.p90(), None);
        for n in 0..1000 {
            latencies.record(Duration::from_millis(if n % 100 == 0 { 200 } else { 1 }));
        }
        assert!(latencies.p90().unwrap() <= Duration::from_micros(1250));
        for _ in 0..250 {
            latencies.record(Duration::from_millis(200));
        }
        assert!(latencies.p90().unwrap() >= Duration::from_millis(200));
    }

    /// Durations are dropped after a minute, and not before.
    #[test]
    fn it_is_of_the_last_minute() {
        let (latencies, start) = (Latencies::default(), Instant::now());
        latencies.advance(start);
        (0..100).for_each(|_| latencies.record(Duration::from_millis(1)));
        for seconds in 1..60 {
            latencies.advance(start + Duration::from_secs(seconds));
        }
        assert!(latencies.p90().is_some());
        latencies.advance(start + Duration::from_secs(60));
        assert_eq!(latencies.p90(), None);
        (0..100).for_each(|_| latencies.record(Duration::from_millis(1)));
        latencies.advance(start + Duration::from_secs(3600));
        assert_eq!(latencies.p90(), None);
    }
}

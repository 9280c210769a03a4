//! The times at which requests are due, in nanoseconds after the run's start.

use std::time::Duration;

/// Pacing of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each connection sends its next request when it has received an answer.
    Closed,
    /// Open loop: requests per second over all threads, regardless of the answers.
    Open(f64),
}

/// A part of the run with one pacing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Pacing: a closed loop, or a rate.
    pub pace: Pace,
    /// Duration.
    pub duration: Duration,
    /// Set if it counts towards the results, unlike a warm-up.
    pub is_measured: bool,
}

/// A point in time, in nanoseconds after the run's start.
pub type Nanos = u64;

/// `duration` in nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// The intended send times of one thread.
pub struct Arrivals {
    phases: Vec<Phase>,
    threads: f64,
    /// Offset of this thread's constant arrivals, so that those of different threads interleave.
    offset: f64,
    is_poisson: bool,
    random: fastrand::Rng,
    phase: usize,
    phase_start: Nanos,
    /// The next arrival, in mean gaps after the phase's start: whole numbers if arrivals are evenly
    /// spaced, so that no rounding errors add or drop an arrival.
    next: f64,
}

impl Arrivals {
    /// Makes the arrivals of `thread` among `threads`.
    #[must_use]
    pub fn new(phases: &[Phase], thread: usize, threads: usize, is_poisson: bool) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "threads are few")]
        let (thread, threads) = (thread as f64, threads as f64);
        let mut arrivals = Self {
            phases: phases.to_vec(),
            threads,
            offset: thread / threads,
            is_poisson,
            random: fastrand::Rng::new(),
            phase: 0,
            phase_start: 0,
            next: 0.0,
        };
        arrivals.begin_phase();
        arrivals
    }

    /// Returns the next arrival's time and phase without consuming it; `None` if there are no more.
    pub fn peek(&mut self) -> Option<(Nanos, usize)> {
        while let Some(phase) = self.phases.get(self.phase) {
            let duration = nanos(phase.duration);
            if let Some(gap) = self.gap(phase) {
                let next = whole(self.next * gap);
                if next < duration {
                    return Some((self.phase_start + next, self.phase));
                }
            }
            self.phase_start += duration;
            self.phase += 1;
            self.begin_phase();
        }
        None
    }

    /// Consumes the arrival that [`Self::peek`] returned.
    pub fn advance(&mut self) {
        self.next += if self.is_poisson { self.exponential() } else { 1.0 };
    }

    fn begin_phase(&mut self) {
        self.next = if self.is_poisson { self.exponential() } else { self.offset };
    }

    /// Mean time between arrivals in nanoseconds; `None` in a closed loop.
    fn gap(&self, phase: &Phase) -> Option<f64> {
        match phase.pace {
            Pace::Open(rate) => Some(1e9 * self.threads / rate),
            Pace::Closed => None,
        }
    }

    /// Exponentially distributed with mean 1: the gaps between arrivals of a Poisson process.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// The phase at a time, and that phase's end; `None` after the last.
#[must_use]
pub fn phase_at(phases: &[Phase], now: Nanos) -> Option<(usize, Nanos)> {
    let mut end = 0;
    for (index, phase) in phases.iter().enumerate() {
        end += nanos(phase.duration);
        if now < end {
            return Some((index, end));
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn phase(pace: Pace, seconds: u64) -> Phase {
        Phase { pace, duration: Duration::from_secs(seconds), is_measured: true }
    }

    fn all(mut arrivals: Arrivals) -> Vec<(Nanos, usize)> {
        let mut taken = Vec::new();
        while let Some(arrival) = arrivals.peek() {
            taken.push(arrival);
            arrivals.advance();
        }
        taken
    }

    /// Exactly rate times seconds arrivals, evenly spread over all threads.
    #[test]
    fn constant_rates_are_exact_over_threads() {
        let phases = [phase(Pace::Open(300.0), 2), phase(Pace::Open(900.0), 1)];
        let mut times: Vec<(Nanos, usize)> =
            (0..3).flat_map(|thread| all(Arrivals::new(&phases, thread, 3, false))).collect();
        times.sort_unstable();
        assert_eq!(times.len(), 1500);
        assert_eq!(times.iter().filter(|(_, phase)| *phase == 1).count(), 900);
        for pair in times[..600].windows(2) {
            assert!(pair[1].0.abs_diff(pair[0].0).abs_diff(3_333_333) <= 2, "{pair:?}");
        }
        assert_eq!(times[600], (2_000_000_000, 1));
    }

    /// A Poisson process with mean 10,000 has that many arrivals, to within 6 standard deviations
    /// of 100 (exceeded with a probability of 1 in 10^9), and the deviation of its gaps equals
    /// their mean.
    #[test]
    fn poisson_has_the_rate_and_the_spread() {
        let times = all(Arrivals::new(&[phase(Pace::Open(1000.0), 10)], 0, 1, true));
        assert!(times.len().abs_diff(10_000) < 600, "{}", times.len());
        let short = times.windows(2).filter(|pair| pair[1].0 - pair[0].0 < 693_147).count();
        assert!(short.abs_diff(times.len() / 2) < 400, "half of the gaps are under ln 2 ms");
    }

    #[test]
    fn a_closed_loop_has_no_arrivals_and_phases_follow_each_other() {
        let phases = [phase(Pace::Closed, 1), phase(Pace::Open(2.0), 1)];
        assert_eq!(
            all(Arrivals::new(&phases, 0, 1, false)),
            [(1_000_000_000, 1), (1_500_000_000, 1)]
        );
        assert_eq!(phase_at(&phases, 0), Some((0, 1_000_000_000)));
        assert_eq!(phase_at(&phases, 1_000_000_000).unwrap().0, 1);
        assert_eq!(phase_at(&phases, 2_000_000_000), None);
    }
}

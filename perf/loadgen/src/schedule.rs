//! When requests are meant to be sent. Times are nanoseconds after the run's start.

use std::time::Duration;

/// Pacing of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each connection sends when it has its answer.
    Closed,
    /// Open loop: that many a second over all threads, whatever the answers do.
    Open(f64),
}

/// A stretch of the run at one pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Closed loop, or a rate.
    pub pace: Pace,
    /// Duration.
    pub duration: Duration,
    /// Set if it counts towards the results; a warm-up does not.
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
    /// Between constant arrivals of different threads, so that they interleave.
    offset: f64,
    is_poisson: bool,
    random: fastrand::Rng,
    phase: usize,
    phase_start: Nanos,
    /// The next arrival, in mean gaps after the phase's start: whole steps if they are evenly
    /// spaced, so that nothing adds up to one arrival more or less.
    next: f64,
}

impl Arrivals {
    /// For `thread` of `threads`.
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

    /// The next arrival's time and phase without taking it; `None` when there is none any more.
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

    /// Takes the arrival that [`Self::peek`] gave.
    pub fn advance(&mut self) {
        self.next += if self.is_poisson { self.exponential() } else { 1.0 };
    }

    fn begin_phase(&mut self) {
        self.next = if self.is_poisson { self.exponential() } else { self.offset };
    }

    /// Mean nanoseconds between arrivals; none in a closed loop.
    fn gap(&self, phase: &Phase) -> Option<f64> {
        match phase.pace {
            Pace::Open(rate) => Some(1e9 * self.threads / rate),
            Pace::Closed => None,
        }
    }

    /// Exponentially distributed, mean 1: what lies between the arrivals of a Poisson process.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// The phase at a time, and its end; `None` after the last.
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

    /// Exactly rate x seconds arrivals, evenly spread, over all threads.
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

    /// A Poisson process of 10,000 has 10,000 arrivals, give or take 3 standard deviations of
    /// 100 (a chance of 1 in 10^9 at the 6 used here), and gaps as variable as their mean.
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

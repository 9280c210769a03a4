//! Runs at rising rates, until the proxy no longer keeps within the limits.

use serde::Serialize;

use crate::args::RunArguments;
use crate::metrics::Metrics;
use crate::results::{Point, Results, ratio};
use crate::run::Prepared;
use crate::schedule::{Pace, Phase};

/// Number of times that a rate is tried before it counts as too high: another program that takes
/// the machine for a moment must not end the ramp.
const ATTEMPTS: u32 = 2;

/// Milliseconds by which latency may differ within a step without meaning anything.
const NOISE_MS: f64 = 5.0;

/// Limits of a ramp, and what its result is for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Highest 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// Highest share of requests, in percent, that fail or take longer than 250 ms.
    pub failed_percent: f64,
    /// Requests per second that the replicas must handle while one is down.
    pub wanted_rate: f64,
}

/// The result of a rate.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Offered requests per second.
    pub rate: f64,
    /// Correct answers per second.
    pub answered: f64,
    /// Median of the correct answers in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the correct answers in milliseconds.
    pub p99_ms: f64,
    /// Highest latency of a correct answer in milliseconds.
    pub max_ms: f64,
    /// Percentage of requests that failed or took longer than 250 ms.
    pub failed_percent: f64,
    /// Mean milliseconds of a request in the HSM, if the proxy's metrics are at hand.
    pub hsm_ms: Option<f64>,
    /// Mean milliseconds that a request waited for a session.
    pub queue_ms: Option<f64>,
    /// Sessions that may be at work at once.
    pub sessions: Option<f64>,
    /// 99th percentile of the generator's own delay in milliseconds.
    pub late_p99_ms: f64,
    /// Set if latency rose during the step: the proxy did not keep up, and only the step's end kept
    /// it within the limits.
    pub is_rising: bool,
    /// Set if an answer was wrong.
    pub has_wrong_answers: bool,
}

/// A ramp: its steps, of which the last may exceed the limits.
#[derive(Debug, Serialize)]
pub struct Ramp {
    /// The limits.
    pub limits: Limits,
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// Set if the last step exceeds the limits, or if the ramp broke off.
    pub is_exceeded: bool,
    /// Reason for which the ramp broke off after its first step: the proxy ended, for instance.
    pub broke_off: Option<String>,
}

impl Step {
    fn new(rate: f64, results: &Results, metrics: Option<Metrics>) -> Self {
        let total = &results.total;
        let late = total.requests - total.ok_in_250_ms;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let failed = late as f64 * 100.0;
        let metrics = metrics.filter(|metrics| metrics.calls > 0.0);
        let mean = |seconds: f64, calls: f64| seconds * 1e3 / calls;
        Self {
            rate,
            answered: total.ok_per_second,
            p50_ms: total.latency_ms.p50,
            p99_ms: total.latency_ms.p99,
            max_ms: total.latency_ms.max,
            failed_percent: ratio(failed, total.requests),
            hsm_ms: metrics.map(|metrics| mean(metrics.hsm_seconds, metrics.calls)),
            queue_ms: metrics.map(|metrics| mean(metrics.queue_seconds, metrics.calls)),
            sessions: metrics.map(|metrics| metrics.sessions),
            late_p99_ms: results.generator.lateness_ms.p99,
            is_rising: is_rising(&results.over_time),
            has_wrong_answers: results.has_wrong_answers(),
        }
    }

    /// Returns whether the step keeps within the limits.
    #[must_use]
    pub fn is_within(&self, limits: &Limits) -> bool {
        // Without any correct answer, there is no latency to judge by.
        self.answered > 0.0
            && !self.is_rising
            && self.p99_ms <= limits.p99_ms
            && self.failed_percent <= limits.failed_percent
    }

    /// Mean number of sessions at work (Little's law).
    #[must_use]
    pub fn busy(&self) -> Option<f64> {
        self.hsm_ms.map(|milli| self.answered * milli / 1e3)
    }
}

/// Does a ramp.
///
/// # Errors
/// Reason why the first run was not possible. A later one that is not ends the ramp, whose steps
/// until then are worth telling.
pub fn run(arguments: &RunArguments) -> Result<Ramp, String> {
    let limits = Limits {
        p99_ms: arguments.max_p99_milli,
        failed_percent: arguments.max_failed_percent,
        wanted_rate: arguments.wanted_rate,
    };
    let admin = arguments.metrics()?;
    let read = || match admin {
        Some(address) => Metrics::read(address)
            .map(Some)
            .map_err(|error| format!("the proxy's metrics at {address}: {error}")),
        None => Ok(None),
    };
    let measured = arguments.phases()?.into_iter().filter(|phase| phase.is_measured);
    let prepared = Prepared::new(arguments)?;
    let mut ramp = Ramp { limits, steps: Vec::new(), is_exceeded: false, broke_off: None };
    for phase in measured {
        let Pace::Open(rate) = phase.pace else { continue };
        for _ in 0..ATTEMPTS {
            let attempt = || {
                let before = read()?;
                let results = prepared.run(with_warm_up(arguments, phase))?;
                let metrics = read()?.zip(before).map(|(after, before)| after.since(before));
                Ok(Step::new(rate, &results, metrics))
            };
            let step = match attempt() {
                Ok(step) => step,
                Err(why) if ramp.steps.is_empty() => return Err(why),
                Err(why) => {
                    (ramp.is_exceeded, ramp.broke_off) = (true, Some(why));
                    return Ok(ramp);
                }
            };
            ramp.is_exceeded = !step.is_within(&limits);
            let is_again = ramp.steps.last().is_some_and(|last| last.rate == rate);
            if is_again {
                ramp.steps.pop();
            }
            ramp.steps.push(step);
            if !ramp.is_exceeded {
                break;
            }
        }
        if ramp.is_exceeded {
            break;
        }
    }
    Ok(ramp)
}

/// A step's phases: each has a warm-up of its own, at its rate.
fn with_warm_up(arguments: &RunArguments, phase: Phase) -> Vec<Phase> {
    let warm_up = Phase { duration: arguments.warm_up(), is_measured: false, ..phase };
    let phases = [warm_up, phase];
    phases.into_iter().filter(|phase| !phase.duration.is_zero()).collect()
}

/// Returns whether the median latency of the last quarter is more than twice that of the first.
fn is_rising(points: &[Point]) -> bool {
    let measured = points.iter().filter(|point| point.seconds >= 0.0 && point.ok > 0);
    let medians: Vec<f64> = measured.map(|point| point.p50_ms).collect();
    let quarter = medians.len() / 4;
    let mut medians = medians.into_iter();
    let mean = |values: Vec<f64>| ratio(values.iter().sum(), values.len() as u64);
    let first = mean(medians.by_ref().take(quarter).collect());
    let last = mean(medians.rev().take(quarter).collect());
    last > 2.0 * first + NOISE_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(medians: &[f64]) -> Vec<Point> {
        let point = |(second, p50_ms): (i32, &f64)| Point {
            seconds: f64::from(second) - 1.0,
            ok: 1,
            ok_in_250_ms: 1,
            failed: 0,
            refused: 0,
            p50_ms: *p50_ms,
            p99_ms: *p50_ms,
            max_ms: *p50_ms,
        };
        (0..).zip(medians).map(point).collect()
    }

    /// A queue that grows is told from a slow moment in the middle, and from a warm-up.
    #[test]
    fn rising_latency() {
        assert!(is_rising(&points(&[0.0, 10.0, 10.0, 30.0, 40.0, 60.0, 70.0, 80.0, 90.0])));
        assert!(!is_rising(&points(&[0.0, 10.0, 10.0, 90.0, 90.0, 10.0, 10.0, 12.0, 11.0])));
        assert!(!is_rising(&points(&[0.1, 0.1, 0.1, 0.1, 0.1, 2.0, 3.0, 3.0, 4.0])));
        assert!(!is_rising(&points(&[1.0, 50.0])) && !is_rising(&[]));
    }
}

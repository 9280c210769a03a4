//! Samples of the last hour for the status page, one every ten seconds, in bounded memory.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use super::sources::Sources;
use super::sums::{Sums, durations_of};
use crate::limits::HISTORY_SAMPLES;
use crate::observe::metrics::histogram::Snapshot;
use crate::observe::metrics::labels::CallLabel;
use crate::observe::metrics::process::Process;
use crate::observe::timestamp::unix_secs;

/// Rates within one interval, and gauges at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) unix_secs: u64,
    /// Requests per second that succeeded.
    pub(super) ok: f64,
    /// Requests per second that were refused because of the caller.
    pub(super) refused: f64,
    /// Requests per second that failed because of the proxy or the HSM.
    pub(super) failed: f64,
    /// Milliseconds from first byte to answer, for all calls but health; `None` if there were none.
    pub(super) p50_milli: Option<f64>,
    pub(super) p99_milli: Option<f64>,
    /// Milliseconds in the HSM.
    pub(super) hsm_p50_milli: Option<f64>,
    pub(super) hsm_p99_milli: Option<f64>,
    /// Number of waiting requests, summed over all tokens.
    pub(super) queued: u64,
    /// Number of busy sessions.
    pub(super) busy: u64,
    /// Number of tokens in use.
    pub(super) tokens: u64,
    /// Seconds of processor time per second.
    pub(super) cpus: f64,
}

/// The latest samples, oldest first.
#[derive(Clone, Debug)]
pub(super) struct History(VecDeque<Sample>);

impl Default for History {
    fn default() -> Self {
        Self(VecDeque::with_capacity(HISTORY_SAMPLES))
    }
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.0.len() == HISTORY_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }
}

/// Sums of counters at one moment.
struct Totals {
    at: Instant,
    outcomes: Sums,
    total: Snapshot,
    hsm: Snapshot,
    cpu_seconds: f64,
}

impl Totals {
    fn of(sources: &Sources) -> Self {
        let metrics = &sources.metrics;
        let (mut all, mut hsm) = (Snapshot::default(), Snapshot::default());
        // Health calls are so fast that they would hide the durations of the others.
        for call in CallLabel::ALL.into_iter().filter(|call| *call != CallLabel::Health) {
            all.add(&durations_of(metrics, call, |durations| &durations.total));
            hsm.add(&durations_of(metrics, call, |durations| &durations.hsm));
        }
        Self {
            at: Instant::now(),
            outcomes: Sums::of(metrics),
            total: all,
            hsm,
            cpu_seconds: Process::now().cpu_seconds,
        }
    }
}

/// Computes samples from the differences of totals.
pub(super) struct Sampler {
    last: Totals,
}

impl Sampler {
    pub(super) fn new(sources: &Sources) -> Self {
        Self { last: Totals::of(sources) }
    }

    /// Returns a sample of the time since the last one.
    pub(super) fn sample(&mut self, sources: &Sources) -> Sample {
        let now = Totals::of(sources);
        let last = std::mem::replace(&mut self.last, now);
        let now = &self.last;
        let stats = sources.hsm.load().stats();
        Sample {
            unix_secs: unix_secs(SystemTime::now()),
            queued: stats.iter().map(|token| token.queued as u64).sum(),
            busy: stats.iter().map(|token| token.running as u64).sum(),
            tokens: stats.iter().filter(|token| token.is_usable).count() as u64,
            ..between(&last, now)
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn between(last: &Totals, now: &Totals) -> Sample {
    let seconds = now.at.saturating_duration_since(last.at).as_secs_f64().max(0.001);
    let rate = |now: u64, last: u64| now.saturating_sub(last) as f64 / seconds;
    let (total, hsm) = (now.total.since(&last.total), now.hsm.since(&last.hsm));
    let milli = |snapshot: &Snapshot, quantile| {
        snapshot.quantile_micros(quantile).map(|micros| micros / 1e3)
    };
    Sample {
        ok: rate(now.outcomes.ok, last.outcomes.ok),
        refused: rate(now.outcomes.refused, last.outcomes.refused),
        failed: rate(now.outcomes.failed, last.outcomes.failed),
        p50_milli: milli(&total, 0.5),
        p99_milli: milli(&total, 0.99),
        hsm_p50_milli: milli(&hsm, 0.5),
        hsm_p99_milli: milli(&hsm, 0.99),
        cpus: (now.cpu_seconds - last.cpu_seconds).max(0.0) / seconds,
        ..Sample::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The history covers exactly one hour.
    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        for unix_secs in 0..3 * HISTORY_SAMPLES as u64 {
            history.push(Sample { unix_secs, ..Sample::default() });
        }
        let times: Vec<u64> = history.samples().map(|sample| sample.unix_secs).collect();
        assert_eq!(times.len(), HISTORY_SAMPLES);
        assert_eq!((times[0], times[HISTORY_SAMPLES - 1]), (720, 1079));
    }

    /// A sample covers only its own interval.
    #[test]
    fn a_sample_is_a_difference() {
        let at = Instant::now();
        let totals = |secs, ok, failed, bucket: u64| {
            let mut total = Snapshot::default();
            total.buckets[1] = bucket;
            Totals {
                at: at + Duration::from_secs(secs),
                outcomes: Sums { ok, refused: 0, failed },
                total,
                hsm: Snapshot::default(),
                cpu_seconds: secs as f64 / 2.0,
            }
        };
        let sample = between(&totals(0, 1_000_000, 5, 7), &totals(10, 1_000_100, 25, 8));
        assert_eq!((sample.ok, sample.refused, sample.failed), (10.0, 0.0, 2.0));
        assert_eq!((sample.p50_milli, sample.hsm_p50_milli), (Some(0.15), None));
        assert!((sample.cpus - 0.5).abs() < 1e-9);
    }
}

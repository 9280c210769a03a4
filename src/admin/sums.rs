//! Sums over event loops, stores and keys, for `/metrics` and the status page.

use crate::limits::MAX_KEYS_IN_METRICS;
use crate::observe::metrics::histogram::{Histogram, Snapshot};
use crate::observe::metrics::labels::{CallLabel, Fault};
use crate::observe::metrics::{Durations, Metrics, OutcomeCounts};

/// Number of requests by the party at fault for their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) ok: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
}

impl Sums {
    pub(super) fn add(&mut self, counts: &OutcomeCounts) {
        for (_, outcome, count) in counts.iter() {
            match outcome.fault() {
                Fault::None => self.ok += count,
                Fault::Caller => self.refused += count,
                Fault::Service => self.failed += count,
            }
        }
    }

    /// Returns the sums of all stores, and of requests that reached none.
    pub(super) fn of(metrics: &Metrics) -> Self {
        let mut sums = Self::default();
        sums.add(&metrics.storeless());
        for store in metrics.stores() {
            sums.add(&store.counts());
        }
        sums
    }
}

/// Returns one of a call's histograms, summed over all event loops.
pub(super) fn durations_of(
    metrics: &Metrics,
    call: CallLabel,
    which: impl Fn(&Durations) -> &Histogram,
) -> Snapshot {
    let mut sum = Snapshot::default();
    for of_loop in metrics.loops() {
        which(of_loop.durations(call)).add_to(&mut sum);
    }
    sum
}

/// Returns the keys with the most encryptions, and the sum of all others.
pub(super) fn most_used_keys(metrics: &Metrics) -> (Vec<(Box<str>, u64)>, u64) {
    let keys = metrics.used_keys();
    let mut used: Vec<(Box<str>, u64)> =
        keys.iter().map(|key| (key.key_id.clone(), key.encrypts.get())).collect();
    used.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let rest = used.split_off(used.len().min(MAX_KEYS_IN_METRICS));
    (used, rest.iter().map(|(_, count)| count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Outcomes;
    use crate::observe::metrics::labels::OutcomeLabel;

    /// Each outcome counts in exactly one sum.
    #[test]
    fn who_is_to_blame() {
        let outcomes = Outcomes::default();
        for call in CallLabel::ALL {
            OutcomeLabel::ALL.into_iter().for_each(|outcome| outcomes.count(call, outcome));
        }
        let (mut counts, mut sums) = (OutcomeCounts::default(), Sums::default());
        outcomes.add_to(&mut counts);
        sums.add(&counts);
        assert_eq!(sums, Sums { ok: 5, refused: 45, failed: 15 });
    }
}

//! Requests by call and outcome.

use super::counter::Counter;
use super::labels::{CallLabel, OutcomeLabel};

/// Requests by call and outcome, counted by one event loop.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Outcomes([[Counter; OutcomeLabel::ALL.len()]; CallLabel::ALL.len()]);

impl Outcomes {
    /// Counts a request, on the event loop's own thread.
    pub fn count(&self, call: CallLabel, outcome: OutcomeLabel) {
        self.0[call as usize][outcome as usize].add(1);
    }

    /// Adds these counts to `sum`.
    pub fn add_to(&self, sum: &mut OutcomeCounts) {
        for (counters, sums) in self.0.iter().zip(&mut sum.0) {
            for (counter, sum) in counters.iter().zip(sums) {
                *sum += counter.get();
            }
        }
    }
}

/// The sum of several [`Outcomes`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutcomeCounts([[u64; OutcomeLabel::ALL.len()]; CallLabel::ALL.len()]);

impl OutcomeCounts {
    /// Returns the number of requests with this call and outcome.
    #[must_use]
    pub fn of(&self, call: CallLabel, outcome: OutcomeLabel) -> u64 {
        self.0[call as usize][outcome as usize]
    }

    /// Returns all counts, grouped by call.
    pub fn iter(&self) -> impl Iterator<Item = (CallLabel, OutcomeLabel, u64)> {
        CallLabel::ALL.into_iter().flat_map(move |call| {
            OutcomeLabel::ALL
                .into_iter()
                .map(move |outcome| (call, outcome, self.of(call, outcome)))
        })
    }

    /// Returns the number of requests of a call, with any outcome.
    #[must_use]
    pub fn of_call(&self, call: CallLabel) -> u64 {
        OutcomeLabel::ALL.into_iter().map(|outcome| self.of(call, outcome)).sum()
    }

    /// Returns the number of requests with an outcome, summed over all calls.
    #[must_use]
    pub fn of_outcome(&self, outcome: OutcomeLabel) -> u64 {
        CallLabel::ALL.into_iter().map(|call| self.of(call, outcome)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums run over calls or over outcomes, and several event loops add up.
    #[test]
    fn sums() {
        let outcomes = [Outcomes::default(), Outcomes::default()];
        outcomes[0].count(CallLabel::Encrypt, OutcomeLabel::Ok);
        outcomes[1].count(CallLabel::Encrypt, OutcomeLabel::Internal);
        outcomes[1].count(CallLabel::Decrypt, OutcomeLabel::Internal);
        let mut sum = OutcomeCounts::default();
        outcomes.iter().for_each(|outcomes| outcomes.add_to(&mut sum));
        assert_eq!(sum.of_call(CallLabel::Encrypt), 2);
        assert_eq!(sum.of_outcome(OutcomeLabel::Internal), 2);
        assert_eq!(sum.iter().filter(|(_, _, count)| *count > 0).count(), 3);
    }
}

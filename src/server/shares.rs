//! Shares of an event loop's time.
//!
//! When there is more work than time, each kind of work gets time in proportion to its weight; what
//! one kind does not use, the others get. Time is divided and not requests, because they differ: a
//! handshake takes as long as ten refusals. This is start-time fair queueing (Goyal, Vin and Cheng,
//! SIGCOMM 1996) with the kinds of work as its flows: the kind that has used the least time for its
//! weight is next.

use std::time::Duration;

use crate::limits::{
    MAX_CHARGE, WEIGHT_OF_ACCEPTS, WEIGHT_OF_AGAIN, WEIGHT_OF_GIVEN_UP, WEIGHT_OF_HANDSHAKES,
    WEIGHT_OF_LATE, WEIGHT_OF_PROVEN, WEIGHT_OF_UNPROVEN,
};

/// The kinds of work, and their order where two have used the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Requests on connections from which an authentic request has come.
    Proven,
    /// Requests on other connections.
    Unproven,
    /// Connections that have more to do than one turn allows.
    Again,
    /// Refusals of requests that have waited too long.
    Late,
    /// Ends of connections that their peers closed while a request waited.
    GivenUp,
    /// The expensive part of TLS handshakes.
    Handshakes,
    /// Accepting connections.
    Accepts,
}

/// Every kind of work with its weight.
const KINDS: [(Work, u64); 7] = [
    (Work::Proven, WEIGHT_OF_PROVEN),
    (Work::Unproven, WEIGHT_OF_UNPROVEN),
    (Work::Again, WEIGHT_OF_AGAIN),
    (Work::Late, WEIGHT_OF_LATE),
    (Work::GivenUp, WEIGHT_OF_GIVEN_UP),
    (Work::Handshakes, WEIGHT_OF_HANDSHAKES),
    (Work::Accepts, WEIGHT_OF_ACCEPTS),
];

/// The time that each kind of work has used.
#[derive(Default)]
pub(super) struct Shares {
    /// Time used by each kind, divided by its weight, in nanoseconds.
    used: [u64; KINDS.len()],
    /// `used` of the kind that was chosen last.
    clock: u64,
    /// The kinds that could have been chosen last.
    had_work: [bool; KINDS.len()],
}

impl Shares {
    /// Chooses the next kind of work, among those for which `has_work` is true.
    pub(super) fn next(&mut self, has_work: impl Fn(Work) -> bool) -> Option<Work> {
        let mut chosen: Option<(usize, Work)> = None;
        for (at, (work, _)) in KINDS.into_iter().enumerate() {
            let has_work = has_work(work);
            let had_work = std::mem::replace(&mut self.had_work[at], has_work);
            // Time that a kind did not need is not saved up for later.
            if has_work && !had_work {
                self.used[at] = self.used[at].max(self.clock);
            }
            if has_work && chosen.is_none_or(|(best, _)| self.used[at] < self.used[best]) {
                chosen = Some((at, work));
            }
        }
        let (at, work) = chosen?;
        self.clock = self.used[at];
        Some(work)
    }

    /// Records that `work` has taken this time.
    pub(super) fn charge(&mut self, work: Work, time: Duration) {
        // A longer time is one during which the thread did not run.
        let nanos = u64::try_from(time.min(MAX_CHARGE).as_nanos()).unwrap_or(u64::MAX);
        for (used, (kind, weight)) in self.used.iter_mut().zip(KINDS) {
            if kind == work {
                *used = used.saturating_add(nanos / weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves kinds of work that never run out, whose items take these times in microseconds, for a
    /// second. Returns the time that each has used, in microseconds.
    fn serve(shares: &mut Shares, items: &[(Work, u64)]) -> Vec<u64> {
        let mut used = vec![0; items.len()];
        while used.iter().sum::<u64>() < 1_000_000 {
            let is_waiting = |work| items.iter().any(|(kind, _)| *kind == work);
            let Some(chosen) = shares.next(is_waiting) else { break };
            for ((work, micros), used) in items.iter().zip(&mut used) {
                if *work == chosen {
                    shares.charge(chosen, Duration::from_micros(*micros));
                    *used += micros;
                }
            }
        }
        used
    }

    /// Time is divided by weight, however long an item of each kind takes.
    #[test]
    fn by_weight() {
        let items = [(Work::Proven, 30), (Work::Unproven, 10), (Work::Handshakes, 300)];
        let used = serve(&mut Shares::default(), &items);
        let weights = [WEIGHT_OF_PROVEN, WEIGHT_OF_UNPROVEN, WEIGHT_OF_HANDSHAKES];
        let sum: u64 = weights.iter().sum();
        for (used, weight) in used.iter().zip(weights) {
            assert!(used.abs_diff(1_000_000 * weight / sum) < 1_000, "{used} for {weight}");
        }
    }

    /// A pause of the process during an item does not keep its kind from being served for long.
    #[test]
    fn after_a_pause() {
        let mut shares = Shares::default();
        assert_eq!(shares.next(|work| work == Work::Accepts), Some(Work::Accepts));
        shares.charge(Work::Accepts, Duration::from_secs(10));
        let (mut micros, item) = (0, 100);
        while shares.next(|work| matches!(work, Work::Proven | Work::Accepts)) == Some(Work::Proven)
        {
            shares.charge(Work::Proven, Duration::from_micros(item));
            micros += item;
        }
        assert!(u128::from(micros) <= MAX_CHARGE.as_micros() * u128::from(WEIGHT_OF_PROVEN) + 100);
    }

    /// One kind gets all of the time that nobody else wants, and does not pay for it later; nor do
    /// the others catch up on what they did not want.
    #[test]
    fn without_a_debt() {
        let mut shares = Shares::default();
        assert_eq!(serve(&mut shares, &[(Work::Unproven, 10)]), [1_000_000]);
        let used = serve(&mut shares, &[(Work::Proven, 10), (Work::Unproven, 10)]);
        let expected = 1_000_000 * WEIGHT_OF_UNPROVEN / (WEIGHT_OF_PROVEN + WEIGHT_OF_UNPROVEN);
        assert!(used[1].abs_diff(expected) < 1_000, "{used:?}");
        assert_eq!(shares.next(|_| false), None);
    }
}

//! Detection of an event loop that cannot keep up.
//!
//! Requests that no loop has read yet wait in sockets, where neither their deadlines nor the HSM's
//! queue see them. If more arrive than can be read, each waits as long as all the others, until
//! none is answered in time. So the newest are served first, and those that have waited too long
//! are refused as cheaply as possible. As in CoDel (RFC 8289), the sign of congestion is not the
//! length of a queue, which may be long for an instant, but that even the shortest wait over some
//! time was too long.

use std::time::Instant;

use super::waiting::List;
use crate::limits::{CONGESTION_BEGINS_AFTER, CONGESTION_ENDS_AFTER};

/// Congestion of the lists that requests wait in. Strangers who send more than a loop can answer
/// change nothing for connections that have sent an authentic request.
#[derive(Default)]
pub(super) struct CongestionByList {
    proven: Congestion,
    unproven: Congestion,
}

impl CongestionByList {
    /// Records whether the longest wait in a list in this turn was too long, and returns whether
    /// the list is congested.
    pub(super) fn note(&mut self, list: List, is_too_long: bool, now: Instant) -> bool {
        match list {
            List::Proven => self.proven.note(is_too_long, now, "with an authentic request before"),
            List::Unproven => self.unproven.note(is_too_long, now, "without an authentic request"),
            _ => false,
        }
    }

    /// Returns whether the newest entries of a list come first, and those that have waited too long
    /// are refused.
    pub(super) fn is_congested(&self, list: List) -> bool {
        match list {
            List::Proven => self.proven.until.is_some(),
            List::Unproven => self.unproven.until.is_some(),
            // A peer that always has more to do would always be the newest of `Again`.
            List::Late | List::Again | List::GivenUp | List::Handshakes => false,
        }
    }
}

#[derive(Default)]
struct Congestion {
    /// Time since which every turn has found a wait that was too long.
    since: Option<Instant>,
    /// Time at which congestion ends unless a turn finds such a wait again.
    until: Option<Instant>,
}

impl Congestion {
    /// Records whether the longest wait in this turn was too long. Returns whether the list is
    /// congested.
    fn note(&mut self, is_too_long: bool, now: Instant, connections: &str) -> bool {
        if is_too_long {
            let since = *self.since.get_or_insert(now);
            let is_lasting = now.saturating_duration_since(since) >= CONGESTION_BEGINS_AFTER;
            if (is_lasting || self.until.is_some())
                && self.until.replace(now + CONGESTION_ENDS_AFTER).is_none()
            {
                tracing::warn!(
                    connections,
                    "an event loop cannot keep up: the newest requests are answered first, and \
                    others refused (429)"
                );
            }
        } else {
            self.since = None;
            if self.until.is_some_and(|until| now >= until) {
                self.until = None;
                tracing::info!(connections, "the event loop keeps up again");
            }
        }
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One long wait, or several with a short one among them, is not congestion. A period of
    /// nothing but long waits is, until none has occurred for some time.
    #[test]
    fn begins_and_ends() {
        let begin = Instant::now();
        let mut congestion = Congestion::default();
        let mut at =
            |after: Duration, is_too_long| congestion.note(is_too_long, begin + after, "any");
        let half = CONGESTION_BEGINS_AFTER / 2;
        assert!(!at(Duration::ZERO, true) && !at(half, true));
        assert!(!at(half * 2 - Duration::from_nanos(1), true));
        assert!(!at(half * 2, false) && !at(half * 3, true) && !at(half * 4, true));
        assert!(at(half * 5, true));
        let begun = half * 5;
        let half = CONGESTION_ENDS_AFTER / 2;
        assert!(at(begun + half, false) && at(begun + half * 2, true));
        assert!(at(begun + half * 3, false));
        assert!(at(begun + half * 4 - Duration::from_nanos(1), false));
        assert!(!at(begun + half * 4, false));
    }
}

//! Whether an event loop keeps up with what comes.
//!
//! Requests that no loop has looked at yet wait in sockets, where neither their deadlines nor the
//! HSM's queue see them. If more come than can be looked at, each waits for as long as all the
//! others, until none is answered in time. So those that have waited for too long are turned away
//! at the least cost, and the others are answered in time. As in CoDel (RFC 8289), it is not the
//! length of a queue that says so, which may be long for a moment and short in the next, but that
//! even the shortest wait over some time was too long.

use std::time::Instant;

use crate::limits::{CONGESTION_BEGINS_AFTER, CONGESTION_ENDS_AFTER};

#[derive(Default)]
pub(super) struct Congestion {
    /// Since when each turn has found a wait that was too long.
    since: Option<Instant>,
    /// It is there, and ends then if no turn finds one any more.
    until: Option<Instant>,
}

impl Congestion {
    /// One turn of the loop: whether the request that has waited for longest, has for too long.
    /// Gives whether what waits for too long is to be turned away.
    pub(super) fn note(&mut self, is_too_long: bool, now: Instant) -> bool {
        if is_too_long {
            let since = *self.since.get_or_insert(now);
            let is_lasting = now.saturating_duration_since(since) >= CONGESTION_BEGINS_AFTER;
            if (is_lasting || self.until.is_some())
                && self.until.replace(now + CONGESTION_ENDS_AFTER).is_none()
            {
                tracing::warn!(
                    "an event loop cannot keep up: requests that have waited for half of \
                    request_deadline_milli are turned away (429)"
                );
            }
        } else {
            self.since = None;
            if self.until.is_some_and(|until| now >= until) {
                self.until = None;
                tracing::info!("the event loop keeps up again");
            }
        }
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A long wait, or several with a short one among them, is none; a long time of them is, and
    /// stays one until there were none for long.
    #[test]
    fn begins_and_ends() {
        let begin = Instant::now();
        let mut congestion = Congestion::default();
        let mut at = |after: Duration, is_too_long| congestion.note(is_too_long, begin + after);
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

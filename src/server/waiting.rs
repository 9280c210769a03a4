//! Lists of connections that wait to be served.

use std::collections::VecDeque;

use crate::limits::MAX_STALE_ENTRIES;

/// A connection's slot, and its number, which is unique within the loop.
pub(super) type Entry = (usize, u64);

/// The kinds of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Connections that the kernel has reported as ready and from which an authentic request has
    /// come.
    Proven,
    /// The other connections that the kernel has reported as ready.
    Unproven,
    /// Connections that have more to do than one turn allows.
    Again,
    /// Connections whose request has waited so long that it is refused.
    Late,
    /// Connections that the peer closed while its request waited.
    GivenUp,
    /// Connections that wait until their TLS handshake is allowed.
    Handshakes,
}

/// The connections of each list, oldest first.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) proven: Waiting,
    pub(super) unproven: Waiting,
    pub(super) again: Waiting,
    pub(super) late: Waiting,
    pub(super) given_up: Waiting,
    pub(super) handshakes: Waiting,
}

impl Lists {
    pub(super) fn of(&mut self, list: List) -> &mut Waiting {
        match list {
            List::Proven => &mut self.proven,
            List::Unproven => &mut self.unproven,
            List::Again => &mut self.again,
            List::Late => &mut self.late,
            List::GivenUp => &mut self.given_up,
            List::Handshakes => &mut self.handshakes,
        }
    }

    /// Returns whether a connection waits that can be served at any time, unlike a handshake, whose
    /// rate is limited.
    pub(super) fn has_ready(&self) -> bool {
        let ready = [&self.proven, &self.unproven, &self.again, &self.late, &self.given_up];
        ready.iter().any(|waiting| !waiting.is_empty())
    }
}

/// A list of connections. Each is in it at most once, which is recorded in the connection. Ended
/// connections leave stale entries behind, which are skipped.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<Entry>);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an entry. If there are many more entries than `peers` connections, stale ones, for
    /// which `is_waiting` is false, are removed first.
    pub(super) fn push(&mut self, entry: Entry, peers: usize, is_waiting: impl Fn(Entry) -> bool) {
        if self.0.len() > 2 * peers + MAX_STALE_ENTRIES {
            self.0.retain(|entry| is_waiting(*entry));
        }
        self.0.push_back(entry);
    }

    pub(super) fn oldest(&self) -> Option<Entry> {
        self.0.front().copied()
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Entry> {
        self.0.pop_front()
    }

    /// Removes the newest entry, or the oldest if `turn` is a multiple of `per_oldest`.
    pub(super) fn pop_in_turns(&mut self, turn: u32, per_oldest: u32) -> Option<Entry> {
        if turn.is_multiple_of(per_oldest) { self.pop_oldest() } else { self.pop_newest() }
    }

    pub(super) fn pop_newest(&mut self) -> Option<Entry> {
        self.0.pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While newer entries keep coming, the oldest are removed too.
    #[test]
    fn the_oldest_are_not_passed_over() {
        let mut waiting = Waiting::default();
        let removed: Vec<_> = (0..6)
            .filter_map(|turn| {
                waiting.push((0, u64::from(turn) * 2), 100, |_| true);
                waiting.push((0, u64::from(turn) * 2 + 1), 100, |_| true);
                waiting.pop_in_turns(turn, 3)
            })
            .map(|(_, number)| number)
            .collect();
        assert_eq!(removed, [0, 3, 5, 1, 9, 11]);
    }

    /// Entries do not accumulate when millions of peers connect, wait and leave.
    #[test]
    fn bounded() {
        let mut waiting = Waiting::default();
        for number in 0..100_000 {
            waiting.push((1, number), 1, |(_, waits)| waits + 1 == number);
            assert!(waiting.0.len() <= 2 + MAX_STALE_ENTRIES + 1);
        }
        assert_eq!(waiting.pop_newest(), Some((1, 99_999)));
        assert!(waiting.pop_oldest().is_some_and(|(_, number)| number < 99_999));
    }
}

//! Deadlines of connections, at most one per slot.

use std::time::Instant;

/// A binary heap of (deadline, slot) with an index by slot, so that moving a deadline takes only a
/// few comparisons. Once grown, it allocates nothing.
#[derive(Default)]
pub(super) struct Timers {
    /// Earliest first: each parent is no later than its children.
    heap: Vec<(Instant, usize)>,
    /// Position of each slot in the heap + 1, or 0 if the slot has no deadline.
    places: Vec<usize>,
}

impl Timers {
    /// The slot's deadline.
    pub(super) fn get(&self, slot: usize) -> Option<Instant> {
        let place = self.places.get(slot).copied()?.checked_sub(1)?;
        self.heap.get(place).map(|(at, _)| *at)
    }

    /// Sets or moves the slot's deadline.
    pub(super) fn set(&mut self, slot: usize, at: Instant) {
        if self.places.len() <= slot {
            self.places.resize(slot + 1, 0);
        }
        let place = match self.places[slot] {
            0 => {
                self.heap.push((at, slot));
                self.places[slot] = self.heap.len();
                self.heap.len() - 1
            }
            place => {
                self.heap[place - 1].0 = at;
                place - 1
            }
        };
        self.settle(place);
    }

    /// Removes the slot's deadline.
    pub(super) fn cancel(&mut self, slot: usize) {
        let Some(place) = self.places.get(slot).and_then(|place| place.checked_sub(1)) else {
            return;
        };
        self.heap.swap_remove(place);
        self.places[slot] = 0;
        if let Some((_, moved)) = self.heap.get(place) {
            self.places[*moved] = place + 1;
            self.settle(place);
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Removes and returns one slot whose deadline is not after `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Option<usize> {
        let (at, slot) = *self.heap.first()?;
        (at <= now).then(|| {
            self.cancel(slot);
            slot
        })
    }

    fn settle(&mut self, place: usize) {
        let place = self.sift_up(place);
        self.sift_down(place);
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut earliest = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.heap[child].0 < self.heap[earliest].0 {
                    earliest = child;
                }
            }
            if earliest == place {
                return;
            }
            self.swap(place, earliest);
            place = earliest;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.places[self.heap[one].1] = one + 1;
        self.places[self.heap[other].1] = other + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// After any sequence of sets, moves and cancellations, each deadline expires once, in
        /// order.
        #[test]
        fn as_a_sorted_map(operations in prop::collection::vec((0_usize..12, 0_u64..20, 0_u8..4), 0..80)) {
            let start = Instant::now();
            let at = |millis| start + Duration::from_millis(millis);
            let mut timers = Timers::default();
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            for (slot, millis, kind) in operations {
                match kind {
                    0 => {
                        timers.cancel(slot);
                        model.remove(&slot);
                    }
                    1 => {
                        while let Some(expired) = timers.expire(at(millis)) {
                            prop_assert!(model.remove(&expired).is_some_and(|due| due <= millis));
                        }
                        prop_assert!(model.values().all(|due| *due > millis));
                    }
                    _ => {
                        timers.set(slot, at(millis));
                        model.insert(slot, millis);
                    }
                }
                prop_assert_eq!(timers.next(), model.values().min().map(|due| at(*due)));
                prop_assert_eq!(timers.get(slot), model.get(&slot).map(|due| at(*due)));
            }
        }
    }
}

//! Fair shares of a listening socket.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// A loop's share of a socket that several loops accept from. The kernel wakes all of them for each
/// connection and the fastest accepts it, which without shares would often be the same loop.
pub(super) struct AcceptShare {
    /// Number of connections of each loop.
    loads: Arc<[AtomicUsize]>,
    /// Index of this loop.
    index: usize,
    /// The next connection has been left to the others once.
    has_yielded: bool,
}

impl AcceptShare {
    /// Makes a share for each of `loops`.
    pub(super) fn split(loops: usize) -> Vec<Self> {
        let loads: Arc<[AtomicUsize]> = (0..loops).map(|_| AtomicUsize::new(0)).collect();
        let share = |index| Self { loads: Arc::clone(&loads), index, has_yielded: false };
        (0..loops).map(share).collect()
    }

    /// Returns whether to leave the next connection to a loop that has fewer. That happens at most
    /// once per connection: if no other loop accepts it, this one does.
    pub(super) fn yields(&mut self, load: usize) -> bool {
        if let Some(own) = self.loads.get(self.index) {
            own.store(load, Ordering::Relaxed);
        }
        let has_fewer = |other: &AtomicUsize| other.load(Ordering::Relaxed) < load;
        self.has_yielded = !self.has_yielded && self.loads.iter().any(has_fewer);
        self.has_yielded
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The loop with more connections leaves one to the other, but does not wait for it
    /// indefinitely.
    #[test]
    fn shares() {
        let mut shares = AcceptShare::split(2);
        let mut second = shares.pop().unwrap();
        let mut first = shares.pop().unwrap();
        assert!(!first.yields(0));
        assert!(first.yields(1));
        assert!(!first.yields(1), "nobody took it");
        assert!(!second.yields(0));
        assert!(!second.yields(1), "as many");
        assert!(second.yields(2));
    }
}

//! The counters of one key store.

use super::outcomes::{OutcomeCounts, Outcomes};

/// A key store's counters, a shard for each event loop.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// The store's `uri_path_prefix`.
    pub uri_path_prefix: Box<str>,
    shards: Box<[Outcomes]>,
}

impl StoreMetrics {
    /// Creates the counters of a store, for that many event loops.
    pub(super) fn new(uri_path_prefix: &str, event_loops: usize) -> Self {
        Self {
            uri_path_prefix: uri_path_prefix.into(),
            shards: (0..event_loops).map(|_| Outcomes::default()).collect(),
        }
    }

    /// The counters of that event loop. `None` where nothing is counted, as in tests.
    #[must_use]
    pub fn of_loop(&self, event_loop: u16) -> Option<&Outcomes> {
        self.shards.get(usize::from(event_loop))
    }

    /// All loops' counts.
    #[must_use]
    pub fn counts(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        self.shards.iter().for_each(|shard| shard.add_to(&mut sum));
        sum
    }
}

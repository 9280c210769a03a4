//! The counters of one key store.

use super::outcomes::{OutcomeCounts, Outcomes};

/// The counters of one key store, with a shard for each event loop.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// `uri_path_prefix` of the store.
    pub uri_path_prefix: Box<str>,
    shards: Box<[Outcomes]>,
}

impl StoreMetrics {
    /// Creates the counters of a store for `event_loops` event loops.
    pub(super) fn new(uri_path_prefix: &str, event_loops: usize) -> Self {
        Self {
            uri_path_prefix: uri_path_prefix.into(),
            shards: (0..event_loops).map(|_| Outcomes::default()).collect(),
        }
    }

    /// Returns the counters of one event loop; `None` if nothing is counted, as in tests.
    #[must_use]
    pub fn of_loop(&self, event_loop: u16) -> Option<&Outcomes> {
        self.shards.get(usize::from(event_loop))
    }

    /// Returns the counts, summed over all event loops.
    #[must_use]
    pub fn counts(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        self.shards.iter().for_each(|shard| shard.add_to(&mut sum));
        sum
    }
}

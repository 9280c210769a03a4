//! Making room when a bound on connections or memory is reached.
//!
//! At `max_connections` nginx ends the longest idle connections and takes newcomers in; HAProxy
//! lets newcomers wait. Waiting is of no use here: KMS gives up after 250 ms. So connections are
//! ended as in nginx, in an order that strangers cannot turn against KMS: first those that never
//! sent an authentic request, the oldest before the others, whatever they are doing; then those
//! that did, the longest idle first. Who has a request at the HSM stays.
//!
//! The bound on memory has the same order, of those who hold any. If nobody can be ended, the one
//! that has just asked for more is.

use std::time::Instant;

use super::Running;
use crate::limits::{CONNECTIONS_PER_EVICTION, MAX_EVICTIONS};
use crate::proto::Listener;
use crate::server::peer::Peer;

impl Running {
    /// Ends connections of that listener so that others can come in. Gives whether there are any
    /// that may be ended.
    pub(super) fn evict_for_connections(&mut self, listener: Listener) -> bool {
        let ended = self.evict(|peer| peer.listener() == listener);
        if ended > 0 {
            self.context.note_evictions(ended, "the limit of connections is reached");
        }
        ended > 0
    }

    /// Ends connections so that what all of them hold is below the bound again. `asking` is the
    /// slot of the one that had it passed.
    pub(super) fn evict_for_memory(&mut self, asking: usize) {
        while self.context.buffered_bytes() > self.max_buffered_bytes {
            let ended = self.evict(|peer| peer.holds_memory());
            if ended == 0 {
                self.end(asking);
                self.context.note_evictions(1, "max_buffered_bytes is reached");
                return;
            }
            self.context.note_evictions(ended, "max_buffered_bytes is reached");
        }
    }

    /// Ends up to [`MAX_EVICTIONS`] of the connections that `may_go`, and gives how many.
    fn evict(&mut self, may_go: impl Fn(&Peer) -> bool) -> usize {
        let mut candidates: Vec<((bool, Instant), usize)> = self
            .peers
            .iter()
            .filter(|(_, peer)| may_go(peer))
            .filter_map(|(slot, peer)| Some((peer.key_status()?, slot)))
            .collect();
        if candidates.is_empty() {
            return 0;
        }
        // More than one at a time where there are so many that looking for them costs.
        let count = (1 + candidates.len() / CONNECTIONS_PER_EVICTION).min(MAX_EVICTIONS);
        candidates.select_nth_unstable(count - 1);
        for (_, slot) in &candidates[..count] {
            self.end(*slot);
        }
        count
    }
}

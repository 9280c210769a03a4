//! Eviction of connections at a limit on their number or memory.
//!
//! At `max_connections` nginx ends the longest idle connections and accepts new ones, while HAProxy
//! makes new ones wait. Waiting is useless here, since KMS gives up after 250 ms. So connections
//! are ended as in nginx, in an order that strangers cannot exploit against KMS: first those that
//! never sent an authentic request, oldest first, even if they are active; then idle ones that did,
//! longest idle first. A connection with a request at the HSM is never ended.
//!
//! The limit on memory uses the same order among connections that hold memory. If none can be
//! ended, the connection that asked for more is ended. Connections that never sent an authentic
//! request have a smaller limit for all of theirs, so that strangers cannot use up the memory that
//! is meant for KMS's requests, nor most of what the machine has.

use std::time::Instant;

use super::Running;
use crate::limits::{CONNECTIONS_PER_EVICTION, MAX_EVICTIONS, UNPROVEN_BUFFER_PARTS};
use crate::proto::Listener;
use crate::server::peer::Peer;

impl Running {
    /// Evicts connections of this listener to make room for new ones. Returns whether any were
    /// evicted.
    pub(super) fn evict_for_connections(&mut self, listener: Listener) -> bool {
        let ended = self.evict(|peer| peer.listener() == listener);
        if ended > 0 {
            self.context.note_evictions(ended, "the limit of connections is reached");
        }
        ended > 0
    }

    /// Returns whether the memory that connections hold exceeds a limit.
    pub(super) fn has_too_much_buffered(&self) -> bool {
        self.context.buffered_bytes() > self.max_buffered_bytes || self.has_too_much_unproven()
    }

    fn has_too_much_unproven(&self) -> bool {
        let part = self.max_buffered_bytes / UNPROVEN_BUFFER_PARTS;
        // One connection must always fit.
        let max = part.max(2 * self.context.loop_state.max_held_bytes_per_connection());
        self.context.unproven_bytes > max
    }

    /// Evicts connections until the memory they hold is below the limits again. `asking` is the
    /// slot of the connection that exceeded one.
    pub(super) fn evict_for_memory(&mut self, asking: usize) {
        while self.has_too_much_buffered() {
            let is_theirs = self.has_too_much_unproven();
            let ended = self.evict(|peer| match is_theirs {
                true => peer.unproven_bytes() > 0,
                false => peer.holds_memory(),
            });
            if ended == 0 {
                self.end(asking);
                self.context.note_evictions(1, "max_buffered_bytes is reached");
                return;
            }
            self.context.note_evictions(ended, "max_buffered_bytes is reached");
        }
    }

    /// Ends up to [`MAX_EVICTIONS`] of the connections that `may_go` accepts, and returns their
    /// number.
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
        // Several at a time if there are many candidates, since each scan is expensive then.
        let count = (1 + candidates.len() / CONNECTIONS_PER_EVICTION).min(MAX_EVICTIONS);
        candidates.select_nth_unstable(count - 1);
        for (_, slot) in &candidates[..count] {
            self.end(*slot);
        }
        count
    }
}

//! Adopting new settings between two turns.
//! No connection or request ends because of a change. A request at the HSM keeps its deadline and
//! its key. A request that is arriving keeps the limits it began with, and is then judged by the
//! new settings. A TLS session keeps its parameters.

use std::sync::Arc;

use super::Running;
use crate::proto::Listener;

impl Running {
    pub(super) fn adopt_changes(&mut self) {
        let Some(change) = self.changes.after(self.change_number) else {
            return;
        };
        self.change_number = change.number;
        let context = &mut self.context;
        let before = context.loop_state.service.options.timeouts;
        context.loop_state.adopt(Arc::clone(&change.service));
        if !Arc::ptr_eq(&context.hsm, &change.hsm) {
            context.hsm = Arc::clone(&change.hsm);
            context.loop_state.fleet = context.loop_state.fleet.wrapping_add(1);
        }
        context.admission = Arc::clone(&change.admission);
        self.max_buffered_bytes =
            change.max_buffered_bytes.max(2 * context.loop_state.max_held_bytes_per_connection());
        for listening in &mut self.listeners {
            if listening.listener == Listener::Api {
                listening.tls.clone_from(&change.tls);
            }
        }
        if change.service.options.timeouts != before {
            for (slot, peer) in &self.peers {
                self.timers.set(slot, peer.deadline(&self.context));
            }
        }
        self.changes.adopted(self.context.loop_state.event_loop, change.number);
    }
}

//! The forwarders that get copies of one log's lines.

use std::sync::Arc;

use super::forwarder::Forwarder;

/// The forwarders of one log's lines, or none.
#[derive(Clone, Default)]
pub struct Copies(Arc<[Arc<Forwarder>]>);

impl Copies {
    pub(super) fn new(forwarders: Vec<Arc<Forwarder>>) -> Self {
        Self(forwarders.into())
    }

    /// Adds complete lines to each forwarder's queue. Those that do not fit are dropped and
    /// counted. Never waits for a collector.
    pub(in crate::observe) fn push(&self, lines: &[u8]) {
        for forwarder in self.0.iter() {
            forwarder.push(lines);
        }
    }
}

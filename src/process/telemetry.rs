//! The records that the process keeps while it serves.

use std::sync::Arc;

use crate::observe::audit::Audit;
use crate::observe::log::Log;
use crate::observe::metrics::counter::SharedCounter;

/// The log, the audit log and the count of panics.
pub(super) struct Telemetry {
    pub(super) log: Arc<Log>,
    pub(super) audit: Audit,
    pub(super) panics: Arc<SharedCounter>,
}

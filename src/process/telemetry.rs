//! The records that the process keeps while it serves.

use std::sync::Arc;

use crate::observe::audit::Audit;
use crate::observe::log::Log;
use crate::observe::metrics::counter::SharedCounter;
use crate::observe::otlp::Otlp;
use crate::observe::syslog::Syslog;

/// The log, the audit log, their forwarding, the export, and the count of panics.
pub(super) struct Telemetry {
    pub(super) log: Arc<Log>,
    pub(super) audit: Audit,
    pub(super) syslog: Syslog,
    /// The export by OTLP, if there is one.
    pub(super) otlp: Option<Arc<Otlp>>,
    pub(super) panics: Arc<SharedCounter>,
}

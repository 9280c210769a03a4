//! Everything that operators can observe (the log, the access log, the audit log and the metrics),
//! and the values that must never appear in it ([`redaction`]).
//!
//! ```text
//!  event loop    log::access_log   one line per call, in the loop's own buffer --+ once per tick
//!  any thread    log::events       tracing's events ------------------------------+
//!                                                                                v
//!  writer thread, one per output              line_queue: bounded; adding never waits for it
//!                                                                                |
//!  standard output, rotating file  <------------- whole batches -----------------+
//! ```

pub mod audit;
pub mod call_record;
pub mod escape;
mod line;
mod line_parts;
mod line_queue;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod panics;
pub mod readiness;
pub mod redaction;
pub mod syslog;
pub mod timestamp;

//! What the process shows of itself: log, access log and audit log, and what it never shows (redaction).
//!
//! ```text
//!  event loop    access_log   one line a call -> the loop's own buffer --- once a turn ---+
//!  any thread    events       tracing's events ------------------------------------------+
//!                                                                                        v
//!  writer thread, one for each output        backlog: bounded, one short lock, never waited for
//!                                                                                        |
//!  stdout, rotating file  <-------------------- whole batches ----------------------------+
//! ```

pub mod audit;
pub mod call_record;
mod escape;
mod line;
mod line_queue;
pub mod log;
pub mod metrics;
pub mod panics;
pub mod redaction;
pub mod timestamp;

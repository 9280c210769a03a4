//! What the process shows of itself: log and access log, and what it never shows (redaction).

pub mod access_log;
pub mod log;
pub mod redaction;
pub mod timestamp;

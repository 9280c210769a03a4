//! The counters of the audit log.

use std::sync::atomic::AtomicU64;

use crate::observe::metrics::counter::SharedCounter;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Lines written.
    pub(super) written: SharedCounter,
    /// Lines that did not fit, or that arrived after the writer had ended.
    pub(super) dropped: SharedCounter,
    /// Calls refused because there was no space, or because writing was failing.
    pub(super) refused: SharedCounter,
    /// Lines of unauthenticated calls left out because they exceeded the limit per second.
    pub(super) left_out: SharedCounter,
    /// Writes that failed.
    pub(super) write_errors: SharedCounter,
    /// Files that others deleted, moved, replaced or cut while they were written.
    pub(super) lost_files: SharedCounter,
    /// Checkpoints that the HSM did not seal.
    pub(super) checkpoint_errors: SharedCounter,
    /// Time at which the HSM last sealed a checkpoint, in seconds since 1970.
    pub(super) last_checkpoint_unix_secs: AtomicU64,
    /// Time at which a line was last written, in seconds since 1970.
    pub(super) last_write_unix_secs: AtomicU64,
}

/// The figures of the audit log, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Lines written since the start.
    pub written_lines: u64,
    /// Lines lost since the start.
    pub dropped_lines: u64,
    /// Calls refused since the start because their lines could not have been kept.
    pub refused_calls: u64,
    /// Lines of unauthenticated calls left out since the start.
    pub left_out_lines: u64,
    /// Writes that failed since the start.
    pub write_errors: u64,
    /// Files since the start that others deleted, moved, replaced or cut while they were written.
    pub lost_files: u64,
    /// Checkpoints since the start that the HSM did not seal.
    pub checkpoint_errors: u64,
    /// Time at which the HSM last sealed a checkpoint, in seconds since 1970; 0 if it has sealed
    /// none.
    pub last_checkpoint_unix_secs: u64,
    /// Time at which a line was last written, in seconds since 1970.
    pub last_write_unix_secs: u64,
    /// Bytes of lines that wait to be written, plus reserved space.
    pub queued_bytes: usize,
    /// True if the last attempt to write failed.
    pub is_failing: bool,
}

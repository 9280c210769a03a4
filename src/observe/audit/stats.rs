//! What the audit log counts.

use std::sync::atomic::AtomicU64;

use crate::observe::metrics::counter::SharedCounter;

/// What happened to lines since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Lines written.
    pub(super) written: SharedCounter,
    /// Lines that found no room, or that no writer took.
    pub(super) dropped: SharedCounter,
    /// Calls that were refused because there was no room, or because writing fails.
    pub(super) refused: SharedCounter,
    /// Lines of calls that were not authenticated, beyond what one second may have.
    pub(super) left_out: SharedCounter,
    /// Writes that failed.
    pub(super) write_errors: SharedCounter,
    /// Checkpoints that the HSM did not seal.
    pub(super) checkpoint_errors: SharedCounter,
    /// When it last sealed one, in seconds since 1970.
    pub(super) last_checkpoint_unix_secs: AtomicU64,
    /// When a line was last written, in seconds since 1970.
    pub(super) last_write_unix_secs: AtomicU64,
}

/// How the audit log does, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Lines written since the start.
    pub written_lines: u64,
    /// Lines lost since the start.
    pub dropped_lines: u64,
    /// Calls refused since the start because their lines could not have been kept.
    pub refused_calls: u64,
    /// Lines of unauthenticated calls that were left out since the start.
    pub left_out_lines: u64,
    /// Writes that failed since the start.
    pub write_errors: u64,
    /// Checkpoints since the start that the HSM did not seal.
    pub checkpoint_errors: u64,
    /// When the HSM last sealed a checkpoint, in seconds since 1970; 0 if it has not yet.
    pub last_checkpoint_unix_secs: u64,
    /// When a line was last written, in seconds since 1970.
    pub last_write_unix_secs: u64,
    /// Bytes of lines that wait, and of room that is reserved.
    pub queued_bytes: usize,
    /// The last attempt to write failed.
    pub is_failing: bool,
}

//! The figures of one forwarder.

use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::observe::metrics::counter::SharedCounter;

/// Counters since the start, and the state of the connection.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Lines taken out of the queue.
    pub(super) taken: SharedCounter,
    /// Messages handed to the system.
    pub(super) sent: SharedCounter,
    /// Lines that did not fit into the queue, that no collector could take, or that were left when
    /// the process ended.
    pub(super) dropped: SharedCounter,
    /// Attempts to connect or to send that failed.
    pub(super) failures: SharedCounter,
    pub(super) is_connected: AtomicBool,
    /// Reason for which the collector cannot be reached at present.
    pub(super) trouble: Mutex<Option<String>>,
}

/// The figures of the forwarding of one log to one collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyslogStats {
    /// Name of the collector: `unix:` and a path, or host and port.
    pub server: String,
    /// `log` or `audit`
    pub log: &'static str,
    /// True if there is a connection.
    pub is_connected: bool,
    /// Reason for which the collector cannot be reached at present.
    pub trouble: Option<String>,
    /// Lines sent since the start.
    pub sent_lines: u64,
    /// Lines lost since the start.
    pub dropped_lines: u64,
    /// Attempts to connect or to send that failed since the start.
    pub failures: u64,
}

/// The lines that a collector did not take before the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAtStop {
    /// Name of the collector.
    pub server: String,
    /// `log` or `audit`
    pub log: &'static str,
    /// Their number.
    pub lines: u64,
}

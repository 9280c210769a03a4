//! The audit log: a record of who used which key for which purpose, and of changes, in lines that
//! cannot be altered later without detection.
//!
//! ```text
//!  event loop   proto::exchange: reserves space for the line; then the HSM is called
//!               handle: puts the line into the queue; then the answer is sent
//!                 |
//!  writer       queue: bounded ── chain: a code per line ── files: rotation, reopening
//!                                   |
//!                                 state: the key of the next line, for a restart
//!                                 checkpoint: a seal by the HSM, at intervals
//!
//!  upgrade      handover: the new process takes over the log (link); the old one sends it further
//!               lines (forward), which go through the new one's queue (receive)
//!
//!  elsewhere    verify: checks each line with the chain's first key
//! ```

mod begin;
pub mod chain;
pub mod checkpoint;
mod config;
mod files;
mod forward;
mod gaps;
pub mod handle;
mod handover;
mod input;
pub mod key;
mod line;
mod link;
mod path_error;
mod queue;
mod receive;
mod record;
mod recover;
mod state;
mod stats;
pub mod verify;
mod writer;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use self::begin::begin;
use self::checkpoint::CheckpointKey;
pub use self::config::{AuditConfig, AuditRotation, AuditSync, WhenFull};
use self::handle::AuditHandle;
use self::link::{Link, LogId};
use self::queue::Queue;
pub use self::queue::Reservation;
pub use self::stats::AuditStats;
use super::syslog::copies::Copies;
use super::timestamp::{Rfc3339, since_1970};
use crate::limits::{
    AUDIT_IDLE_INTERVAL, AUDIT_STOP_TIMEOUT, MAX_AUDIT_BACKLOG_BYTES, MAX_AUDIT_RELAY_WAIT,
};

/// A running audit log, or none. Clones share it.
#[derive(Clone, Default)]
pub struct Audit {
    queue: Option<Arc<Queue>>,
}

impl Audit {
    /// Creates an audit log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the files, resumes the chain or begins a new one, and starts the writer. While another
    /// process writes the log, lines wait until that process releases the log.
    ///
    /// # Errors
    /// The directory, a file, the state or the key cannot be read or written (the error names
    /// which), or the system cannot provide another thread.
    pub fn open(config: &AuditConfig) -> io::Result<Self> {
        Self::open_after(config, None, Copies::default())
    }

    /// Opens the log like [`Self::open`]. The process at the other end of the socket, which this
    /// one replaces, may keep the log for as long as it lives. Forwarders get copies of the lines
    /// that this process has written.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_after(
        config: &AuditConfig,
        predecessor: Option<OwnedFd>,
        copies: Copies,
    ) -> io::Result<Self> {
        let queue = Queue::new(MAX_AUDIT_BACKLOG_BYTES, config.when_full).with_copies(copies);
        let queue = Arc::new(queue);
        let audit = Self { queue: Some(Arc::clone(&queue)) };
        let begun = match begin(config, &queue) {
            Ok(writer) => Some(Box::new(writer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => return Err(error),
        };
        let config = config.clone();
        let predecessor = predecessor.map(Link::new);
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || handover::run(&config, &queue, begun, predecessor))?;
        Ok(audit)
    }

    /// Asks the process at the other end of the socket for the log, in case it writes or awaits the
    /// same one, and receives the lines that it writes from then on.
    ///
    /// # Errors
    /// The state file cannot be found, or the system cannot provide another thread. The log is then
    /// this process's once the other one has ended.
    pub fn take_over(&self, config: &AuditConfig, from: OwnedFd) -> io::Result<()> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let (link, log) = (Link::new(from), LogId::of(&config.state_file())?);
        match link.ask(log) {
            Ok(()) => receive::start(link, log, queue),
            // It has ended.
            Err(_) => Ok(()),
        }
    }

    /// Hands the log over to the process at the other end of the socket as soon as that process
    /// asks for it, and sends it the lines that are written from then on. If it does not ask, or
    /// ends, the log stays here.
    pub fn hand_over(&self, to: OwnedFd) {
        if let Some(queue) = &self.queue {
            *queue.successor.lock() = Some(Link::new(to));
            queue.lines.wake();
        }
    }

    /// Creates the handle of one event loop.
    #[must_use]
    pub fn handle(&self) -> AuditHandle {
        self.queue.as_ref().map(|queue| AuditHandle::new(Arc::clone(queue))).unwrap_or_default()
    }

    /// Writes an event: `start`, `stop`, `settings`. Member names are constants. Values are
    /// escaped, and must not be secret.
    pub fn record_event(&self, event: &str, members: &[(&str, &str)]) {
        let Some(queue) = &self.queue else { return };
        let mut line = Vec::new();
        record::write_event(&mut line, &mut Rfc3339::default(), since_1970(), event, members);
        line.push(b'\n');
        queue.push_event(&line);
    }

    /// Begins to seal checkpoints with this key: at once, every
    /// [`crate::limits::AUDIT_CHECKPOINT_INTERVAL`] if there are new lines, and before a file ends.
    pub fn set_checkpoint_key(&self, key: Box<dyn CheckpointKey>) {
        if let Some(queue) = &self.queue {
            *queue.checkpoint_key.lock() = Some(key);
            queue.lines.wake();
        }
    }

    /// Reopens the file by name, because another program, such as logrotate(8), has moved it away.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.lines.request_reopen();
        }
    }

    /// Returns the figures; `None` without an audit log.
    #[must_use]
    pub fn stats(&self) -> Option<AuditStats> {
        let queue = self.queue.as_ref()?;
        let counters = &queue.counters;
        Some(AuditStats {
            written_lines: counters.written.get(),
            dropped_lines: counters.dropped.get(),
            refused_calls: counters.refused.get(),
            left_out_lines: counters.left_out.get(),
            write_errors: counters.write_errors.get(),
            checkpoint_errors: counters.checkpoint_errors.get(),
            last_checkpoint_unix_secs: counters.last_checkpoint_unix_secs.load(Ordering::Relaxed),
            last_write_unix_secs: counters.last_write_unix_secs.load(Ordering::Relaxed),
            queued_bytes: queue.used_bytes(),
            is_failing: queue.is_failing(),
        })
    }

    /// Returns whether calls may be made at present; false if lines must not be lost but cannot be
    /// written.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.can_serve())
    }

    /// Writes the waiting lines, for at most [`AUDIT_STOP_TIMEOUT`], and ends the writer. Returns
    /// whether it has ended. If another process has the log, first waits for those that send their
    /// lines through this one.
    pub fn stop(&self) -> bool {
        let Some(queue) = &self.queue else { return true };
        let members: &[(&str, &str)] = match queue.is_elsewhere() {
            true => &[(verify::IN_ANOTHER_PROCESS, "true")],
            false => &[],
        };
        self.record_event("stop", members);
        queue.lines.request_stop();
        let relay_end = Instant::now() + MAX_AUDIT_RELAY_WAIT;
        while queue.is_elsewhere() && queue.senders() > 0 && Instant::now() < relay_end {
            if queue.lines.wait_finished(Instant::now() + AUDIT_IDLE_INTERVAL) {
                return true;
            }
        }
        queue.lines.wait_finished(Instant::now() + AUDIT_STOP_TIMEOUT)
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;

//! The look at the writer's files from time to time: somebody may delete, move or cut them while they
//! are open, and the system does not tell a process that goes on writing to them.

use std::time::Instant;

use super::files::{Fate, Files};
use crate::limits::{AUDIT_FILE_CHECK_INTERVAL, AUDIT_FILE_RETRY_INTERVAL};

/// The schedule of the looks.
pub(super) struct Watch {
    next: Instant,
    /// True if the last look found a change. logrotate(8) moves a file before it sends the signal to
    /// reopen it, so only a change that is found twice in succession counts.
    suspected: bool,
    /// True if the present fate of the file was told.
    is_told: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), suspected: false, is_told: false }
    }

    /// Returns whether a look is due, and sets the time of the next one.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + AUDIT_FILE_CHECK_INTERVAL;
        }
        is_due
    }

    /// Returns what has happened to the file and has to be seen to, and whether that is new.
    pub(super) fn look(&mut self, files: &Files) -> Option<(Fate, bool)> {
        match files.fate() {
            Ok(Fate::Untouched) => (self.suspected, self.is_told) = (false, false),
            Ok(_) if !self.suspected => self.suspected = true,
            Ok(fate) => return Some((fate, !std::mem::replace(&mut self.is_told, true))),
            // The next write tells more about a directory that cannot be read.
            Err(_) => {}
        }
        None
    }

    /// Postpones the next look after the log could not be continued elsewhere.
    pub(super) fn failed(&mut self, now: Instant) {
        self.next = now + AUDIT_FILE_RETRY_INTERVAL;
    }
}

//! The handle of one event loop to the audit log.

use std::sync::Arc;

use super::queue::{Queue, Reservation};
use super::record;
use crate::limits::{MAX_ACCESS_LOG_LINE_BYTES, MAX_UNAUTHENTICATED_LINES_PER_SEC};
use crate::observe::call_record::CallRecord;
use crate::observe::timestamp::{Rfc3339, since_1970};
use crate::rate::PerSecond;

/// Writes the calls of one event loop to the audit log; by default, to none.
pub struct AuditHandle {
    queue: Option<Arc<Queue>>,
    buffer: Vec<u8>,
    time: Rfc3339,
    unauthenticated: PerSecond<u64>,
    must_wake: bool,
}

/// The call must not be made, since its line could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotAudit;

impl Default for AuditHandle {
    fn default() -> Self {
        Self {
            queue: None,
            buffer: Vec::new(),
            time: Rfc3339::default(),
            unauthenticated: PerSecond::new(MAX_UNAUTHENTICATED_LINES_PER_SEC),
            must_wake: false,
        }
    }
}

impl AuditHandle {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        let buffer = Vec::with_capacity(MAX_ACCESS_LOG_LINE_BYTES);
        Self { queue: Some(queue), buffer, ..Self::default() }
    }

    /// Returns whether there is an audit log.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns whether calls may be made at present.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.can_serve())
    }

    /// Reserves room for the line of a call whose strings have these lengths, before the call is
    /// made. Returns `None` without an audit log, and if there is no room but lines may be lost.
    ///
    /// # Errors
    /// [`CannotAudit`] if the writer fails or cannot keep up, and lines must not be lost.
    pub fn reserve(
        &self,
        string_bytes: impl Iterator<Item = usize>,
    ) -> Result<Option<Reservation>, CannotAudit> {
        let Some(queue) = &self.queue else { return Ok(None) };
        match queue.reserve(record::max_bytes(string_bytes)) {
            None if queue.is_lossless() => {
                queue.counters.refused.add(1);
                Err(CannotAudit)
            }
            reservation => Ok(reservation),
        }
    }

    /// Writes a call, with the result of [`Self::reserve`] if that was called for it.
    pub fn write(&mut self, record: &CallRecord<'_>, reservation: Option<&Reservation>) {
        let Some(queue) = &self.queue else { return };
        let now = since_1970();
        if !record.is_authenticated && self.unauthenticated.admit(now.as_secs()).is_none() {
            // Anybody can cause these, so they must not fill the disk.
            queue.counters.left_out.add(1);
            return;
        }
        self.buffer.clear();
        record::write_call(&mut self.buffer, &mut self.time, now, record);
        let _late;
        if reservation.is_none() {
            _late = match queue.reserve(self.buffer.len()) {
                Some(late) => late,
                None if record.is_authenticated => return queue.counters.dropped.add(1),
                None => return queue.counters.left_out.add(1),
            };
        }
        self.must_wake |= queue.push_call(&self.buffer);
    }

    /// Wakes the writer if necessary; once per tick of the event loop, after the answers.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.must_wake)
            && let Some(queue) = &self.queue
        {
            queue.lines.wake();
        }
    }
}

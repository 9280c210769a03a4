//! The handle through which one event loop uses the audit log.

use std::sync::Arc;

use super::queue::{Queue, Reservation};
use super::record;
use crate::limits::{MAX_ACCESS_LOG_LINE_BYTES, MAX_UNAUTHENTICATED_LINES_PER_SEC};
use crate::observe::call_record::CallRecord;
use crate::observe::timestamp::{Rfc3339, since_1970};
use crate::rate::PerSecond;

/// Records the calls of one event loop in the audit log; the default handle records nothing.
pub struct AuditHandle {
    queue: Option<Arc<Queue>>,
    buffer: Vec<u8>,
    time: Rfc3339,
    unauthenticated: PerSecond<u64>,
    must_wake: bool,
}

/// An error: the call must not be made, because its line could not be kept.
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

    /// Reserves space for the line of a call whose strings have these lengths, before the call is
    /// made. Returns `None` if there is no audit log, or if there is no space but lines may be
    /// lost.
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

    /// Records a call. `reservation` is the result of [`Self::reserve`], if that was called for it.
    pub fn write(&mut self, record: &CallRecord<'_>, reservation: Option<&Reservation>) {
        let Some(queue) = &self.queue else { return };
        let now = since_1970();
        if !record.is_authenticated && self.unauthenticated.admit(now.as_secs()).is_none() {
            // Anyone can cause such lines, so they must not be able to fill the disk.
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

    /// Wakes the writer if necessary; called once per turn of the event loop, after the answers.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.must_wake)
            && let Some(queue) = &self.queue
        {
            queue.lines.wake();
        }
    }
}

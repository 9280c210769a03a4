//! Lines on their way to the audit log's writer: bounded, and never waited for.
//!
//! Where lines must not be lost, room is reserved before the HSM is asked, so that a call that
//! was made has its line in the queue before its answer leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use memchr::memchr_iter;
use parking_lot::{Condvar, Mutex};

use super::checkpoint::CheckpointKey;
use super::config::WhenFull;
use super::stats::Counters;
use crate::limits::MAX_AUDIT_EVENT_BYTES;

/// The lines that wait, each without what the writer adds to it.
pub(super) struct Queue {
    max_bytes: usize,
    when_full: WhenFull,
    /// Bytes of lines that wait or are being written, and of reservations.
    used_bytes: AtomicUsize,
    is_failing: AtomicBool,
    pub(super) counters: Counters,
    /// What the HSM vouches with; locked by the writer for as long as the HSM takes.
    pub(super) checkpoint_key: Mutex<Option<Box<dyn CheckpointKey>>>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    /// Some of them are of calls, and not of events alone.
    has_calls: bool,
    /// The writer sleeps until it is woken.
    is_idle: bool,
    is_stopping: bool,
    wants_reopening: bool,
    /// The writer takes no more lines.
    is_closed: bool,
    is_finished: bool,
}

/// What the writer is to do beside writing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) reopen: bool,
    pub(super) stop: bool,
}

/// Room for one line, until it is dropped.
pub struct Reservation {
    queue: Arc<Queue>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.queue.release(self.bytes);
    }
}

impl Queue {
    pub(super) fn new(max_bytes: usize, when_full: WhenFull) -> Self {
        let waiting = Waiting {
            // Memory that is not written to is not used: this way it never grows under the lock.
            lines: Vec::with_capacity(max_bytes + MAX_AUDIT_EVENT_BYTES),
            has_calls: false,
            is_idle: false,
            is_stopping: false,
            wants_reopening: false,
            is_closed: false,
            is_finished: false,
        };
        Self {
            max_bytes,
            when_full,
            used_bytes: AtomicUsize::new(0),
            is_failing: AtomicBool::new(false),
            counters: Counters::default(),
            checkpoint_key: Mutex::new(None),
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
        }
    }

    /// Whether calls are refused when their lines cannot be kept.
    pub(super) fn is_lossless(&self) -> bool {
        self.when_full == WhenFull::Refuse
    }

    /// Whether the last attempt to write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Whether calls may be made at present: false while lines must not be lost and cannot be
    /// written.
    pub(super) fn can_serve(&self) -> bool {
        !(self.is_lossless() && self.is_failing())
    }

    /// Lines that wait, and reservations.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Room for a line of at most so many bytes; `None` if there is none, or if lines must not be
    /// lost and cannot be written.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        if !self.can_serve() {
            return None;
        }
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation { queue: Arc::clone(self), bytes };
        (before + bytes <= self.max_bytes).then_some(reservation)
    }

    fn release(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Adds a call's line, for which there is a [`Reservation`]. Gives whether [`Self::wake`] is to
    /// be called.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        self.push_line(line, true)
    }

    /// Adds an event's line. Gives whether [`Self::wake`] is to be called.
    pub(super) fn push_event(&self, line: &[u8]) -> bool {
        self.push_line(line, false)
    }

    fn push_line(&self, line: &[u8], is_call: bool) -> bool {
        debug_assert!(line.ends_with(b"\n"), "a whole line");
        let mut waiting = self.waiting.lock();
        let room = waiting.lines.capacity() - waiting.lines.len();
        if waiting.is_closed || line.len() > room {
            drop(waiting);
            self.counters.dropped.add(1);
            return false;
        }
        waiting.lines.extend_from_slice(line);
        waiting.has_calls |= is_call;
        self.used_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let is_urgent = waiting.lines.len() > self.max_bytes / 2;
        std::mem::take(&mut waiting.is_idle) || is_urgent
    }

    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Has the writer open its file anew.
    pub(super) fn ask_to_reopen(&self) {
        self.waiting.lock().wants_reopening = true;
        self.wake();
    }

    /// Has the writer write what waits, and end.
    pub(super) fn ask_to_stop(&self) {
        self.waiting.lock().is_stopping = true;
        self.wake();
    }

    /// Waits for the writer to end. Whether it has.
    pub(super) fn wait_finished(&self, deadline: std::time::Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while !waiting.is_finished {
            if self.changed.wait_until(&mut waiting, deadline).timed_out() {
                return waiting.is_finished;
            }
        }
        true
    }

    // ---- The writer's side

    /// Takes all lines that wait into `batch`, which must be empty; waits for some, no longer than
    /// `patience`.
    pub(super) fn take(&self, batch: &mut Vec<u8>, patience: Duration) -> Asked {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() && !waiting.is_stopping && !waiting.wants_reopening {
            waiting.is_idle = true;
            self.changed.wait_for(&mut waiting, patience);
            waiting.is_idle = false;
        }
        std::mem::swap(&mut waiting.lines, batch);
        waiting.has_calls = false;
        let reopen = std::mem::take(&mut waiting.wants_reopening);
        Asked { reopen, stop: waiting.is_stopping }
    }

    /// Lets lines gather, unless there is a hurry.
    pub(super) fn pause(&self, time: Duration) -> Asked {
        let mut waiting = self.waiting.lock();
        let is_urgent = waiting.lines.len() > self.max_bytes / 2;
        if !waiting.is_stopping && !waiting.wants_reopening && !is_urgent {
            self.changed.wait_for(&mut waiting, time);
        }
        Asked { reopen: waiting.wants_reopening, stop: waiting.is_stopping }
    }

    /// Waits before another attempt at what has failed, however much waits. A wish to have the
    /// file opened anew is taken.
    pub(super) fn wait_to_retry(&self, time: Duration) -> Asked {
        let mut waiting = self.waiting.lock();
        if !waiting.is_stopping && !waiting.wants_reopening {
            self.changed.wait_for(&mut waiting, time);
        }
        let reopen = std::mem::take(&mut waiting.wants_reopening);
        Asked { reopen, stop: waiting.is_stopping }
    }

    /// A batch of so many bytes, as it was taken, is done with.
    pub(super) fn done(&self, batch_bytes: usize) {
        self.release(batch_bytes);
    }

    pub(super) fn set_failing(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::Relaxed);
    }

    /// How many lines wait; none if they are of events alone.
    pub(super) fn waiting_calls(&self) -> usize {
        let waiting = self.waiting.lock();
        if waiting.has_calls { memchr_iter(b'\n', &waiting.lines).count() } else { 0 }
    }

    /// No more lines are taken, if none waits. Whether that is so.
    pub(super) fn close(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = waiting.lines.is_empty();
        waiting.is_closed
    }

    /// The writer has ended: what still comes is dropped.
    pub(super) fn finish(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        waiting.is_finished = true;
        drop(waiting);
        self.wake();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LINE: &[u8] = b",\"a\":1\n";

    /// Room that is reserved is there when the line comes; there is never more than the bound.
    #[test]
    fn reservations_are_kept() {
        let queue = Arc::new(Queue::new(100, WhenFull::Refuse));
        let held: Vec<Reservation> = (0..10).map(|_| queue.reserve(10).unwrap()).collect();
        assert!(queue.reserve(1).is_none());
        assert_eq!(queue.used_bytes(), 100);
        for reservation in held {
            queue.push(LINE);
            drop(reservation);
        }
        assert_eq!(queue.used_bytes(), 10 * LINE.len());
        assert_eq!(queue.counters.dropped.get(), 0);
        let mut batch = Vec::new();
        queue.take(&mut batch, Duration::ZERO);
        assert_eq!(batch, LINE.repeat(10));
        // Not before it has been written is there room again.
        assert!(queue.reserve(31).is_none());
        queue.done(batch.len());
        assert!(queue.reserve(100).is_some());
        assert_eq!(queue.used_bytes(), 0);
    }

    /// While writing fails nothing is begun that has to be written, but where lines may be lost.
    #[test]
    fn failing() {
        for (when_full, is_some) in [(WhenFull::Refuse, false), (WhenFull::Drop, true)] {
            let queue = Arc::new(Queue::new(100, when_full));
            queue.set_failing(true);
            assert_eq!(queue.reserve(10).is_some(), is_some);
            queue.set_failing(false);
            assert!(queue.reserve(10).is_some());
        }
    }

    /// What comes without a place, or after the end, is counted; the queue does not grow.
    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Arc::new(Queue::new(LINE.len(), WhenFull::Drop));
        let places = 1 + MAX_AUDIT_EVENT_BYTES / LINE.len();
        for _ in 0..places {
            queue.push(LINE);
        }
        assert_eq!(queue.counters.dropped.get(), 0);
        queue.push(LINE);
        assert_eq!(queue.counters.dropped.get(), 1);
        assert!(!queue.close());
        let mut batch = Vec::new();
        queue.take(&mut batch, Duration::ZERO);
        assert!(queue.close());
        queue.push(LINE);
        assert_eq!(queue.counters.dropped.get(), 2);
    }
}

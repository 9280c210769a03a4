//! The audit log's line queue, in which space can be reserved.
//!
//! If lines must not be lost, space is reserved before the HSM is called, so that a call's line is
//! in the queue before its answer is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::checkpoint::CheckpointKey;
use super::config::WhenFull;
use super::gaps::Gaps;
use super::link::{Link, LogId, Message};
use super::stats::Counters;
use crate::limits::{AUDIT_HANDOVER_MESSAGE_BYTES, MAX_AUDIT_EVENT_BYTES};
use crate::observe::line_queue::LineQueue;
use crate::observe::syslog::copies::Copies;

/// The state shared by event loops and the writer. Lines in it lack the members that the writer
/// adds.
pub(super) struct Queue {
    pub(super) lines: LineQueue,
    /// Upper bound of [`Self::used_bytes`] for new reservations. Events may exceed it.
    max_bytes: usize,
    when_full: WhenFull,
    /// Bytes of lines that wait or are being written, plus reservations.
    used_bytes: AtomicUsize,
    /// True if lines of calls, and not only of events, have been added.
    has_calls: AtomicBool,
    is_failing: AtomicBool,
    pub(super) counters: Counters,
    /// The forwarders of lines that are in the file.
    pub(super) copies: Copies,
    /// The key that seals checkpoints; locked by the writer while the HSM seals.
    pub(super) checkpoint_key: Mutex<Option<Box<dyn CheckpointKey>>>,
    /// The missing lines that the log reports.
    pub(super) gaps: Mutex<Gaps>,
    /// A process that may ask for the log.
    pub(super) successor: Mutex<Option<Link>>,
    /// True while another process has the log.
    is_elsewhere: AtomicBool,
    /// Number of processes that send their lines to this one.
    senders: AtomicUsize,
    refuses_senders: AtomicBool,
}

/// Space reserved for one line until this is dropped.
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
        Self {
            lines: LineQueue::new(max_bytes + MAX_AUDIT_EVENT_BYTES),
            max_bytes,
            when_full,
            used_bytes: AtomicUsize::new(0),
            has_calls: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            counters: Counters::default(),
            copies: Copies::default(),
            checkpoint_key: Mutex::new(None),
            gaps: Mutex::new(Gaps::new()),
            successor: Mutex::new(None),
            is_elsewhere: AtomicBool::new(false),
            senders: AtomicUsize::new(0),
            refuses_senders: AtomicBool::new(false),
        }
    }

    /// Makes forwarders get copies of the lines that are in the file.
    pub(super) fn with_copies(mut self, copies: Copies) -> Self {
        self.copies = copies;
        self
    }

    /// Returns whether another process has the log.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.is_elsewhere.load(Ordering::Relaxed)
    }

    pub(super) fn set_elsewhere(&self, is_elsewhere: bool) {
        self.is_elsewhere.store(is_elsewhere, Ordering::Relaxed);
    }

    /// Returns the process that has asked for the log, if one has. A process that asks for another
    /// log, or has ended, is forgotten.
    pub(super) fn asking_successor(&self, log: LogId) -> Option<Link> {
        let mut successor = self.successor.lock();
        let link = successor.as_ref()?;
        let mut buffer = Box::new([0; AUDIT_HANDOVER_MESSAGE_BYTES]);
        match link.receive(&mut buffer, log, Duration::ZERO) {
            Ok(None) => None,
            Ok(Some(Message::Ask { is_same_log: true })) if !link.is_closed() => successor.take(),
            Ok(Some(_)) | Err(_) => {
                *successor = None;
                None
            }
        }
    }

    /// Returns the number of processes that send their lines to this one.
    pub(super) fn senders(&self) -> usize {
        self.senders.load(Ordering::Acquire)
    }

    pub(super) fn add_sender(&self) {
        self.senders.fetch_add(1, Ordering::Release);
    }

    /// Records that all lines of a sender are in the queue.
    pub(super) fn remove_sender(&self) {
        self.senders.fetch_sub(1, Ordering::Release);
        self.lines.wake();
    }

    /// Refuses further lines of other processes: they take the log back.
    pub(super) fn refuse_senders(&self) {
        self.refuses_senders.store(true, Ordering::Relaxed);
    }

    pub(super) fn refuses_senders(&self) -> bool {
        self.refuses_senders.load(Ordering::Relaxed)
    }

    /// Returns whether calls are refused when their lines cannot be kept.
    pub(super) fn is_lossless(&self) -> bool {
        self.when_full == WhenFull::Refuse
    }

    /// Returns whether the last attempt to write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    pub(super) fn set_failing(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::Relaxed);
    }

    /// Returns whether calls may be made at present; false if lines must not be lost but cannot be
    /// written.
    pub(super) fn can_serve(&self) -> bool {
        !(self.is_lossless() && self.is_failing())
    }

    /// Returns the bytes of lines that wait or are being written, plus reservations.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Reserves space for a line of up to `bytes`. Returns `None` if there is none, or if lines
    /// must not be lost but cannot be written.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        if !self.can_serve() {
            return None;
        }
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation { queue: Arc::clone(self), bytes };
        (before + bytes <= self.max_bytes).then_some(reservation)
    }

    /// Releases the space taken by a reservation, or by a batch that has been written.
    pub(super) fn release(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Adds the line of a call that has a [`Reservation`]. Returns whether the writer must be
    /// woken.
    pub(super) fn push_call(&self, line: &[u8]) -> bool {
        self.has_calls.store(true, Ordering::Relaxed);
        self.push(line)
    }

    /// Adds an event's line and wakes the writer.
    pub(super) fn push_event(&self, line: &[u8]) {
        self.push(line);
        self.lines.wake();
    }

    fn push(&self, line: &[u8]) -> bool {
        // Counted before the writer can see the line and release its space.
        self.used_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let pushed = self.lines.push(line);
        if pushed.taken < line.len() {
            self.release(line.len() - pushed.taken);
            self.counters.dropped.add(1);
        }
        pushed.must_wake
    }

    /// Returns the number of waiting lines, for use before the writer takes any; 0 if all of them
    /// are lines of events.
    pub(super) fn waiting_calls(&self) -> usize {
        if self.has_calls.load(Ordering::Relaxed) { self.lines.waiting_lines() } else { 0 }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LINE: &[u8] = b",\"a\":1\n";

    /// Reserved space is available when the line arrives, and the bound is never exceeded.
    #[test]
    fn reservations_are_kept() {
        let queue = Arc::new(Queue::new(100, WhenFull::Refuse));
        let held: Vec<Reservation> = (0..10).map(|_| queue.reserve(10).unwrap()).collect();
        assert!(queue.reserve(1).is_none());
        assert_eq!(queue.used_bytes(), 100);
        for reservation in held {
            queue.push_call(LINE);
            drop(reservation);
        }
        assert_eq!(queue.used_bytes(), 10 * LINE.len());
        assert_eq!(queue.counters.dropped.get(), 0);
        let mut batch = Vec::new();
        queue.lines.take(&mut batch, Some(Duration::ZERO));
        assert_eq!(batch, LINE.repeat(10));
        // Space becomes available only once the batch has been written.
        assert!(queue.reserve(31).is_none());
        queue.release(batch.len());
        assert!(queue.reserve(100).is_some());
        assert_eq!(queue.used_bytes(), 0);
    }

    /// While writing fails, no space is reserved unless lines may be lost.
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

    /// Lines that do not fit, or that arrive after the end, are counted; the queue does not grow.
    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Arc::new(Queue::new(LINE.len(), WhenFull::Drop));
        let places = 1 + MAX_AUDIT_EVENT_BYTES / LINE.len();
        for _ in 0..places {
            queue.push_call(LINE);
        }
        assert_eq!(queue.counters.dropped.get(), 0);
        queue.push_call(LINE);
        assert_eq!(queue.counters.dropped.get(), 1);
        assert!(!queue.lines.close());
        let mut batch = Vec::new();
        queue.lines.take(&mut batch, Some(Duration::ZERO));
        assert!(queue.lines.close());
        queue.push_call(LINE);
        assert_eq!(queue.counters.dropped.get(), 2);
    }
}

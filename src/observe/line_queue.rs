//! The bounded queue between threads that log and the thread that writes an output.
//!
//! Adding lines takes one short lock and never waits for the output: lines beyond the bound are
//! rejected, and the caller counts them. The log has one queue per output; the audit log has a
//! single one.

use std::time::{Duration, Instant};

use memchr::{memchr_iter, memrchr};
use parking_lot::{Condvar, Mutex};

/// Complete lines that wait for one writer.
pub(super) struct LineQueue {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    /// True if the writer sleeps until it is woken. Otherwise it checks again by itself after the
    /// time passed to [`LineQueue::pause`].
    is_idle: bool,
    must_reopen: bool,
    must_stop: bool,
    /// True if the writer accepts no more lines.
    is_closed: bool,
    /// True if the writer has ended.
    is_finished: bool,
}

/// Number of bytes that the queue has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) taken: usize,
    /// True if the writer sleeps or the queue is filling up: the caller has to call
    /// [`LineQueue::wake`].
    pub(super) must_wake: bool,
}

/// Requests to the writer, besides writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Requested {
    pub(super) reopen: bool,
    pub(super) stop: bool,
}

/// Returns the number of lines.
pub(super) fn count_lines(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

impl LineQueue {
    pub(super) fn new(max_bytes: usize) -> Self {
        let waiting = Waiting {
            lines: buffer(max_bytes),
            is_idle: false,
            must_reopen: false,
            must_stop: false,
            is_closed: false,
            is_finished: false,
        };
        Self { max_bytes, waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    /// Adds as many complete lines as fit.
    pub(super) fn push(&self, lines: &[u8]) -> Pushed {
        debug_assert!(lines.last().is_none_or(|last| *last == b'\n'), "whole lines");
        let mut waiting = self.waiting.lock();
        let room = if waiting.is_closed { 0 } else { self.max_bytes - waiting.lines.len() };
        let taken = match lines.get(..room) {
            Some(fitting) if room < lines.len() => {
                memrchr(b'\n', fitting).map_or(0, |newline| newline + 1)
            }
            _ => lines.len(),
        };
        let was_filling = self.is_filling(&waiting);
        waiting.lines.extend_from_slice(lines.get(..taken).unwrap_or_default());
        let must_wake = taken > 0
            && (std::mem::take(&mut waiting.is_idle)
                || (self.is_filling(&waiting) && !was_filling));
        Pushed { taken, must_wake }
    }

    /// Adds as many complete lines as fit, wakes the writer if it has to be, and returns the number of
    /// lines that were rejected.
    pub(super) fn push_and_wake(&self, lines: &[u8]) -> u64 {
        let pushed = self.push(lines);
        if pushed.must_wake {
            self.wake();
        }
        count_lines(lines.get(pushed.taken..).unwrap_or_default())
    }

    /// Wakes the writer.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Asks the writer to reopen its output by name before it writes the next lines.
    pub(super) fn request_reopen(&self) {
        self.waiting.lock().must_reopen = true;
        self.wake();
    }

    /// Asks the writer to write the waiting lines and end.
    pub(super) fn request_stop(&self) {
        self.waiting.lock().must_stop = true;
        self.wake();
    }

    /// Waits for the writer to end, and returns whether it has.
    pub(super) fn wait_finished(&self, deadline: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while !waiting.is_finished {
            if self.changed.wait_until(&mut waiting, deadline).timed_out() {
                return waiting.is_finished;
            }
        }
        true
    }

    /// Returns whether a stop has been requested.
    pub(super) fn is_stopping(&self) -> bool {
        self.waiting.lock().must_stop
    }

    /// Returns whether the writer has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.waiting.lock().is_finished
    }

    /// Returns the number of waiting lines.
    pub(super) fn waiting_lines(&self) -> usize {
        memchr_iter(b'\n', &self.waiting.lock().lines).count()
    }

    // ---- The writer's side

    /// Returns an empty batch for [`Self::take`], large enough that lines never have to be copied.
    pub(super) fn batch(&self) -> Vec<u8> {
        buffer(self.max_bytes)
    }

    /// Moves all waiting lines into `batch`, which must be empty. If there is nothing to do, waits
    /// until it is woken, but no longer than `patience` if that is given.
    pub(super) fn take(&self, batch: &mut Vec<u8>, patience: Option<Duration>) -> Requested {
        debug_assert!(batch.is_empty(), "what is in the batch would be written again");
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() && !waiting.must_stop && !waiting.must_reopen {
            waiting.is_idle = true;
            match patience {
                Some(patience) => drop(self.changed.wait_for(&mut waiting, patience)),
                None => self.changed.wait(&mut waiting),
            }
            waiting.is_idle = false;
        }
        std::mem::swap(&mut waiting.lines, batch);
        waiting.take_requested()
    }

    /// Waits while lines accumulate, unless the queue is filling up or there is a request.
    pub(super) fn pause(&self, time: Duration) {
        let mut waiting = self.waiting.lock();
        if !waiting.must_stop && !waiting.must_reopen && !self.is_filling(&waiting) {
            self.changed.wait_for(&mut waiting, time);
        }
    }

    /// Waits before another attempt at a failed write, even if the queue is full. Returns early if
    /// there is a request.
    pub(super) fn wait_to_retry(&self, time: Duration) -> Requested {
        let mut waiting = self.waiting.lock();
        if !waiting.must_stop && !waiting.must_reopen {
            self.changed.wait_for(&mut waiting, time);
        }
        waiting.take_requested()
    }

    /// Closes the queue to further lines, unless lines are waiting, and returns whether it is
    /// closed.
    pub(super) fn close(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = waiting.lines.is_empty();
        waiting.is_closed
    }

    /// Marks the writer as ended: later lines are rejected.
    pub(super) fn finish(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        waiting.is_finished = true;
        drop(waiting);
        self.wake();
    }

    /// Returns whether the queue is half full, so that the writer should not wait for more.
    fn is_filling(&self, waiting: &Waiting) -> bool {
        waiting.lines.len() > self.max_bytes / 2
    }
}

impl Waiting {
    /// Returns the requests and clears the one to reopen; a request to stop stays set.
    fn take_requested(&mut self) -> Requested {
        Requested { reopen: std::mem::take(&mut self.must_reopen), stop: self.must_stop }
    }
}

/// Reserves memory for the whole bound at once, so that the buffer never grows under the lock.
/// Pages that are not written to take no memory.
fn buffer(max_bytes: usize) -> Vec<u8> {
    Vec::with_capacity(max_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only complete lines are accepted, in order, and the bound is never exceeded.
    #[test]
    fn the_bound_holds() {
        let queue = LineQueue::new(10);
        assert_eq!(queue.push(b"one\ntwo\nthree\n").taken, 8);
        assert_eq!(queue.push(b"four\n").taken, 0);
        assert_eq!(queue.push(b"5\n").taken, 2);
        assert_eq!(queue.push(b"\n").taken, 0);
        assert_eq!(queue.waiting_lines(), 3);
        let mut batch = queue.batch();
        assert_eq!(queue.take(&mut batch, Some(Duration::ZERO)), Requested::default());
        assert_eq!(batch, b"one\ntwo\n5\n");
        assert_eq!(queue.push(b"123456789\n").taken, 10);
    }

    /// The writer is woken once when the queue fills up, not by each line after that.
    #[test]
    fn a_filling_queue_wakes_once() {
        let queue = LineQueue::new(8);
        let must_wake: Vec<bool> = (0..4).map(|_| queue.push(b"1\n").must_wake).collect();
        assert_eq!(must_wake, [false, false, true, false]);
        let mut batch = queue.batch();
        queue.take(&mut batch, None);
        assert_eq!(batch.len(), 8);
        assert!(!queue.push(b"1\n").must_wake);
    }

    /// A closed queue accepts nothing; a queue with lines in it cannot be closed.
    #[test]
    fn closing() {
        let queue = LineQueue::new(8);
        queue.push(b"1\n");
        assert!(!queue.close());
        queue.push(b"2\n");
        let mut batch = queue.batch();
        queue.take(&mut batch, None);
        assert_eq!(batch, b"1\n2\n");
        assert!(queue.close());
        assert_eq!(queue.push(b"3\n"), Pushed { taken: 0, must_wake: false });
        assert!(!queue.wait_finished(Instant::now()));
        queue.finish();
        assert!(queue.wait_finished(Instant::now()));
    }

    /// A request to reopen is returned once, a request to stop every time; neither is waited for.
    #[test]
    fn requests() {
        let queue = LineQueue::new(8);
        queue.request_reopen();
        let mut batch = queue.batch();
        assert_eq!(queue.take(&mut batch, None), Requested { reopen: true, stop: false });
        queue.request_reopen();
        let hour = Duration::from_secs(3600);
        assert_eq!(queue.wait_to_retry(hour), Requested { reopen: true, stop: false });
        queue.request_stop();
        for _ in 0..2 {
            queue.pause(hour);
            assert_eq!(queue.take(&mut batch, None), Requested { reopen: false, stop: true });
        }
    }
}

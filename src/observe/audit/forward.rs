//! The lines of a process whose successor has the log: they are sent to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memrchr};

use super::gaps;
use super::link::Link;
use super::queue::Queue;
use super::record;
use crate::limits::{
    AUDIT_HANDOVER_MESSAGE_BYTES, AUDIT_IDLE_INTERVAL, AUDIT_LOSS_REPORT_INTERVAL,
    AUDIT_RETRY_INTERVAL, AUDIT_STOP_TIMEOUT, AUDIT_TAKEOVER_POLL, LOG_WRITE_INTERVAL,
    MAX_AUDIT_RELAY_WAIT,
};
use crate::observe::timestamp::{Rfc3339, since_1970};

/// The end of forwarding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    /// All lines were sent, or given up; the queue is finished.
    All,
    /// The other process takes no more lines: it has ended, or is about to. The lines that were not
    /// sent are still in the batch.
    NotAll,
}

/// Sends lines to the process that has the log.
pub(super) struct Forwarder<'q> {
    queue: &'q Arc<Queue>,
    link: Link,
    /// Time at which waiting for others ends, once a stop has been requested.
    stop_by: Option<Instant>,
}

impl<'q> Forwarder<'q> {
    pub(super) fn new(queue: &'q Arc<Queue>, link: Link) -> Self {
        Self { queue, link, stop_by: None }
    }

    /// Sends the lines in `batch`, and those in the queue until a stop is requested and none is
    /// left. Processes that send their lines to this one are waited for: they have no other way.
    pub(super) fn run(mut self, batch: &mut Vec<u8>) -> Forwarded {
        loop {
            let must_stop = match batch.is_empty() {
                true => self.queue.lines.take(batch, Some(AUDIT_IDLE_INTERVAL)).stop,
                false => false,
            };
            let was_empty = batch.is_empty();
            if !self.send_all(batch) || !self.report_gaps(AUDIT_LOSS_REPORT_INTERVAL) {
                return Forwarded::NotAll;
            }
            if must_stop && was_empty {
                let end = Instant::now() + MAX_AUDIT_RELAY_WAIT;
                let is_late = Instant::now() >= *self.stop_by.get_or_insert(end);
                if (self.queue.senders() == 0 || is_late) && self.queue.lines.close() {
                    break;
                }
                thread::sleep(AUDIT_TAKEOVER_POLL);
            } else if !was_empty {
                self.queue.lines.pause(LOG_WRITE_INTERVAL);
            } else if self.link.is_closed() {
                return Forwarded::NotAll;
            }
        }
        if !self.report_gaps(Duration::ZERO) {
            tracing::error!("the audit log's last line about missing lines is lost");
        }
        // If the other process has ended, nobody needs to know.
        let _ = self.link.send_end();
        self.queue.lines.finish();
        Forwarded::All
    }

    /// Sends the batch and clears it. Returns false if that fails; the rest of the batch is kept.
    fn send_all(&self, batch: &mut Vec<u8>) -> bool {
        let mut sent = 0;
        while let Some(rest) = batch.get(sent..).filter(|rest| !rest.is_empty()) {
            let message = message(rest);
            if !self.send(message) {
                break;
            }
            sent += message.len();
        }
        if sent > 0 {
            let now = since_1970().as_secs();
            self.queue.counters.last_write_unix_secs.store(now, Ordering::Relaxed);
        }
        self.queue.release(sent);
        batch.drain(..sent);
        batch.is_empty()
    }

    /// Sends one message, waiting while the other process takes none. Returns false if it has
    /// ended, or has taken none for [`AUDIT_STOP_TIMEOUT`] while this one is to end.
    fn send(&self, message: &[u8]) -> bool {
        let mut give_up = None;
        loop {
            match self.link.send_lines(message, AUDIT_RETRY_INTERVAL) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "the audit log's new process takes no more lines");
                    return false;
                }
            }
            if self.queue.lines.is_stopping() {
                let end = *give_up.get_or_insert_with(|| Instant::now() + AUDIT_STOP_TIMEOUT);
                if Instant::now() >= end {
                    return false;
                }
            }
            // The socket may be called ready although the message does not fit.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a line about missing lines if one is due. Returns false if that fails.
    fn report_gaps(&self, interval: Duration) -> bool {
        let mut gaps = self.queue.gaps.lock();
        let Some((numbers, counts)) = gaps.due(&self.queue.counters, interval) else { return true };
        let mut bytes = Vec::new();
        let mut line = record::write_event(
            &mut bytes,
            &mut Rfc3339::default(),
            since_1970(),
            gaps::EVENT,
            &[],
        );
        for (name, number) in numbers {
            line.number(name, number);
        }
        bytes.push(b'\n');
        let is_sent = self.send(&bytes);
        if is_sent {
            gaps.reported(counts);
        }
        is_sent
    }
}

/// Returns as many whole lines from the beginning as fit into a message.
fn message(lines: &[u8]) -> &[u8] {
    let fitting = lines.get(..AUDIT_HANDOVER_MESSAGE_BYTES).unwrap_or(lines);
    let end = memrchr(b'\n', fitting).map_or(fitting.len(), |newline| newline + 1);
    fitting.get(..end).unwrap_or_default()
}

/// Returns the number of lines in a batch.
pub(super) fn lines(batch: &[u8]) -> usize {
    memchr_iter(b'\n', batch).count()
}

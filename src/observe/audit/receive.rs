//! The lines of a process that has handed its log over to this one.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::link::{Link, LogId, Message};
use super::queue::Queue;
use super::record;
use crate::limits::{AUDIT_HANDOVER_MESSAGE_BYTES, AUDIT_TAKEOVER_POLL};
use crate::observe::timestamp::{Rfc3339, since_1970};

/// Interval between checks whether this process is to end.
const POLL: Duration = Duration::from_millis(50);
/// The line's `event`, if the other process ended too early.
pub(super) const LOST_EVENT: &str = "handoverLost";

/// Starts the thread that puts the other process's lines into the queue, with the lines of this
/// one.
///
/// # Errors
/// The system cannot provide another thread.
pub(super) fn start(link: Link, log: LogId, queue: &Arc<Queue>) -> io::Result<()> {
    let queue = Arc::clone(queue);
    queue.add_sender();
    let of_thread = Arc::clone(&queue);
    let run = move || {
        let receiver = Receiver { link, log, queue: &of_thread, has_refused: false };
        receiver.run();
        of_thread.remove_sender();
    };
    let thread = thread::Builder::new().name("audit-handover".to_owned()).spawn(run);
    thread.map(drop).inspect_err(|_| queue.remove_sender())
}

struct Receiver<'q> {
    link: Link,
    log: LogId,
    queue: &'q Arc<Queue>,
    /// True if this process ends, and takes no more lines.
    has_refused: bool,
}

impl Receiver<'_> {
    fn run(mut self) {
        let mut buffer = Box::new([0; AUDIT_HANDOVER_MESSAGE_BYTES]);
        let mut is_released = false;
        loop {
            if !self.has_refused && self.queue.refuses_senders() {
                // The other process takes the log back, once this one has written its lines.
                self.link.refuse_more();
                self.has_refused = true;
            }
            match self.link.receive(&mut buffer, self.log, POLL) {
                Ok(None | Some(Message::Ask { .. })) => {}
                Ok(Some(Message::Released)) => is_released = true,
                Ok(Some(Message::Lines(length))) => {
                    self.push(buffer.get(..length).unwrap_or_default());
                }
                Ok(Some(Message::End)) => return,
                Ok(Some(Message::Closed)) => break,
                Err(error) => {
                    tracing::error!(%error, "the audit log's lines of the former process");
                    break;
                }
            }
        }
        if is_released && !self.has_refused {
            tracing::error!(
                "the former process ended without having handed over all lines of the audit log"
            );
            let mut line = Vec::new();
            let time = &mut Rfc3339::default();
            record::write_event(&mut line, time, since_1970(), LOST_EVENT, &[]);
            line.push(b'\n');
            self.queue.push_event(&line);
        }
    }

    /// Puts lines into the queue, and waits for space: meanwhile the other process waits, too.
    fn push(&self, lines: &[u8]) {
        let reservation = loop {
            if let Some(reservation) = self.queue.reserve(lines.len()) {
                break Some(reservation);
            }
            // The writer has given up: the lines are counted as dropped.
            if self.queue.lines.is_finished() {
                break None;
            }
            thread::sleep(AUDIT_TAKEOVER_POLL);
        };
        if self.queue.push_call(lines) {
            self.queue.lines.wake();
        }
        drop(reservation);
    }
}

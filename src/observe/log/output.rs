//! One output of the log: a line queue, and the thread that writes it, so that a slow or stuck
//! output delays no other thread.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use tracing::Level;

use super::sink::Sink;
use crate::limits::LOG_WRITE_INTERVAL;
use crate::observe::line::{Line, LogFormat};
use crate::observe::line_queue::{LineQueue, count_lines};
use crate::observe::timestamp::{Rfc3339, since_1970};

/// The side of an output that other threads use.
pub(super) struct Output {
    queue: LineQueue,
    /// Lines that did not fit, or that the sink refused.
    dropped_lines: AtomicU64,
}

impl Output {
    /// Starts the thread `log-<name>` that writes to `sink`.
    ///
    /// # Errors
    /// The system cannot provide another thread.
    pub(super) fn start(
        name: &'static str,
        sink: Sink,
        format: LogFormat,
        max_bytes: usize,
    ) -> io::Result<Arc<Self>> {
        let output =
            Arc::new(Self { queue: LineQueue::new(max_bytes), dropped_lines: AtomicU64::new(0) });
        let mut writer = Writer {
            output: Arc::clone(&output),
            name,
            sink,
            format,
            time: Rfc3339::default(),
            announced: 0,
            is_mid_line: false,
        };
        thread::Builder::new().name(format!("log-{name}")).spawn(move || writer.run())?;
        Ok(output)
    }

    /// Adds complete lines. Those that do not fit are dropped and counted.
    pub(super) fn push(&self, lines: &[u8]) {
        let dropped = self.queue.push_and_wake(lines);
        if dropped > 0 {
            self.dropped_lines.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// Returns the number of lines dropped since the start.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }

    /// Reopens the sink by name before the next lines are written.
    pub(super) fn reopen(&self) {
        self.queue.request_reopen();
    }

    /// Asks the writer to write the waiting lines and end. Later lines may be dropped.
    pub(super) fn begin_stop(&self) {
        self.queue.request_stop();
    }

    /// Waits for the writer to end, and returns whether it has ended.
    pub(super) fn wait_stopped(&self, deadline: Instant) -> bool {
        self.queue.wait_finished(deadline)
    }

    fn count_dropped(&self, lines: &[u8]) {
        self.dropped_lines.fetch_add(count_lines(lines), Ordering::Relaxed);
    }
}

struct Writer {
    output: Arc<Output>,
    name: &'static str,
    sink: Sink,
    format: LogFormat,
    time: Rfc3339,
    /// Number of dropped lines that have been reported in the log.
    announced: u64,
    /// True if the sink has written part of a line and then failed.
    is_mid_line: bool,
}

impl Writer {
    /// Writes until a stop is requested and no lines are left.
    fn run(&mut self) {
        let output = Arc::clone(&self.output);
        let queue = &output.queue;
        let mut batch = queue.batch();
        loop {
            let requested = queue.take(&mut batch, None);
            if requested.reopen {
                self.reopen();
            }
            self.write(&batch);
            self.announce_dropped();
            if requested.stop && batch.is_empty() && queue.close() {
                break;
            }
            batch.clear();
            queue.pause(LOG_WRITE_INTERVAL);
        }
        self.announce_dropped();
        queue.finish();
    }

    /// Switches to the file that now has the sink's name. If that fails, keeps the current one.
    fn reopen(&mut self) {
        match self.sink.reopen() {
            Ok(is_reopened) => self.is_mid_line &= !is_reopened,
            // The event is written by this same writer, like any other.
            Err(error) => {
                tracing::error!(%error, output = self.name, "the log file cannot be reopened; the log continues in the current one")
            }
        }
    }

    /// Writes lines, and counts those that the sink refuses as dropped.
    fn write(&mut self, lines: &[u8]) {
        let refused = lines.get(self.write_lines(lines)..).unwrap_or_default();
        if !refused.is_empty() {
            self.output.count_dropped(refused);
        }
    }

    /// Writes lines, beginning on a new line, and returns the number of bytes written.
    fn write_lines(&mut self, lines: &[u8]) -> usize {
        if self.is_mid_line {
            if self.write_some(b"\n") == 0 {
                return 0;
            }
            self.is_mid_line = false;
        }
        let written = self.write_some(lines);
        self.is_mid_line = lines[..written].last().is_some_and(|last| *last != b'\n');
        written
    }

    /// Writes until the sink fails, and returns the number of bytes written.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            // Whatever happens in a sink must not end the log.
            let result = catch_unwind(AssertUnwindSafe(|| self.sink.write(rest)));
            match result.unwrap_or_else(|_| Err(io::Error::other("panicked"))) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process that shares the terminal or pipe has made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(LOG_WRITE_INTERVAL);
                }
                Err(_) => break,
            }
        }
        written
    }

    /// Logs how many lines are missing from the log.
    fn announce_dropped(&mut self) {
        let dropped = self.output.dropped_lines();
        if dropped == self.announced {
            return;
        }
        let mut line = Vec::new();
        let mut fields =
            Line::begin(&mut line, self.format, &mut self.time, since_1970(), Level::WARN);
        fields.message("log lines were dropped");
        fields.number("droppedLines", dropped - self.announced);
        fields.string("output", self.name);
        fields.end();
        if self.write_lines(&line) == line.len() {
            self.announced = dropped;
        }
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;

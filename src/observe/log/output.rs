//! Lines on their way to one output: bounded, and written by a thread of its own, so that a slow
//! or stuck output delays nobody.

use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use memchr::{memchr_iter, memrchr};
use parking_lot::{Condvar, Mutex};
use tracing::Level;

use crate::limits::LOG_WRITE_INTERVAL;
use crate::observe::line::{Line, LogFormat};
use crate::observe::timestamp::{Rfc3339, since_1970};

/// Where lines are written.
pub(super) struct Output {
    open: Box<dyn Write + Send>,
    /// Opens it anew, where that can be done.
    opener: Option<Opener>,
}

type Opener = Box<dyn Fn() -> io::Result<Box<dyn Write + Send>> + Send>;

impl Output {
    /// One that stays open.
    pub(super) fn of(open: impl Write + Send + 'static) -> Self {
        Self { open: Box::new(open), opener: None }
    }

    /// One that can be opened again and again.
    ///
    /// # Errors
    /// The opener's.
    pub(super) fn opened_by(
        opener: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self { open: opener()?, opener: Some(Box::new(opener)) })
    }
}

/// The lines that wait for one output.
pub(super) struct Backlog {
    max_bytes: usize,
    /// Lines that found no room, or that the output refused.
    dropped_lines: AtomicU64,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    /// The writer sleeps until there is a line. Else it looks by itself, within
    /// [`LOG_WRITE_INTERVAL`], and need not be woken.
    is_idle: bool,
    /// The output is to be opened anew first.
    is_to_reopen: bool,
    is_stopping: bool,
    /// The writer takes no more lines.
    is_closed: bool,
    /// The writer has written all that it took.
    is_finished: bool,
}

impl Backlog {
    /// Starts the thread `log-<name>` that writes to `output`.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(
        name: &'static str,
        output: Output,
        format: LogFormat,
        max_bytes: usize,
    ) -> io::Result<Arc<Self>> {
        let waiting = Waiting {
            // Memory that is not written to is not used: this way it never grows under the lock.
            lines: Vec::with_capacity(max_bytes),
            is_idle: false,
            is_to_reopen: false,
            is_stopping: false,
            is_closed: false,
            is_finished: false,
        };
        let backlog = Arc::new(Self {
            max_bytes,
            dropped_lines: AtomicU64::new(0),
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
        });
        let mut writer = Writer {
            backlog: Arc::clone(&backlog),
            name,
            output,
            format,
            time: Rfc3339::default(),
            announced: 0,
            is_mid_line: false,
        };
        thread::Builder::new().name(format!("log-{name}")).spawn(move || writer.run())?;
        Ok(backlog)
    }

    /// Adds whole lines; as many as there is room for, the others are dropped and counted.
    pub(super) fn push(&self, lines: &[u8]) {
        debug_assert!(lines.last().is_none_or(|last| *last == b'\n'), "whole lines");
        let (taken, wake) = {
            let mut waiting = self.waiting.lock();
            let room = if waiting.is_closed { 0 } else { self.max_bytes - waiting.lines.len() };
            let taken = match lines.get(..room) {
                Some(fitting) if room < lines.len() => {
                    memrchr(b'\n', fitting).map_or(0, |newline| newline + 1)
                }
                _ => lines.len(),
            };
            let was_urgent = self.is_urgent(&waiting);
            waiting.lines.extend_from_slice(lines.get(..taken).unwrap_or_default());
            let wake =
                std::mem::take(&mut waiting.is_idle) || (self.is_urgent(&waiting) && !was_urgent);
            (taken, wake)
        };
        if wake {
            self.changed.notify_all();
        }
        let dropped = lines.get(taken..).unwrap_or_default();
        if !dropped.is_empty() {
            self.count_dropped(dropped);
        }
    }

    /// How many lines were dropped since the start.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }

    /// Has the writer open its output anew before it writes the next lines.
    pub(super) fn reopen(&self) {
        self.waiting.lock().is_to_reopen = true;
        self.changed.notify_all();
    }

    /// Asks the writer to write what waits and to end. Lines that come later may be dropped.
    pub(super) fn begin_stop(&self) {
        self.waiting.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Waits, until `deadline` at the latest, for the writer to end. Whether it has.
    pub(super) fn wait_stopped(&self, deadline: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while !waiting.is_finished {
            if self.changed.wait_until(&mut waiting, deadline).timed_out() {
                return waiting.is_finished;
            }
        }
        true
    }

    /// Half full: the writer should not take its time.
    fn is_urgent(&self, waiting: &Waiting) -> bool {
        waiting.lines.len() > self.max_bytes / 2
    }

    fn count_dropped(&self, lines: &[u8]) {
        let count = memchr_iter(b'\n', lines).count();
        self.dropped_lines.fetch_add(count as u64, Ordering::Relaxed);
    }
}

struct Writer {
    backlog: Arc<Backlog>,
    name: &'static str,
    output: Output,
    format: LogFormat,
    time: Rfc3339,
    /// How many of the dropped lines the log has told of.
    announced: u64,
    /// The output took a part of a line and then failed.
    is_mid_line: bool,
}

impl Writer {
    fn run(&mut self) {
        let mut batch = Vec::with_capacity(self.backlog.max_bytes);
        while let Some(is_to_reopen) = self.take(&mut batch) {
            if is_to_reopen {
                self.reopen();
            }
            self.write(&batch);
            batch.clear();
            self.announce_dropped();
            self.pause();
        }
        self.announce_dropped();
        self.backlog.waiting.lock().is_finished = true;
        self.backlog.changed.notify_all();
    }

    /// Waits for lines and takes them all, and gives whether the output is to be opened anew
    /// before; `None` if there are none and none will come.
    fn take(&self, batch: &mut Vec<u8>) -> Option<bool> {
        let mut waiting = self.backlog.waiting.lock();
        while waiting.lines.is_empty() && !waiting.is_to_reopen {
            if waiting.is_stopping {
                waiting.is_closed = true;
                return None;
            }
            waiting.is_idle = true;
            self.backlog.changed.wait(&mut waiting);
        }
        waiting.is_idle = false;
        std::mem::swap(&mut waiting.lines, batch);
        Some(std::mem::take(&mut waiting.is_to_reopen))
    }

    /// Goes on with the output as its name means it now; if that fails, as it is.
    fn reopen(&mut self) {
        let Some(opener) = &self.output.opener else { return };
        match opener() {
            Ok(open) => {
                self.output.open = open;
                self.is_mid_line = false;
            }
            // It waits for this writer, as any line does.
            Err(error) => tracing::error!(%error, output = self.name, "it cannot be opened anew"),
        }
    }

    /// Lets lines gather, unless there is a hurry.
    fn pause(&self) {
        let mut waiting = self.backlog.waiting.lock();
        if !waiting.is_stopping && !self.backlog.is_urgent(&waiting) {
            self.backlog.changed.wait_for(&mut waiting, LOG_WRITE_INTERVAL);
        }
    }

    /// Writes lines; those that the output refuses are counted as dropped.
    fn write(&mut self, lines: &[u8]) {
        let refused = lines.get(self.write_lines(lines)..).unwrap_or_default();
        if !refused.is_empty() {
            self.backlog.count_dropped(refused);
        }
    }

    /// Writes lines, beginning on a new one. How many bytes the output took.
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

    /// How many bytes the output took before it failed.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            // The file's appender prints to stderr what it can't do, and printing panics where
            // stderr is gone. The log goes on.
            let result = catch_unwind(AssertUnwindSafe(|| self.output.open.write(rest)));
            match result.unwrap_or_else(|_| Err(io::Error::other("panicked"))) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares the terminal or pipe has made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(LOG_WRITE_INTERVAL);
                }
                Err(_) => break,
            }
        }
        written
    }

    /// Says in the log itself how much of it is missing.
    fn announce_dropped(&mut self) {
        let dropped = self.backlog.dropped_lines();
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

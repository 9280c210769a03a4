//! The thread that sends one log's lines to one collector. It alone waits for that collector.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memchr_iter;

use super::config::Address;
use super::connection::{Connection, is_too_long};
use super::message::{Framing, Origin};
use super::stats::{Counters, SyslogStats};
use crate::backoff::Backoff;
use crate::limits::{
    LOG_WRITE_INTERVAL, MAX_SYSLOG_BACKOFF, SYSLOG_EARLY_END, SYSLOG_IDLE_INTERVAL,
    SYSLOG_REPORT_INTERVAL, SYSLOG_TRIAL, SYSLOG_WRITE_BYTES,
};
use crate::observe::line_queue::{LineQueue, count_lines};
use crate::observe::metrics::counter::SharedCounter;
use crate::observe::redaction::shown_reason;

/// The side of a forwarder that other threads use.
pub(super) struct Forwarder {
    queue: LineQueue,
    counters: Counters,
    /// Lines that did not fit; they are among the dropped ones.
    overflowed: SharedCounter,
    /// Name of the collector.
    server: String,
    log: &'static str,
}

impl Forwarder {
    /// Starts the thread. Up to `backlog_bytes` of lines may wait for it.
    ///
    /// # Errors
    /// The system cannot provide another thread.
    pub(super) fn start(
        address: Address,
        origin: Origin,
        backlog_bytes: usize,
    ) -> io::Result<Arc<Self>> {
        let forwarder = Arc::new(Self {
            queue: LineQueue::new(backlog_bytes),
            counters: Counters::default(),
            overflowed: SharedCounter::default(),
            server: address.name(),
            log: origin.log(),
        });
        let mut sender = Sender {
            forwarder: Arc::clone(&forwarder),
            framing: Connection::framing(&address),
            address,
            origin,
            connection: None,
            opened: Instant::now(),
            has_ended_early: false,
            backoff: Backoff::up_to(MAX_SYSLOG_BACKOFF),
            next_attempt: Instant::now(),
            out: Vec::with_capacity(2 * SYSLOG_WRITE_BYTES),
            lines_in_out: 0,
            accounted: 0,
            reported: 0,
            last_report: None,
            is_trouble_reported: false,
        };
        thread::Builder::new()
            .name(format!("syslog-{}", forwarder.log))
            .spawn(move || sender.run())?;
        Ok(forwarder)
    }

    /// Adds complete lines. Those that do not fit are dropped and counted.
    pub(super) fn push(&self, lines: &[u8]) {
        let dropped = self.queue.push_and_wake(lines);
        if dropped > 0 {
            self.counters.dropped.add(dropped);
            self.overflowed.add(dropped);
        }
    }

    /// Asks the thread to send the waiting lines and end.
    pub(super) fn begin_stop(&self) {
        self.queue.request_stop();
    }

    /// Waits for the thread to end, and returns whether it has.
    pub(super) fn wait_stopped(&self, deadline: Instant) -> bool {
        self.queue.wait_finished(deadline)
    }

    /// Returns the number of lines that are not sent yet, whoever has them.
    fn unsent_lines(&self) -> u64 {
        let counters = &self.counters;
        // Those that overflowed were never taken out of the queue.
        let given_up = counters.dropped.get().saturating_sub(self.overflowed.get());
        let taken = counters.taken.get().saturating_sub(counters.sent.get() + given_up);
        if self.queue.is_finished() { 0 } else { taken + self.queue.waiting_lines() as u64 }
    }

    /// Returns the number of lines lost so far, if those that are not sent now never will be.
    pub(super) fn lost_lines(&self) -> u64 {
        self.counters.dropped.get() + self.unsent_lines()
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn log(&self) -> &'static str {
        self.log
    }

    pub(super) fn stats(&self) -> SyslogStats {
        let counters = &self.counters;
        SyslogStats {
            server: self.server.clone(),
            log: self.log,
            is_connected: counters.is_connected.load(Ordering::Relaxed),
            trouble: counters.trouble.lock().clone(),
            sent_lines: counters.sent.get(),
            dropped_lines: counters.dropped.get(),
            failures: counters.failures.get(),
        }
    }
}

fn ended_early() -> io::Error {
    io::Error::other("the collector accepts connections, and closes them at once")
}

/// The thread's side.
struct Sender {
    forwarder: Arc<Forwarder>,
    address: Address,
    framing: Framing,
    origin: Origin,
    connection: Option<Connection>,
    /// Time at which the last connection was made.
    opened: Instant,
    /// True if the collector ended the last connection early ([`SYSLOG_EARLY_END`]).
    has_ended_early: bool,
    backoff: Backoff,
    /// Time before which no connection is tried while there is nothing to send.
    next_attempt: Instant,
    /// Messages that are sent together.
    out: Vec<u8>,
    lines_in_out: u64,
    /// Number of overflowed lines whose sequence numbers were left out.
    accounted: u64,
    /// Number of dropped lines that have been reported in the log.
    reported: u64,
    last_report: Option<Instant>,
    /// True if the log says that the collector cannot be reached.
    is_trouble_reported: bool,
}

/// The process is ending, so that lines which the collector does not take now are lost.
struct Stopping;

impl Sender {
    /// Sends until a stop is requested and no lines are left, or the collector takes none then.
    fn run(&mut self) {
        let forwarder = Arc::clone(&self.forwarder);
        let queue = &forwarder.queue;
        let mut batch = queue.batch();
        // The collector is connected to before the first line, so that status and metrics tell.
        self.check_connection();
        loop {
            let requested = queue.take(&mut batch, Some(self.patience()));
            let overflowed = forwarder.overflowed.get();
            forwarder.counters.taken.add(count_lines(&batch));
            if self.send_lines(&batch).is_err() {
                break;
            }
            // Lines overflow while the queue is full, so they came after those in the batch.
            self.origin.leave_out(overflowed - self.accounted);
            self.accounted = overflowed;
            self.report();
            if requested.stop && batch.is_empty() && queue.close() {
                break;
            }
            match batch.is_empty() {
                true => self.check_connection(),
                false => queue.pause(LOG_WRITE_INTERVAL),
            }
            batch.clear();
        }
        // Lines that are still in the queue, or come later, are not sent.
        let left = queue.waiting_lines() as u64;
        forwarder.counters.taken.add(left);
        forwarder.counters.dropped.add(left);
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        queue.finish();
    }

    /// Sends all lines. Without a collector, waits for one.
    fn send_lines(&mut self, lines: &[u8]) -> Result<(), Stopping> {
        let mut begin = 0;
        for newline in memchr_iter(b'\n', lines) {
            self.origin.append(
                &mut self.out,
                lines.get(begin..newline).unwrap_or_default(),
                self.framing,
            );
            self.lines_in_out += 1;
            begin = newline + 1;
            let is_full = self.framing == Framing::Datagram || self.out.len() >= SYSLOG_WRITE_BYTES;
            if (is_full || begin == lines.len())
                && let Err(stopping) = self.send_out()
            {
                let lost = self.lines_in_out + count_lines(lines.get(begin..).unwrap_or_default());
                self.forwarder.counters.dropped.add(lost);
                return Err(stopping);
            }
        }
        Ok(())
    }

    /// Sends [`Self::out`], repeating it on a new connection after a failure: part of it may then
    /// arrive twice, with the same sequence numbers.
    fn send_out(&mut self) -> Result<(), Stopping> {
        loop {
            match self.try_to_send() {
                Ok(()) => {
                    self.forwarder.counters.sent.add(self.lines_in_out);
                    break;
                }
                Err(error) if is_too_long(&error) => {
                    self.forwarder.counters.dropped.add(self.lines_in_out);
                    break;
                }
                Err(error) => self.fail(&error)?,
            }
        }
        self.out.clear();
        self.lines_in_out = 0;
        // A slow collector may take a batch for minutes.
        self.report();
        Ok(())
    }

    fn try_to_send(&mut self) -> io::Result<()> {
        self.ensure_connected()?;
        match &mut self.connection {
            Some(connection) => connection.send(&self.out),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
        .inspect(|()| self.backoff.reset())
    }

    /// Makes a connection unless there is one that the collector has not ended.
    fn ensure_connected(&mut self) -> io::Result<()> {
        if self.connection.as_mut().is_some_and(Connection::has_ended) {
            self.disconnected();
            self.has_ended_early = self.opened.elapsed() < SYSLOG_EARLY_END;
            if self.has_ended_early {
                return Err(ended_early());
            }
        }
        if self.connection.is_none() { self.connect() } else { Ok(()) }
    }

    fn connect(&mut self) -> io::Result<()> {
        let mut connection = Connection::open(&self.address)?;
        self.opened = Instant::now();
        if self.has_ended_early {
            self.forwarder.queue.wait_to_retry(SYSLOG_TRIAL);
            if connection.has_ended() {
                return Err(ended_early());
            }
        }
        self.connection = Some(connection);
        let counters = &self.forwarder.counters;
        counters.is_connected.store(true, Ordering::Relaxed);
        *counters.trouble.lock() = None;
        if std::mem::take(&mut self.is_trouble_reported) {
            let Forwarder { server, log, .. } = &*self.forwarder;
            tracing::info!(server, log, "the syslog collector can be reached again");
        }
        Ok(())
    }

    fn disconnected(&mut self) {
        self.connection = None;
        self.forwarder.counters.is_connected.store(false, Ordering::Relaxed);
    }

    /// Waits before another attempt.
    fn fail(&mut self, error: &io::Error) -> Result<(), Stopping> {
        let wait = self.failed(error);
        let requested = self.forwarder.queue.wait_to_retry(wait);
        if requested.stop { Err(Stopping) } else { Ok(()) }
    }

    /// Notes a failure, and returns the time to wait before another attempt.
    fn failed(&mut self, error: &io::Error) -> Duration {
        let wait = self.backoff.wait();
        self.next_attempt = Instant::now() + wait;
        self.disconnected();
        let counters = &self.forwarder.counters;
        counters.failures.add(1);
        *counters.trouble.lock() = Some(shown_reason(&error.to_string()));
        self.report();
        wait
    }

    /// While there is nothing to send: notices a connection that has ended, and makes a new one, after
    /// the same waits as if there were something.
    fn check_connection(&mut self) {
        if self.connection.is_none() && Instant::now() < self.next_attempt {
            return;
        }
        if let Err(error) = self.ensure_connected() {
            self.failed(&error);
        } else if self.opened.elapsed() >= SYSLOG_EARLY_END {
            self.backoff.reset();
        }
    }

    /// Time for which to wait for lines before the connection is checked again.
    fn patience(&self) -> Duration {
        let until_next = self.next_attempt.saturating_duration_since(Instant::now());
        if self.connection.is_some() || until_next.is_zero() {
            SYSLOG_IDLE_INTERVAL
        } else {
            until_next.min(SYSLOG_IDLE_INTERVAL)
        }
    }

    /// Logs that the collector cannot be reached and how many lines were lost, at most once per
    /// [`SYSLOG_REPORT_INTERVAL`].
    fn report(&mut self) {
        let Forwarder { server, log, counters, .. } = &*self.forwarder;
        let dropped = counters.dropped.get();
        let trouble = counters.trouble.lock().clone();
        if trouble.is_none() && dropped == self.reported {
            return;
        }
        if self.last_report.is_some_and(|last| last.elapsed() < SYSLOG_REPORT_INTERVAL) {
            return;
        }
        self.last_report = Some(Instant::now());
        let lost = dropped - self.reported;
        self.reported = dropped;
        match trouble {
            Some(error) => {
                self.is_trouble_reported = true;
                tracing::warn!(
                    server,
                    log,
                    error,
                    dropped_lines = lost,
                    "the syslog collector cannot be reached"
                );
            }
            None => {
                tracing::warn!(server, log, dropped_lines = lost, "syslog lines were dropped");
            }
        }
    }
}

#[cfg(test)]
#[path = "forwarder_tests.rs"]
mod tests;

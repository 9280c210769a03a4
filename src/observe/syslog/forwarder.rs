//! The thread that sends one log's lines to one collector. It alone waits for that collector.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use memchr::memchr_iter;

use super::config::Address;
use super::connection::{Connection, is_too_long};
use super::message::{Framing, Origin};
use super::stats::{Counters, SyslogStats};
use crate::backoff::Backoff;
use crate::limits::{
    LOG_WRITE_INTERVAL, MAX_SYSLOG_BACKLOG_BYTES, MAX_SYSLOG_BACKOFF, SYSLOG_EARLY_END,
    SYSLOG_IDLE_INTERVAL, SYSLOG_REPORT_INTERVAL, SYSLOG_TRIAL, SYSLOG_WRITE_BYTES,
};
use crate::observe::line_queue::LineQueue;
use crate::observe::metrics::counter::SharedCounter;

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
    /// Starts the thread.
    ///
    /// # Errors
    /// The system cannot provide another thread.
    pub(super) fn start(address: Address, origin: Origin) -> io::Result<Arc<Self>> {
        let forwarder = Arc::new(Self {
            queue: LineQueue::new(MAX_SYSLOG_BACKLOG_BYTES),
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
        let pushed = self.queue.push(lines);
        if pushed.must_wake {
            self.queue.wake();
        }
        let dropped = lines.get(pushed.taken..).unwrap_or_default();
        if !dropped.is_empty() {
            self.counters.dropped.add(count(dropped));
            self.overflowed.add(count(dropped));
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

fn count(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
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
            let requested = queue.take(&mut batch, Some(SYSLOG_IDLE_INTERVAL));
            let overflowed = forwarder.overflowed.get();
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
        // What is still in the queue, or comes later, is not sent.
        forwarder.counters.dropped.add(queue.waiting_lines() as u64);
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
                let lost = self.lines_in_out + count(lines.get(begin..).unwrap_or_default());
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
        self.failed(error);
        let requested = self.forwarder.queue.wait_to_retry(self.backoff.wait());
        if requested.stop { Err(Stopping) } else { Ok(()) }
    }

    fn failed(&mut self, error: &io::Error) {
        self.disconnected();
        let counters = &self.forwarder.counters;
        counters.failures.add(1);
        *counters.trouble.lock() = Some(error.to_string());
        self.report();
    }

    /// While there is nothing to send: notices a connection that has ended, and makes a new one.
    fn check_connection(&mut self) {
        if let Err(error) = self.ensure_connected() {
            self.failed(&error);
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

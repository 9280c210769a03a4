//! The thread of one signal: collects, sends, repeats, and gives up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::transport::{Outcome, Transport};
use crate::backoff::Backoff;
use crate::limits::{MAX_OTLP_BACK_OFF, MAX_OTLP_RETRY_TIME, OTLP_STOP_TIMEOUT};
use crate::observe::otlp::stats::{OtlpStats, Signal, SignalStats};
use crate::observe::otlp::stop::Stop;
use crate::observe::redaction::shown;

/// The body of one request.
pub(super) struct Batch {
    pub(super) body: Vec<u8>,
    /// Number of data points, lines or calls in it.
    pub(super) count: u64,
    /// True if a later batch contains the same and more, so that this one need not be repeated.
    pub(super) is_replaced: bool,
}

/// The origin of batches.
pub(super) trait Source: Send {
    /// Returns a batch if one is due, without waiting. Called again until none is.
    fn collect(&mut self, is_last: bool) -> Option<Batch>;
}

/// The thread's state.
pub(super) struct Worker {
    pub(super) signal: Signal,
    pub(super) source: Box<dyn Source>,
    pub(super) interval: Duration,
    pub(super) transport: Transport,
    pub(super) stats: Arc<OtlpStats>,
    pub(super) stop: Arc<Stop>,
}

impl Worker {
    /// Exports until a stop is requested, and then what is left.
    pub(super) fn run(mut self) {
        let stop = Arc::clone(&self.stop);
        // Whatever happens here, the end of the process must not wait for it.
        if catch_unwind(AssertUnwindSafe(|| self.export())).is_err() {
            tracing::error!(signal = self.signal.name(), "the OTLP export has ended by a defect");
            self.own_stats().set_failing(true);
        }
        stop.ended();
    }

    fn export(&mut self) {
        let mut back_off = Backoff::up_to(MAX_OTLP_BACK_OFF);
        loop {
            let is_last = self.stop.wait(self.interval);
            while let Some(batch) = self.source.collect(is_last) {
                self.deliver(&batch, &mut back_off);
            }
            if is_last {
                return;
            }
        }
    }

    /// Sends a batch until the collector takes or refuses it, or it is too old.
    fn deliver(&self, batch: &Batch, back_off: &mut Backoff) {
        let started = Instant::now();
        let mut is_stopping = self.stop.wait(Duration::ZERO);
        loop {
            let max_wait = if is_stopping { OTLP_STOP_TIMEOUT } else { Duration::MAX };
            let (reason, wait) = match self.transport.post(&batch.body, max_wait) {
                Outcome::Taken { rejected, message } => {
                    self.taken(batch.count, rejected, &message);
                    back_off.reset();
                    return;
                }
                Outcome::Refused(reason) => {
                    self.own_stats().failed_requests.add(1);
                    self.own_stats().rejected.add(batch.count);
                    self.failed(&reason, "its collector refuses what is sent");
                    // The next batch may be refused too: it must not follow at once.
                    self.stop.wait(back_off.wait());
                    return;
                }
                Outcome::Later(reason, wait) => (reason, wait),
            };
            self.own_stats().failed_requests.add(1);
            self.failed(&reason, "its collector does not answer, or asks to wait");
            let own = back_off.wait();
            let wait = wait.map_or(own, |wait| wait.max(own));
            // Waiting does not help if nobody would see the outcome.
            let gives_up =
                is_stopping || batch.is_replaced || started.elapsed() + wait > MAX_OTLP_RETRY_TIME;
            if gives_up {
                self.own_stats().undelivered.add(batch.count);
            }
            // A wait that was asked for is kept in any case.
            is_stopping = self.stop.wait(if is_stopping { Duration::ZERO } else { wait });
            if gives_up {
                return;
            }
        }
    }

    fn taken(&self, count: u64, rejected: u64, message: &str) {
        let rejected = rejected.min(count);
        let stats = self.own_stats();
        stats.exported.add(count - rejected);
        stats.rejected.add(rejected);
        if rejected > 0 {
            // Not to be repeated (OTLP specification, "Partial Success").
            self.failed(&shown(message), "its collector takes only a part of what is sent");
        } else if stats.set_failing(false) {
            tracing::info!(signal = self.signal.name(), "the OTLP export works again");
        }
    }

    /// Logs the first of several failures.
    fn failed(&self, reason: &str, problem: &str) {
        if !self.own_stats().set_failing(true) {
            let signal = self.signal.name();
            tracing::warn!(signal, reason, "the OTLP export fails: {problem}");
        }
    }

    fn own_stats(&self) -> &SignalStats {
        self.stats.of(self.signal)
    }
}

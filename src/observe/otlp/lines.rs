//! The log's lines that wait to be exported.

use std::sync::Arc;

use tracing::Level;

use super::stats::{OtlpStats, Signal};
use crate::limits::MAX_OTLP_LOG_BACKLOG_BYTES;
use crate::observe::line_queue::{LineQueue, count_lines};

/// Lines in the log's JSON format, for the exporter. Cheap to clone.
#[derive(Clone)]
pub struct LogLines(Arc<Shared>);

struct Shared {
    queue: LineQueue,
    level: Level,
    stats: Arc<OtlpStats>,
}

impl LogLines {
    pub(super) fn new(level: Level, stats: &Arc<OtlpStats>) -> Self {
        let queue = LineQueue::new(MAX_OTLP_LOG_BACKLOG_BYTES);
        Self(Arc::new(Shared { queue, level, stats: Arc::clone(stats) }))
    }

    /// Returns whether lines of this level are exported.
    pub(in crate::observe) fn wants(&self, level: Level) -> bool {
        level <= self.0.level
    }

    /// Adds complete lines. Those that do not fit are dropped and counted. Nobody is woken: the
    /// exporter looks again by itself.
    pub(in crate::observe) fn push(&self, lines: &[u8]) {
        let pushed = self.0.queue.push(lines);
        let dropped = lines.get(pushed.taken..).unwrap_or_default();
        if !dropped.is_empty() {
            self.0.stats.of(Signal::Logs).overflowed.add(count_lines(dropped));
        }
    }

    /// Returns an empty batch for [`Self::take`].
    #[cfg(feature = "otlp")]
    pub(super) fn batch(&self) -> Vec<u8> {
        self.0.queue.batch()
    }

    /// Moves all waiting lines into `batch`, which must be empty.
    #[cfg(feature = "otlp")]
    pub(super) fn take(&self, batch: &mut Vec<u8>) {
        self.0.queue.take(batch, Some(std::time::Duration::ZERO));
        self.0.stats.of(Signal::Logs).accepted.add(count_lines(batch));
    }

    /// Returns the number of lines that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.0.queue.waiting_lines() as u64
    }
}

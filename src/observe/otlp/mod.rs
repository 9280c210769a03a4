//! Export of metrics, logs and traces by OTLP (OpenTelemetry's protocol) over HTTP.
//!
//! ```text
//!  event loop    traces: samples a call's record ── try_send ──► bounded channel ─┐
//!  any thread    the log's lines, as JSON ──► line_queue: bounded ────────────────┤
//!  metrics       collected by the exporter, as for Prometheus ────────────────────┤
//!                                                                                 ▼
//!  otlp-traces, otlp-logs, otlp-metrics    one thread each: encode, POST, retry, drop and count
//! ```
//!
//! The event loops' side is always there. Encoding and sending are behind the cargo feature `otlp`;
//! without it, the settings refuse the section.

#![cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "used by the exporter alone"))]

mod call_span;
pub mod config;
#[cfg(feature = "otlp")]
mod export;
pub mod lines;
pub mod stats;
mod stop;
mod texts;
mod trace_id;
pub mod traces;

use std::io;
use std::sync::Arc;

use self::config::OtlpConfig;
use self::lines::LogLines;
use self::stats::{OtlpStats, Signal};
use self::stop::Stop;
use self::traces::{TracesSource, WaitingCalls};
use super::metrics::exposition::Exposition;
use crate::limits::OTLP_STOP_TIMEOUT;

/// The export: its queues, which other threads fill from the start, and its threads, once
/// [`Otlp::start`] is called.
pub struct Otlp {
    config: OtlpConfig,
    stats: Arc<OtlpStats>,
    lines: Option<LogLines>,
    traces: Option<TracesSource>,
    waiting: parking_lot::Mutex<Option<WaitingCalls>>,
    stop: Arc<Stop>,
}

impl Otlp {
    /// Makes the queues of the signals that are exported.
    #[must_use]
    pub fn new(config: &OtlpConfig) -> Self {
        let stats = Arc::<OtlpStats>::default();
        let (traces, waiting) = if config.has(Signal::Traces) {
            let (traces, waiting) = TracesSource::new(config.traces, &stats);
            (Some(traces), Some(waiting))
        } else {
            (None, None)
        };
        Self {
            config: config.clone(),
            lines: config.has(Signal::Logs).then(|| LogLines::new(config.log_level, &stats)),
            traces,
            waiting: parking_lot::Mutex::new(waiting),
            stats,
            stop: Arc::default(),
        }
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> Arc<OtlpStats> {
        Arc::clone(&self.stats)
    }

    /// Returns the queue of the log's lines, if they are exported.
    #[must_use]
    pub fn lines(&self) -> Option<LogLines> {
        self.lines.clone()
    }

    /// Makes the sampler of an event loop.
    #[must_use]
    pub fn traces(&self) -> traces::Traces {
        self.traces.as_ref().map(TracesSource::of_loop).unwrap_or_default()
    }

    /// Starts the threads. `metrics` collects the metrics.
    ///
    /// # Errors
    /// The system cannot provide another thread.
    #[cfg(feature = "otlp")]
    pub fn start(&self, metrics: impl FnMut() -> Exposition + Send + 'static) -> io::Result<()> {
        let exported = export::Exported {
            calls: self.waiting.lock().take(),
            lines: self.lines(),
            metrics: Box::new(metrics),
        };
        tracing::info!(
            endpoint = self.config.endpoint,
            signals = self.config.signals.iter().map(|it| it.name()).collect::<Vec<_>>().join(","),
            "export by OTLP"
        );
        export::start(&self.config, exported, &self.stats, &self.stop)
    }

    /// Fails: the program was built without the feature, and the settings refuse the section.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "otlp"))]
    pub fn start(&self, _metrics: impl FnMut() -> Exposition + Send + 'static) -> io::Result<()> {
        drop(self.waiting.lock().take());
        Err(io::Error::other(format!("built without OTLP: {}", self.config.endpoint)))
    }

    /// Exports what is left, for at most [`OTLP_STOP_TIMEOUT`], ends the threads, and returns the
    /// number of data points, lines or calls that the collector did not take, for each signal in the
    /// settings that has some.
    pub fn stop(&self) -> Vec<(&'static str, u64)> {
        let before = Signal::ALL.map(|signal| self.stats.of(signal).given_up());
        self.stop.stop(OTLP_STOP_TIMEOUT);
        let lost = Signal::ALL.into_iter().zip(before).map(|(signal, before)| {
            let stats = self.stats.of(signal);
            let lost = stats.given_up().saturating_sub(before) + stats.unsent();
            (signal.name(), lost + self.waiting_lines(signal))
        });
        lost.filter(|(_, lost)| *lost > 0).collect()
    }

    /// The log's lines that no thread has taken.
    fn waiting_lines(&self, signal: Signal) -> u64 {
        match &self.lines {
            Some(lines) if signal == Signal::Logs => lines.waiting(),
            _ => 0,
        }
    }
}

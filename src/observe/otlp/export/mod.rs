//! The exporter's threads: one for each signal, so that none waits for another.

mod batches;
mod clock;
mod logs;
mod lookup;
mod messages;
mod metrics;
mod spans;
mod transport;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use self::batches::{About, Calls, Lines, Numbers};
use self::transport::Transport;
use self::worker::{Source, Worker};
use super::config::OtlpConfig;
use super::lines::LogLines;
use super::stats::{OtlpStats, Signal};
use super::stop::Stop;
use super::traces::WaitingCalls;
use crate::limits::OTLP_COLLECT_INTERVAL;
use crate::observe::metrics::exposition::Exposition;
use crate::random;

/// Everything that is exported.
pub(super) struct Exported {
    pub(super) calls: Option<WaitingCalls>,
    pub(super) lines: Option<LogLines>,
    /// Collects the metrics.
    pub(super) metrics: Box<dyn FnMut() -> Exposition + Send>,
}

/// Starts a thread for each signal.
///
/// # Errors
/// The system cannot provide another thread.
pub(super) fn start(
    config: &OtlpConfig,
    exported: Exported,
    stats: &Arc<OtlpStats>,
    stop: &Arc<Stop>,
) -> io::Result<()> {
    let about = About::new(&resource(config));
    let start = |signal: Signal, source: Box<dyn Source>, interval: Duration| {
        let worker = Worker {
            signal,
            source,
            interval,
            transport: Transport::new(config, signal),
            stats: Arc::clone(stats),
            stop: Arc::clone(stop),
        };
        stop.started();
        let thread = thread::Builder::new().name(format!("otlp-{}", signal.name()));
        thread.spawn(move || worker.run()).map(drop).inspect_err(|_| stop.ended())
    };
    if let Some(calls) = exported.calls {
        let source = Calls::new(calls, about.clone());
        start(Signal::Traces, Box::new(source), OTLP_COLLECT_INTERVAL)?;
    }
    if let Some(lines) = exported.lines {
        let source = Lines::new(lines, about.clone());
        start(Signal::Logs, Box::new(source), OTLP_COLLECT_INTERVAL)?;
    }
    if config.has(Signal::Metrics) {
        let source = Numbers::new(exported.metrics, about, stats);
        start(Signal::Metrics, Box::new(source), config.metrics_interval)?;
    }
    Ok(())
}

/// Returns the attributes in the settings, and those of this process that are not among them.
fn resource(config: &OtlpConfig) -> Vec<(String, String)> {
    let mut resource = config.resource.clone();
    let host = rustix::system::uname();
    let own = [
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        // Each process has another one, so that counters that start again from zero are told apart.
        ("service.instance.id", instance_id()),
        ("host.name", host.nodename().to_string_lossy().into_owned()),
        ("process.pid", std::process::id().to_string()),
    ];
    for (name, value) in own {
        if !resource.iter().any(|(known, _)| known == name) {
            resource.push((name.to_owned(), value));
        }
    }
    resource
}

/// Returns a random UUID (version 4).
fn instance_id() -> String {
    let mut bytes = [0; 16];
    // The system always has random bytes.
    let _ = random::fill(&mut bytes);
    let id = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{id:032x}");
    let part = |range| digits.get::<std::ops::Range<usize>>(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

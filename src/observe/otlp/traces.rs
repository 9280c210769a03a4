//! The event loops' side of tracing: which calls are traced, and handing them over.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::call_span::CallSpan;
use super::config::TraceConfig;
use super::stats::{OtlpStats, Signal};
use super::trace_id::{SampleRate, TraceId, of_request};
use crate::limits::{MAX_TRACED_TROUBLE_PER_SEC, MAX_WAITING_CALL_SPANS};
use crate::observe::call_record::CallRecord;
use crate::observe::timestamp::since_1970;
use crate::random;
use crate::rate::PerSecond;

/// Traced calls that wait for the exporter.
pub(super) struct WaitingCalls(pub(super) Receiver<CallSpan>);

/// Samples calls; each event loop has its own. The default traces nothing.
///
/// Without a traced call it takes no lock, makes no system call and allocates nothing. A traced one
/// is copied into memory that was allocated at the start, or dropped and counted if that is full:
/// the exporter never waits in `recv`, so there is nobody to wake.
#[derive(Default)]
pub struct Traces(Option<Sampler>);

struct Sampler {
    sender: SyncSender<CallSpan>,
    stats: Arc<OtlpStats>,
    rate: SampleRate,
    slow: Duration,
    trouble: PerSecond<Instant>,
}

/// Makes the samplers of all event loops.
pub struct TracesSource {
    sender: SyncSender<CallSpan>,
    stats: Arc<OtlpStats>,
    config: TraceConfig,
}

impl TracesSource {
    pub(super) fn new(config: TraceConfig, stats: &Arc<OtlpStats>) -> (Self, WaitingCalls) {
        let (sender, receiver) = sync_channel(MAX_WAITING_CALL_SPANS);
        (Self { sender, stats: Arc::clone(stats), config }, WaitingCalls(receiver))
    }

    /// Makes the sampler of an event loop.
    #[must_use]
    pub fn of_loop(&self) -> Traces {
        Traces(Some(Sampler {
            sender: self.sender.clone(),
            stats: Arc::clone(&self.stats),
            rate: SampleRate::per_million(self.config.calls_per_million),
            slow: self.config.slow,
            trouble: PerSecond::new(MAX_TRACED_TROUBLE_PER_SEC),
        }))
    }
}

impl Traces {
    /// Returns whether any calls are traced.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Traces a call, if it is sampled.
    ///
    /// A call whose signature is not valid is never traced: anybody can make such calls, with the
    /// `kmsRequestId` of another one.
    pub fn offer(&mut self, record: &CallRecord<'_>) {
        if let Some(sampler) = &mut self.0
            && record.is_authenticated
        {
            sampler.offer(record);
        }
    }
}

impl Sampler {
    fn offer(&mut self, record: &CallRecord<'_>) {
        let id = record.kms_request_id.and_then(of_request);
        let is_sampled = id.is_some_and(|id| self.rate.samples(&id));
        if !is_sampled && !self.is_trouble(record) {
            return;
        }
        let now = Instant::now();
        if !is_sampled && self.trouble.admit(now).is_none() {
            return;
        }
        let id = id.unwrap_or_else(random_id);
        let span = CallSpan::of(record, id, now, since_1970());
        let stats = self.stats.of(Signal::Traces);
        match self.sender.try_send(span) {
            Ok(()) => stats.accepted.add(1),
            Err(_) => stats.overflowed.add(1),
        }
    }

    fn is_trouble(&self, record: &CallRecord<'_>) -> bool {
        record.status >= 400 || Duration::from_micros(u64::from(record.total_micros)) >= self.slow
    }
}

/// An id for a call without a `kmsRequestId` that is a UUID: it failed or was slow, so there are few
/// of them.
fn random_id() -> TraceId {
    let mut id = [1; 16];
    // The system always has random bytes; if it had none, these calls would share a trace.
    let _ = random::fill(&mut id);
    id
}

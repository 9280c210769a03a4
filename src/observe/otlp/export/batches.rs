//! The bodies of requests to the collector.

use std::sync::Arc;
use std::time::Instant;

use memchr::memrchr;
use prost::Message as _;

use super::clock::now_unix_nano;
use super::messages::{
    KeyValue, LogsRequest, MetricsRequest, Resource, ResourceLogs, ResourceMetrics, ResourceSpans,
    Scope, ScopeLogs, ScopeMetrics, ScopeSpans, Span, TraceRequest,
};
use super::worker::{Batch, Source};
use super::{logs, metrics, spans};
use crate::limits::{MAX_OTLP_BATCH, MAX_OTLP_BATCH_BYTES, OTLP_BATCH_INTERVAL};
use crate::observe::metrics::exposition::Exposition;
use crate::observe::otlp::lines::LogLines;
use crate::observe::otlp::stats::{OtlpStats, Signal};
use crate::observe::otlp::traces::WaitingCalls;

/// This process, and the part of it that measures.
#[derive(Clone)]
pub(super) struct About {
    resource: Resource,
    scope: Scope,
}

impl About {
    pub(super) fn new(attributes: &[(String, String)]) -> Self {
        let attributes = attributes.iter().map(|(name, value)| KeyValue::string(name, value));
        Self {
            resource: Resource { attributes: attributes.collect() },
            scope: Scope {
                name: env!("CARGO_PKG_NAME").to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        }
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.resource.clone())
    }

    fn scope(&self) -> Option<Scope> {
        Some(self.scope.clone())
    }
}

/// Traced calls.
pub(super) struct Calls {
    waiting: WaitingCalls,
    about: About,
    spans: Vec<Span>,
    calls: usize,
    /// Time at which the first of them was collected.
    since: Instant,
}

impl Calls {
    pub(super) fn new(waiting: WaitingCalls, about: About) -> Self {
        Self { waiting, about, spans: Vec::new(), calls: 0, since: Instant::now() }
    }
}

impl Source for Calls {
    fn collect(&mut self, is_last: bool) -> Option<Batch> {
        // The receiver must not wait: a sender would have to wake it by a system call.
        while self.calls < MAX_OTLP_BATCH
            && let Ok(call) = self.waiting.0.try_recv()
        {
            if self.calls == 0 {
                self.since = Instant::now();
            }
            spans::push(&call, &mut self.spans);
            self.calls += 1;
        }
        let is_due = is_last || self.since.elapsed() >= OTLP_BATCH_INTERVAL;
        if self.calls == 0 || (self.calls < MAX_OTLP_BATCH && !is_due) {
            return None;
        }
        let scope_spans =
            ScopeSpans { scope: self.about.scope(), spans: std::mem::take(&mut self.spans) };
        let resource_spans =
            ResourceSpans { resource: self.about.resource(), scope_spans: vec![scope_spans] };
        let body = TraceRequest { resource_spans: vec![resource_spans] }.encode_to_vec();
        Some(Batch { body, count: std::mem::take(&mut self.calls) as u64, is_replaced: false })
    }
}

/// Lines of the log.
pub(super) struct Lines {
    lines: LogLines,
    about: About,
    /// Lines taken from the queue, of which those from `next` on are still to be sent.
    taken: Vec<u8>,
    next: usize,
    last: Instant,
}

impl Lines {
    pub(super) fn new(lines: LogLines, about: About) -> Self {
        let taken = lines.batch();
        Self { lines, about, taken, next: 0, last: Instant::now() }
    }

    /// Returns the end of the lines that fit into one request.
    fn end(&self) -> usize {
        let rest = self.taken.get(self.next..).unwrap_or_default();
        let fitting = rest.get(..MAX_OTLP_BATCH_BYTES).unwrap_or(rest);
        // A line is much shorter than a request.
        let whole = memrchr(b'\n', fitting).map_or(rest.len(), |newline| newline + 1);
        let lines = fitting.get(..whole).unwrap_or(rest);
        let last = memchr::memchr_iter(b'\n', lines).nth(MAX_OTLP_BATCH - 1);
        self.next + last.map_or(whole, |newline| newline + 1)
    }
}

impl Source for Lines {
    fn collect(&mut self, is_last: bool) -> Option<Batch> {
        if self.next == self.taken.len() {
            if !is_last && self.last.elapsed() < OTLP_BATCH_INTERVAL {
                return None;
            }
            self.last = Instant::now();
            self.taken.clear();
            self.next = 0;
            self.lines.take(&mut self.taken);
        }
        let end = self.end();
        let lines = self.taken.get(self.next..end).filter(|lines| !lines.is_empty())?;
        let now = now_unix_nano();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let log_records: Vec<_> = lines.map(|line| logs::record(line, now)).collect();
        self.next = end;
        let count = log_records.len() as u64;
        let scope_logs = ScopeLogs { scope: self.about.scope(), log_records };
        let resource_logs =
            ResourceLogs { resource: self.about.resource(), scope_logs: vec![scope_logs] };
        let body = LogsRequest { resource_logs: vec![resource_logs] }.encode_to_vec();
        Some(Batch { body, count, is_replaced: false })
    }
}

/// All metrics.
pub(super) struct Numbers {
    collect: Box<dyn FnMut() -> Exposition + Send>,
    about: About,
    stats: Arc<OtlpStats>,
    start_unix_nano: u64,
    has_batch: bool,
}

impl Numbers {
    pub(super) fn new(
        collect: Box<dyn FnMut() -> Exposition + Send>,
        about: About,
        stats: &Arc<OtlpStats>,
    ) -> Self {
        let (stats, start_unix_nano) = (Arc::clone(stats), now_unix_nano());
        Self { collect, about, stats, start_unix_nano, has_batch: false }
    }
}

impl Source for Numbers {
    fn collect(&mut self, _is_last: bool) -> Option<Batch> {
        // Asked for twice in each interval, and due once.
        self.has_batch = !self.has_batch;
        if !self.has_batch {
            return None;
        }
        let (metrics, count) =
            metrics::convert(&(self.collect)(), self.start_unix_nano, now_unix_nano());
        self.stats.of(Signal::Metrics).accepted.add(count);
        let scope_metrics = ScopeMetrics { scope: self.about.scope(), metrics };
        let resource_metrics =
            ResourceMetrics { resource: self.about.resource(), scope_metrics: vec![scope_metrics] };
        let body = MetricsRequest { resource_metrics: vec![resource_metrics] }.encode_to_vec();
        // The sums are cumulative: the next export has all that this one would have had.
        Some(Batch { body, count, is_replaced: true })
    }
}

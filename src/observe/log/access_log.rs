//! One line per call, as text or as a JSON object.

use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::level::SharedLevel;
use super::outputs::Outputs;
use crate::limits::{
    LOG_BUFFER_BYTES, MAX_ACCESS_LOG_LINE_BYTES, MAX_UNAUTHENTICATED_LINES_PER_SEC,
};
use crate::observe::audit::handle::AuditHandle;
use crate::observe::call_record::CallRecord;
use crate::observe::line::{Line, LogFormat};
use crate::observe::otlp::lines::LogLines;
use crate::observe::otlp::traces::Traces;
use crate::observe::timestamp::{Rfc3339, since_1970};
use crate::rate::PerSecond;

/// The access log of one event loop. Lines accumulate in its own buffer until [`AccessLog::flush`].
pub struct AccessLog {
    outputs: Outputs,
    /// The least severe level that is logged; `None` if nothing is logged.
    level: Option<Arc<SharedLevel>>,
    format: LogFormat,
    buffer: Vec<u8>,
    /// Lines for the export by OTLP, if there is one.
    exported: Option<ExportedLines>,
    time: Rfc3339,
    /// Limit on lines about unauthenticated requests, by seconds since 1970.
    unauthenticated: PerSecond<u64>,
    /// The audit log, in which the same calls are recorded.
    pub audit: AuditHandle,
    /// The traces, to which some of the same calls belong.
    pub traces: Traces,
}

/// Lines in JSON for the export, which accumulate as the others do.
struct ExportedLines {
    lines: LogLines,
    buffer: Vec<u8>,
}

impl ExportedLines {
    fn new(lines: LogLines) -> Self {
        // JSON is longer than text by the quotes of each field.
        let capacity = 2 * (LOG_BUFFER_BYTES + MAX_ACCESS_LOG_LINE_BYTES);
        Self { lines, buffer: Vec::with_capacity(capacity) }
    }
}

impl Default for AccessLog {
    /// Creates an access log that discards everything.
    fn default() -> Self {
        Self {
            outputs: Outputs::none(),
            level: None,
            format: LogFormat::Text,
            buffer: Vec::new(),
            exported: None,
            time: Rfc3339::default(),
            unauthenticated: PerSecond::new(MAX_UNAUTHENTICATED_LINES_PER_SEC),
            audit: AuditHandle::default(),
            traces: Traces::default(),
        }
    }
}

impl AccessLog {
    pub(super) fn new(
        outputs: Outputs,
        level: Arc<SharedLevel>,
        format: LogFormat,
        exported: Option<LogLines>,
    ) -> Self {
        Self {
            outputs,
            level: Some(level),
            format,
            exported: exported.map(ExportedLines::new),
            buffer: Vec::with_capacity(LOG_BUFFER_BYTES + MAX_ACCESS_LOG_LINE_BYTES),
            ..Self::default()
        }
    }

    /// Makes this log also record calls in the audit log.
    #[must_use]
    pub fn with_audit(mut self, audit: AuditHandle) -> Self {
        self.audit = audit;
        self
    }

    /// Makes this log also hand calls over to be traced.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Adds a call's line, at level INFO, or WARN or ERROR if the caller or the proxy or HSM is at
    /// fault.
    pub fn write(&mut self, record: &CallRecord<'_>) {
        self.write_at(record, since_1970());
    }

    /// Hands the lines to the writers; called once per turn of the event loop. Never waits for an
    /// output.
    pub fn flush(&mut self) {
        self.audit.flush();
        if self.unauthenticated.has_refused() {
            self.report_left_out(since_1970());
        }
        self.flush_buffer();
    }

    fn write_at(&mut self, record: &CallRecord<'_>, since_1970: Duration) {
        if !self.is_enabled_for(record.status) {
            return;
        }
        self.report_left_out(since_1970);
        // Anyone can cause such lines, so their number is limited, no matter what their status is.
        if !record.is_authenticated && self.unauthenticated.admit(since_1970.as_secs()).is_none() {
            return;
        }
        self.add_line(level(record.status), since_1970, |line| write_fields(line, record));
        if self.buffer.len() >= LOG_BUFFER_BYTES {
            self.flush_buffer();
        }
    }

    #[inline]
    fn add_line(&mut self, level: Level, since_1970: Duration, write: impl Fn(Line<'_>)) {
        let (start, time) = (self.buffer.len(), &mut self.time);
        write(Line::begin(&mut self.buffer, self.format, time, since_1970, level));
        if let Some(exported) = &mut self.exported
            && exported.lines.wants(level)
        {
            let out = &mut exported.buffer;
            match self.format {
                LogFormat::Json => {
                    out.extend_from_slice(self.buffer.get(start..).unwrap_or_default());
                }
                LogFormat::Text => {
                    write(Line::begin(out, LogFormat::Json, time, since_1970, level))
                }
            }
        }
    }

    fn flush_buffer(&mut self) {
        if !self.buffer.is_empty() {
            self.outputs.push(&self.buffer);
            self.buffer.clear();
        }
        if let Some(exported) = &mut self.exported
            && !exported.buffer.is_empty()
        {
            exported.lines.push(&exported.buffer);
            exported.buffer.clear();
        }
    }

    /// Returns whether a call answered with this HTTP status is logged.
    #[must_use]
    pub fn is_enabled_for(&self, status: u16) -> bool {
        self.level.as_ref().is_some_and(|least_severe| level(status) <= least_severe.get())
    }

    /// Logs how many lines were left out in the last second, once it is over.
    fn report_left_out(&mut self, since_1970: Duration) {
        let left_out = self.unauthenticated.take_refused(since_1970.as_secs());
        if left_out > 0 {
            self.add_line(Level::WARN, since_1970, |mut line| {
                line.message("lines of unauthenticated requests were left out");
                line.number("leftOutLines", left_out);
                line.end();
            });
        }
    }
}

fn level(status: u16) -> Level {
    match status {
        ..400 => Level::INFO,
        400..500 => Level::WARN,
        500.. => Level::ERROR,
    }
}

fn write_fields(mut line: Line<'_>, record: &CallRecord<'_>) {
    line.string("call", if record.call.is_empty() { "none" } else { record.call });
    line.number("status", u64::from(record.status));
    line.optional("errorName", record.error_name);
    line.optional("reason", record.reason);
    line.optional("kmsRequestId", record.kms_request_id);
    line.optional("kmsOperation", record.kms_operation);
    line.optional("principal", record.principal);
    line.optional("store", record.store);
    line.optional("externalKeyId", record.key_id);
    if let Some(version) = record.key_version {
        line.number("keyVersion", u64::from(version));
    }
    line.optional("kmsKeyArn", record.kms_key_arn);
    line.optional("kmsViaService", record.kms_via_service);
    line.optional("sourceVpc", record.source_vpc);
    line.optional("sourceVpce", record.source_vpce);
    line.optional("token", record.token);
    line.number("requestBytes", record.request_bytes as u64);
    line.number("responseBytes", record.response_bytes as u64);
    if let Some(micros) = record.queue_micros {
        line.number("queueMicros", u64::from(micros));
    }
    if let Some(micros) = record.hsm_micros {
        line.number("hsmMicros", u64::from(micros));
    }
    line.number("totalMicros", u64::from(record.total_micros));
    if let Some(peer) = record.peer {
        line.address("peer", peer);
    }
    line.end();
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;

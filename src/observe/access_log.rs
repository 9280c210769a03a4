//! One line, or one JSON object, for each call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::audit::trail::AuditTrail;
use super::line::{Line, since_1970};
use super::log::{LeastSevere, LogFormat, Outputs};
use super::timestamp::Rfc3339;
use crate::limits::{
    LOG_BUFFER_BYTES, MAX_ACCESS_LOG_LINE_BYTES, MAX_UNAUTHENTICATED_LINES_PER_SECOND,
};
use crate::rate::PerSecond;

/// What is logged of one call. Strings come from the peer and are escaped when written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallRecord<'a> {
    /// The connection's other end.
    pub peer: Option<IpAddr>,
    /// The signature was right, or none is asked for. Else the line may be left out, see
    /// [`MAX_UNAUTHENTICATED_LINES_PER_SECOND`].
    pub is_authenticated: bool,
    /// `metadata`, `encrypt`, `decrypt`, `health`; empty if the path named none.
    pub call: &'a str,
    /// The store's `uri_path_prefix`, if the path named one. It may be "".
    pub store: Option<&'a str>,
    /// The access key id that signed; for the audit log.
    pub access_key_id: Option<&'a str>,
    /// The external key id in the path.
    pub key_id: Option<&'a str>,
    /// `requestMetadata.kmsRequestId`
    pub kms_request_id: Option<&'a str>,
    /// `requestMetadata.kmsOperation`
    pub kms_operation: Option<&'a str>,
    /// `requestMetadata.awsPrincipalArn`
    pub principal: Option<&'a str>,
    /// `requestMetadata.kmsKeyArn`
    pub kms_key_arn: Option<&'a str>,
    /// `requestMetadata.kmsViaService`
    pub kms_via_service: Option<&'a str>,
    /// `requestMetadata.awsSourceVpc`
    pub source_vpc: Option<&'a str>,
    /// `requestMetadata.awsSourceVpce`
    pub source_vpce: Option<&'a str>,
    /// HTTP status.
    pub status: u16,
    /// `errorName`, if it is an error.
    pub error_name: Option<&'a str>,
    /// Why, for the operator. It may say more than the answer does.
    pub reason: Option<&'a str>,
    /// Label of the token that gave the answer.
    pub token: Option<&'a str>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Bytes of the answer's body.
    pub response_bytes: usize,
    /// Microseconds in the queue, if there was a job.
    pub queue_micros: Option<u32>,
    /// Microseconds in the HSM, if there was a job.
    pub hsm_micros: Option<u32>,
    /// Microseconds from the request's first byte to the answer.
    pub total_micros: u32,
}

/// One event loop's access log. Lines gather in a buffer of its own until [`AccessLog::flush`].
pub struct AccessLog {
    outputs: Outputs,
    /// The least severe level that is logged; `None` for an access log that goes nowhere.
    level: Option<Arc<LeastSevere>>,
    format: LogFormat,
    buffer: Vec<u8>,
    time: Rfc3339,
    /// By seconds since 1970, as the lines tell the time.
    unauthenticated: PerSecond<u64>,
    /// The same calls' way into the audit log.
    pub audit: AuditTrail,
}

impl Default for AccessLog {
    /// Goes nowhere.
    fn default() -> Self {
        Self {
            outputs: Outputs::none(),
            level: None,
            format: LogFormat::Text,
            buffer: Vec::new(),
            time: Rfc3339::default(),
            unauthenticated: PerSecond::new(MAX_UNAUTHENTICATED_LINES_PER_SECOND),
            audit: AuditTrail::default(),
        }
    }
}

impl AccessLog {
    pub(super) fn new(outputs: Outputs, level: Arc<LeastSevere>, format: LogFormat) -> Self {
        Self {
            outputs,
            level: Some(level),
            format,
            buffer: Vec::with_capacity(LOG_BUFFER_BYTES + MAX_ACCESS_LOG_LINE_BYTES),
            ..Self::default()
        }
    }

    /// With the calls going into the audit log as well.
    #[must_use]
    pub fn with_audit(mut self, audit: AuditTrail) -> Self {
        self.audit = audit;
        self
    }

    /// Adds a call's line: INFO, WARN if the client is to blame, ERROR if we or the HSM are.
    pub fn write(&mut self, record: &CallRecord<'_>) {
        self.write_at(record, since_1970());
    }

    /// Hands the lines to the writers; once a turn of the loop. Never waits for an output.
    pub fn flush(&mut self) {
        self.audit.flush();
        if self.unauthenticated.has_refused() {
            self.tell_left_out(since_1970());
        }
        self.hand_over();
    }

    fn write_at(&mut self, record: &CallRecord<'_>, since_1970: Duration) {
        if !self.is_enabled_for(record.status) {
            return;
        }
        self.tell_left_out(since_1970);
        // Anybody can cause these, so none of them, whatever the status, may fill the disk.
        if !record.is_authenticated && self.unauthenticated.admit(since_1970.as_secs()).is_none() {
            return;
        }
        let level = level(record.status);
        let line = Line::begin(&mut self.buffer, self.format, &mut self.time, since_1970, level);
        write_fields(line, record);
        if self.buffer.len() >= LOG_BUFFER_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if !self.buffer.is_empty() {
            self.outputs.push(&self.buffer);
            self.buffer.clear();
        }
    }

    /// Whether a call that is answered with that HTTP status gets a line.
    #[must_use]
    pub fn is_enabled_for(&self, status: u16) -> bool {
        self.level.as_ref().is_some_and(|least_severe| level(status) <= least_severe.get())
    }

    /// Says how many lines the last second lacks, once it is over.
    fn tell_left_out(&mut self, since_1970: Duration) {
        let left_out = self.unauthenticated.take_refused(since_1970.as_secs());
        if left_out > 0 {
            let time = &mut self.time;
            let mut line =
                Line::begin(&mut self.buffer, self.format, time, since_1970, Level::WARN);
            line.message("lines of unauthenticated requests were left out");
            line.number("leftOutLines", left_out);
            line.end();
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

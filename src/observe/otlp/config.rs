//! `[otlp]`

use std::time::Duration;

use super::stats::Signal;
use crate::observe::redaction::Secret;

/// Where and how to export.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// URL below which the collector has `/v1/metrics`, `/v1/logs` and `/v1/traces`; without a slash
    /// at the end.
    pub endpoint: String,
    /// The authorities that the collector's certificate must lead to (DER).
    pub authorities: Vec<Vec<u8>>,
    /// Header fields of each request, which may hold a token or password.
    pub headers: Vec<(String, Secret<String>)>,
    /// Time allowed for one request.
    pub timeout: Duration,
    /// The exported signals, without repetition.
    pub signals: Vec<Signal>,
    /// Interval at which metrics are exported.
    pub metrics_interval: Duration,
    /// The least severe level of the lines that are exported, of those that are logged.
    pub log_level: tracing::Level,
    /// Which calls are traced.
    pub traces: TraceConfig,
    /// Attributes of this process, `service.name` among them.
    pub resource: Vec<(String, String)>,
}

impl PartialEq for OtlpConfig {
    fn eq(&self, other: &Self) -> bool {
        // Destructured in full, so that a new member cannot be forgotten here.
        let Self {
            endpoint,
            authorities,
            headers,
            timeout,
            signals,
            metrics_interval,
            log_level,
            traces,
            resource,
        } = self;
        // Compared in place, not copied.
        let mut fields = headers.iter().zip(&other.headers);
        let is_same_headers = headers.len() == other.headers.len()
            && fields.all(|(one, other)| one.0 == other.0 && one.1.expose() == other.1.expose());
        *endpoint == other.endpoint
            && *authorities == other.authorities
            && is_same_headers
            && *timeout == other.timeout
            && *signals == other.signals
            && *metrics_interval == other.metrics_interval
            && *log_level == other.log_level
            && *traces == other.traces
            && *resource == other.resource
    }
}

impl OtlpConfig {
    /// Returns whether a signal is exported.
    #[must_use]
    pub fn has(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }
}

/// Which calls are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// Calls out of a million that are traced whatever becomes of them.
    pub calls_per_million: u32,
    /// Duration from which on a call is traced in any case, up to a number a second.
    pub slow: Duration,
}

//! Limits of the export of metrics, logs and traces by OTLP.

use std::time::Duration;

/// Spans of calls that wait to be exported. At 20,000 traced calls a second, there is room for 200 ms.
pub const MAX_WAITING_CALL_SPANS: usize = 4_096;
/// Texts of one call's span: what is longer is cut.
pub const MAX_CALL_SPAN_TEXT_BYTES: usize = 640;
/// Log lines that wait to be exported.
pub const MAX_OTLP_LOG_BACKLOG_BYTES: usize = 4 * 1024 * 1024;
/// Memory of the export when its collector takes nothing: both queues, the lines and spans that are
/// being sent, and their encoding.
pub const OTLP_MEMORY_BYTES: u64 = 24 * 1024 * 1024;
/// Interval at which waiting spans and log lines are collected.
pub const OTLP_COLLECT_INTERVAL: Duration = Duration::from_millis(100);
/// Time after which collected spans and log lines are sent, however few they are.
pub const OTLP_BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Calls or log lines in one request to the collector.
pub const MAX_OTLP_BATCH: usize = 2_048;
/// Bytes of log lines in one request to the collector: collectors refuse bodies of 20 MiB or more.
pub const MAX_OTLP_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Shortest interval between two exports of the metrics.
pub const MIN_OTLP_METRICS_INTERVAL_MILLI: u64 = 1_000;
/// Longest interval between two exports of the metrics.
pub const MAX_OTLP_METRICS_INTERVAL_MILLI: u64 = 3_600_000;
/// Setting: `[otlp] metrics_interval_milli`. The default of OpenTelemetry's SDKs.
pub const DEFAULT_OTLP_METRICS_INTERVAL_MILLI: u64 = 60_000;
/// Shortest time allowed for one request to the collector.
pub const MIN_OTLP_TIMEOUT_MILLI: u64 = 100;
/// Longest time allowed for one request to the collector.
pub const MAX_OTLP_TIMEOUT_MILLI: u64 = 60_000;
/// Setting: `[otlp] timeout_milli`. The default of OpenTelemetry's exporters.
pub const DEFAULT_OTLP_TIMEOUT_MILLI: u64 = 10_000;
/// Longest wait before a failed request is repeated.
pub const MAX_OTLP_BACK_OFF: Duration = Duration::from_secs(30);
/// Longest wait that a collector can ask for (Retry-After).
pub const MAX_OTLP_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Time after which a batch that cannot be delivered is dropped, at its next failure.
pub const MAX_OTLP_RETRY_TIME: Duration = Duration::from_secs(60);
/// Time that the end of the process waits for the last export.
pub const OTLP_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of the collector that are tried: as many as ureq takes.
pub const MAX_OTLP_ADDRESSES: usize = 16;
/// Longest answer of a collector that is read.
pub const MAX_OTLP_ANSWER_BYTES: u64 = 64 * 1024;
/// Header fields in `[otlp] headers_file`.
pub const MAX_OTLP_HEADERS: usize = 16;
/// Members of `[otlp] resource_attributes`.
pub const MAX_OTLP_RESOURCE_ATTRIBUTES: usize = 64;
/// Calls of which a rate is a part: `[otlp] traces_per_million`.
pub const MILLION: u64 = 1_000_000;
/// Setting: `[otlp] traces_per_million`.
pub const DEFAULT_TRACES_PER_MILLION: u64 = 10_000;
/// Setting: `[otlp] slow_call_milli`.
pub const DEFAULT_SLOW_CALL_MILLI: u64 = 100;
/// Longest `[otlp] slow_call_milli`.
pub const MAX_SLOW_CALL_MILLI: u64 = 10_000;
/// Calls that fail or are slow and are traced whatever the rate, a second and event loop.
pub const MAX_TRACED_TROUBLE_PER_SEC: u32 = 20;

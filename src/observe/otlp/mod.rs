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
//! What the event loops use is always there. What encodes and sends is behind the cargo feature
//! `otlp`; without it, the settings refuse the section.

mod call_span;
pub mod config;
#[cfg(feature = "otlp")]
mod export;
pub mod stats;
mod texts;
mod trace_id;
pub mod traces;

//! `/status.json`, for the status page and for scripts.

use std::time::SystemTime;

use serde::Serialize;

use super::history::History;
use super::key_usage::KeyUsage;
use super::key_versions::KeyVersions;
use super::sources::{ServiceInfo, Sources};
use super::sums::{Sums, durations_of, most_used_keys};
use crate::hsm::{self, TokenStats};
use crate::job::{HealthStatus, TokenHealth};
use crate::limits::HISTORY_INTERVAL;
use crate::observe::metrics::labels::{CallLabel, OutcomeLabel};
use crate::observe::metrics::process::Process;
use crate::observe::metrics::reloads::ReloadState;
use crate::observe::metrics::{Metrics, OutcomeCounts};
use crate::observe::otlp::stats::{OtlpStats, Signal};
use crate::observe::syslog::SyslogStats;
use crate::observe::timestamp::unix_secs;

/// Number of keys that the page lists.
const MAX_KEYS_SHOWN: usize = 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    version: &'static str,
    unix_secs: u64,
    uptime_millis: u64,
    is_ready: bool,
    is_draining: bool,
    /// Seconds by which this machine's clock is ahead of the clients'; `null` if not known.
    clock_ahead_secs: Option<i64>,
    settings: SettingsStatus,
    listeners: Listeners,
    requests: Requests,
    connections: Connections,
    certificates: Vec<Certificate>,
    calls: Vec<Call>,
    stores: Vec<Store>,
    tokens: Vec<Token>,
    keys: Vec<Key>,
    #[serde(flatten)]
    key_versions: KeyVersions,
    key_usage: KeyUsage,
    process: ProcessStatus,
    panics: u64,
    dropped_log_lines: u64,
    /// `null` without an audit log.
    audit: Option<AuditLog>,
    /// `null` without an export by OTLP.
    otlp: Option<Vec<ExportedSignal>>,
    syslog: Vec<Forwarder>,
    history: Columns,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditLog {
    is_failing: bool,
    lines: u64,
    dropped_lines: u64,
    refused_calls: u64,
    last_write_unix_secs: u64,
}

/// Data points, log lines or traced calls.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportedSignal {
    signal: &'static str,
    is_failing: bool,
    exported: u64,
    dropped: u64,
}

impl ExportedSignal {
    fn all(stats: &OtlpStats) -> Vec<Self> {
        let of = |signal: Signal| {
            let stats = stats.of(signal);
            Self {
                signal: signal.name(),
                is_failing: stats.is_failing(),
                exported: stats.exported.get(),
                dropped: stats.dropped().iter().map(|(_, count)| count).sum(),
            }
        };
        Signal::ALL.map(of).into()
    }
}

/// The forwarding of one log to one syslog collector.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forwarder {
    server: String,
    log: &'static str,
    is_connected: bool,
    /// Reason for which the collector cannot be reached.
    trouble: Option<String>,
    sent_lines: u64,
    dropped_lines: u64,
}

impl From<SyslogStats> for Forwarder {
    fn from(stats: SyslogStats) -> Self {
        Self {
            server: stats.server,
            log: stats.log,
            is_connected: stats.is_connected,
            trouble: stats.trouble,
            sent_lines: stats.sent_lines,
            dropped_lines: stats.dropped_lines,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listeners {
    api: String,
    is_tls: bool,
    is_mtls: bool,
    ping: String,
}

/// The reloads of the settings.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingsStatus {
    /// Time at which the settings in use were applied.
    loaded_unix_secs: u64,
    /// Number of reloads attempted.
    reload_tries: u64,
    reloads: u64,
    /// Time at which the last attempt ended; 0 if there was none.
    tried_unix_secs: u64,
    /// Reasons why the last attempt was refused; empty if it was not.
    refused: Vec<String>,
    /// Members of the settings that have no effect until a restart.
    needs_restart: Vec<String>,
}

impl From<ReloadState> for SettingsStatus {
    fn from(state: ReloadState) -> Self {
        Self {
            loaded_unix_secs: state.loaded_unix_secs,
            reload_tries: state.attempts,
            reloads: state.applied,
            tried_unix_secs: state.attempted_unix_secs,
            refused: state.refused,
            needs_restart: state.needs_restart,
        }
    }
}

/// Requests to all stores.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Requests {
    ok: u64,
    refused: u64,
    failed: u64,
    in_flight: u64,
    deadline_millis: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connections {
    open: u64,
    max: usize,
    accepted: u64,
    accept_pauses: u64,
    tls_handshakes: u64,
    tls_handshake_failures: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    listener: &'static str,
    subject: String,
    not_after_unix_secs: i64,
}

/// The latency of a call since the start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    call: &'static str,
    count: u64,
    p50_millis: Option<f64>,
    p99_millis: Option<f64>,
    p999_millis: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    uri_path_prefix: String,
    ok: u64,
    refused: u64,
    failed: u64,
    /// Requests by call.
    calls: Vec<(&'static str, u64)>,
    /// Errors by name, omitting those that have not occurred.
    errors: Vec<(&'static str, u64)>,
    credentials: Vec<CredentialStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CredentialStatus {
    access_key_id: String,
    created_unix_secs: Option<u64>,
    loaded_unix_secs: u64,
    last_used_unix_secs: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    label: String,
    serial: String,
    model: String,
    manufacturer: String,
    state: &'static str,
    trouble: Option<String>,
    queued: usize,
    busy: usize,
    idle: usize,
    hung: usize,
    limit: usize,
    service_micros: u64,
    answered: u64,
    faults: u64,
    retries: u64,
    expired: u64,
    hung_calls: u64,
    sessions_opened: u64,
    reinitializations: u64,
    put_in_use: u64,
    cdiv_mismatches: u64,
    failure_codes: Vec<(&'static str, u64)>,
    keys_out_of_use: Vec<KeyOutOfUse>,
    keys_unproven: usize,
    keys_differing: usize,
    /// Labels of the differing keys, up to [`MAX_KEYS_SHOWN`].
    differing_keys: Vec<Box<str>>,
}

/// A key that is out of use on a token that serves other keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyOutOfUse {
    label: String,
    direction: &'static str,
    reason: String,
    /// `null` if the key's calls do not return.
    for_millis: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    key_id: Box<str>,
    encrypts: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessStatus {
    cpu_seconds: f64,
    resident_bytes: u64,
    threads: u64,
    open_descriptors: u64,
    max_descriptors: u64,
}

/// The history by columns, with rounded values: a tenth of the text that a list of objects would
/// take.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Columns {
    interval_secs: u64,
    unix_secs: Vec<u64>,
    ok: Vec<f64>,
    refused: Vec<f64>,
    failed: Vec<f64>,
    p50_millis: Vec<Option<f64>>,
    p99_millis: Vec<Option<f64>>,
    hsm_p50_millis: Vec<Option<f64>>,
    hsm_p99_millis: Vec<Option<f64>>,
    queued: Vec<u64>,
    busy: Vec<u64>,
    tokens: Vec<u64>,
    cpus: Vec<f64>,
}

pub(super) fn status(sources: &Sources, history: &History) -> Status {
    let metrics = &sources.metrics;
    let sums = Sums::of(metrics);
    let service_info = sources.service_info.load();
    let ServiceInfo { api, is_tls, is_mtls, ping, max_connections, .. } = &**service_info;
    let hsm = sources.hsm.load();
    let health = hsm.health();
    let uptime = metrics.started.0.elapsed().as_millis();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        unix_secs: unix_secs(SystemTime::now()),
        uptime_millis: u64::try_from(uptime).unwrap_or(u64::MAX),
        is_ready: sources.is_ready(),
        is_draining: sources.lifecycle.is_draining(),
        clock_ahead_secs: sources.clock_skew().ahead_secs(),
        settings: metrics.reloads.state().into(),
        listeners: Listeners {
            api: api.to_string(),
            is_tls: *is_tls,
            is_mtls: *is_mtls,
            ping: ping.to_string(),
        },
        requests: Requests {
            ok: sums.ok,
            refused: sums.refused,
            failed: sums.failed,
            in_flight: metrics.sum(|of_loop| of_loop.in_flight.get()),
            deadline_millis: service_info.request_deadline_milli,
        },
        connections: connections(metrics, *max_connections),
        certificates: metrics
            .certificates()
            .into_iter()
            .map(|certificate| Certificate {
                listener: certificate.listener.text(),
                subject: certificate.subject,
                not_after_unix_secs: certificate.not_after_unix_secs,
            })
            .collect(),
        calls: calls(metrics),
        stores: stores(metrics),
        tokens: hsm
            .stats()
            .into_iter()
            .enumerate()
            .map(|(index, stats)| token(stats, health.tokens.get(index)))
            .collect(),
        keys: keys(metrics),
        key_versions: service_info.key_versions.clone(),
        key_usage: KeyUsage::of(&sources.usage),
        process: process(),
        panics: metrics.panics.get(),
        dropped_log_lines: sources.lost_lines.dropped_lines(),
        otlp: sources.otlp.as_deref().map(ExportedSignal::all),
        audit: sources.audit.stats().map(|audit| AuditLog {
            is_failing: audit.is_failing,
            lines: audit.written_lines,
            dropped_lines: audit.dropped_lines,
            refused_calls: audit.refused_calls,
            last_write_unix_secs: audit.last_write_unix_secs,
        }),
        syslog: sources.syslog.stats().into_iter().map(Forwarder::from).collect(),
        history: columns(history),
    }
}

fn connections(metrics: &Metrics, max: usize) -> Connections {
    let accepted = metrics.sum(|of_loop| of_loop.connections_accepted.get());
    let closed = metrics.sum(|of_loop| of_loop.connections_closed.get());
    Connections {
        open: accepted.saturating_sub(closed),
        max,
        accepted,
        accept_pauses: metrics.sum(|of_loop| of_loop.accept_pauses.get()),
        tls_handshakes: metrics.sum(|of_loop| of_loop.tls_handshakes.get()),
        tls_handshake_failures: metrics.sum(|of_loop| of_loop.tls_handshake_failures.get()),
    }
}

fn calls(metrics: &Metrics) -> Vec<Call> {
    CallLabel::CALLS
        .into_iter()
        .map(|call| {
            let total = durations_of(metrics, call, |durations| &durations.total);
            let milli =
                |quantile| total.quantile_micros(quantile).map(|micros| rounded(micros / 1e3));
            Call {
                call: call.text(),
                count: total.count(),
                p50_millis: milli(0.5),
                p99_millis: milli(0.99),
                p999_millis: milli(0.999),
            }
        })
        .collect()
}

fn stores(metrics: &Metrics) -> Vec<Store> {
    let credentials = metrics.credentials();
    let stores = metrics.stores();
    stores
        .iter()
        .map(|store| {
            let counts = store.counts();
            let mut sums = Sums::default();
            sums.add(&counts);
            let of_store = credentials
                .iter()
                .filter(|credential| credential.uri_path_prefix == store.uri_path_prefix);
            Store {
                uri_path_prefix: store.uri_path_prefix.to_string(),
                ok: sums.ok,
                refused: sums.refused,
                failed: sums.failed,
                calls: CallLabel::CALLS
                    .into_iter()
                    .map(|call| (call.text(), counts.of_call(call)))
                    .collect(),
                errors: errors(&counts),
                credentials: of_store
                    .map(|credential| CredentialStatus {
                        access_key_id: credential.access_key_id.to_string(),
                        created_unix_secs: credential.created_unix_secs(),
                        loaded_unix_secs: credential.loaded_unix_secs,
                        last_used_unix_secs: credential.last_used_unix_secs(),
                    })
                    .collect(),
            }
        })
        .collect()
}

fn errors(counts: &OutcomeCounts) -> Vec<(&'static str, u64)> {
    OutcomeLabel::ALL
        .into_iter()
        .filter(|outcome| *outcome != OutcomeLabel::Ok)
        .map(|outcome| (outcome.text(), counts.of_outcome(outcome)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn token(stats: TokenStats, health: Option<&TokenHealth>) -> Token {
    let text = |field: fn(&TokenHealth) -> &String| health.map(field).cloned().unwrap_or_default();
    Token {
        serial: text(|health| &health.id),
        model: text(|health| &health.model),
        manufacturer: text(|health| &health.manufacturer),
        state: match health.map(|health| health.status) {
            Some(HealthStatus::Active) => "active",
            Some(HealthStatus::Degraded) => "degraded",
            Some(HealthStatus::Unavailable) | None => "unavailable",
        },
        label: stats.label,
        trouble: stats.trouble,
        queued: stats.queued,
        busy: stats.running,
        idle: stats.idle,
        hung: stats.hung,
        limit: stats.active_limit,
        service_micros: stats.service_micros,
        answered: stats.answered_total,
        faults: stats.faults_total,
        retries: stats.retried_total,
        expired: stats.expired_total,
        hung_calls: stats.hung_total,
        sessions_opened: stats.sessions_opened_total,
        reinitializations: stats.reinitialized_total,
        put_in_use: stats.put_in_use_total,
        cdiv_mismatches: stats.cdiv_mismatches_total,
        failure_codes: stats.failure_codes,
        keys_out_of_use: stats.keys_out_of_use.into_iter().map(key_out_of_use).collect(),
        keys_unproven: stats.keys_unproven,
        keys_differing: stats.keys_disagreeing.len(),
        differing_keys: stats.keys_disagreeing.into_iter().take(MAX_KEYS_SHOWN).collect(),
    }
}

fn key_out_of_use(key: hsm::KeyOutOfUse) -> KeyOutOfUse {
    let for_millis = key.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    KeyOutOfUse { label: key.label, direction: key.direction, reason: key.reason, for_millis }
}

fn keys(metrics: &Metrics) -> Vec<Key> {
    let (used, _) = most_used_keys(metrics);
    used.into_iter()
        .take(MAX_KEYS_SHOWN)
        .filter(|(_, encrypts)| *encrypts > 0)
        .map(|(key_id, encrypts)| Key { key_id, encrypts })
        .collect()
}

fn process() -> ProcessStatus {
    let process = Process::now();
    ProcessStatus {
        cpu_seconds: process.cpu_seconds,
        resident_bytes: process.resident_bytes,
        threads: process.threads,
        open_descriptors: process.open_descriptors,
        max_descriptors: process.max_descriptors,
    }
}

fn columns(history: &History) -> Columns {
    let mut columns = Columns { interval_secs: HISTORY_INTERVAL.as_secs(), ..Columns::default() };
    for sample in history.samples() {
        columns.unix_secs.push(sample.unix_secs);
        columns.ok.push(rounded(sample.ok));
        columns.refused.push(rounded(sample.refused));
        columns.failed.push(rounded(sample.failed));
        columns.p50_millis.push(sample.p50_milli.map(rounded));
        columns.p99_millis.push(sample.p99_milli.map(rounded));
        columns.hsm_p50_millis.push(sample.hsm_p50_milli.map(rounded));
        columns.hsm_p99_millis.push(sample.hsm_p99_milli.map(rounded));
        columns.queued.push(sample.queued);
        columns.busy.push(sample.busy);
        columns.tokens.push(sample.tokens);
        columns.cpus.push(rounded(sample.cpus));
    }
    columns
}

/// Rounds to three decimal places.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

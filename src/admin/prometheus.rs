//! `/metrics`: all that is counted, under Prometheus's names.

use std::time::SystemTime;

use super::Sources;
use crate::hsm::TokenStats;
use crate::job::HealthStatus;
use crate::limits::MAX_KEYS_IN_METRICS;
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::{Counter, Gauge, Histogram};
use crate::observe::metrics::histogram::{self, Snapshot};
use crate::observe::metrics::labels::{CallLabel, OutcomeLabel};
use crate::observe::metrics::process::Process;
use crate::observe::metrics::{Durations, Metrics, OutcomeCounts};
use crate::observe::timestamp::unix_secs;

/// The whole text.
pub(super) fn expose(sources: &Sources) -> String {
    let mut text = Exposition::default();
    about(&mut text, sources);
    settings(&mut text, &sources.metrics);
    audit(&mut text, sources);
    requests(&mut text, &sources.metrics);
    durations(&mut text, &sources.metrics);
    connections(&mut text, sources);
    tokens(&mut text, sources);
    credentials(&mut text, &sources.metrics);
    keys(&mut text, &sources.metrics);
    process(&mut text, sources);
    text.into_text()
}

/// How a store is called in labels. The empty prefix would be a label that is not there.
pub(super) fn store_label(uri_path_prefix: &str) -> &str {
    if uri_path_prefix.is_empty() { "/" } else { uri_path_prefix }
}

fn about(text: &mut Exposition, sources: &Sources) {
    text.family("xks_proxy_build_info", Gauge, "Always 1; the label says which version runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family(
        "xks_proxy_ready",
        Gauge,
        "Whether /readyz is 200: a token works and nothing drains.",
    )
    .sample(&[], u8::from(sources.is_ready()));
    text.family("xks_proxy_draining", Gauge, "Whether the process is about to stop.")
        .sample(&[], u8::from(sources.lifecycle.is_draining()));
    text.family(
        "xks_proxy_panics_total",
        Counter,
        "Panics; each is a defect, and ended one connection at the most.",
    )
    .sample(&[], sources.metrics.panics.get());
    text.family(
        "xks_proxy_log_dropped_lines_total",
        Counter,
        "Log lines that were not written because an output was too slow or failed.",
    )
    .sample(&[], sources.lost_lines.dropped_lines());
}

fn settings(text: &mut Exposition, metrics: &Metrics) {
    let state = metrics.reloads.state();
    text.family(
        "xks_proxy_settings_reloads_total",
        Counter,
        "Times that the settings were read again, by what came of it: taken_up or refused.",
    )
    .sample(&[("outcome", "taken_up")], state.taken_up)
    .sample(&[("outcome", "refused")], state.tries - state.taken_up);
    text.family(
        "xks_proxy_settings_last_reload_successful",
        Gauge,
        "0 if the settings were refused when they were last read, so that older ones are in use.",
    )
    .sample(&[], u8::from(state.refused.is_empty()));
    text.family(
        "xks_proxy_settings_loaded_timestamp_seconds",
        Gauge,
        "When the settings in use were taken up, in seconds since 1970.",
    )
    .sample(&[], state.loaded_unix_secs);
    text.family(
        "xks_proxy_settings_restart_needed",
        Gauge,
        "Sections and members whose values in the file have no effect until a restart.",
    )
    .sample(&[], state.needs_restart.len());
}

/// Nothing without an audit log.
fn audit(text: &mut Exposition, sources: &Sources) {
    let Some(audit) = sources.audit.stats() else { return };
    text.family("xks_proxy_audit_lines_total", Counter, "Lines of the audit log written.")
        .sample(&[], audit.written_lines);
    text.family("xks_proxy_audit_dropped_lines_total", Counter, "Lines of the audit log lost.")
        .sample(&[], audit.dropped_lines);
    text.family(
        "xks_proxy_audit_refused_calls_total",
        Counter,
        "Calls refused because their lines in the audit log could not have been kept.",
    )
    .sample(&[], audit.refused_calls);
    text.family(
        "xks_proxy_audit_left_out_lines_total",
        Counter,
        "Lines of unauthenticated calls beyond what one second may have.",
    )
    .sample(&[], audit.left_out_lines);
    text.family(
        "xks_proxy_audit_write_errors_total",
        Counter,
        "Attempts to write, synchronise or rotate the audit log that failed.",
    )
    .sample(&[], audit.write_errors);
    text.family(
        "xks_proxy_audit_checkpoint_errors_total",
        Counter,
        "Checkpoints of the audit log that the HSM did not seal.",
    )
    .sample(&[], audit.checkpoint_errors);
    text.family(
        "xks_proxy_audit_last_checkpoint_timestamp_seconds",
        Gauge,
        "When the HSM last sealed a checkpoint of the audit log, in seconds since 1970; 0 before.",
    )
    .sample(&[], audit.last_checkpoint_unix_secs);
    text.family(
        "xks_proxy_audit_failing",
        Gauge,
        "1 while the audit log cannot be written; with when_full = \"refuse\", calls are refused.",
    )
    .sample(&[], u8::from(audit.is_failing));
    text.family(
        "xks_proxy_audit_last_write_timestamp_seconds",
        Gauge,
        "When a line of the audit log was last written, in seconds since 1970.",
    )
    .sample(&[], audit.last_write_unix_secs);
    text.family(
        "xks_proxy_audit_queued_bytes",
        Gauge,
        "Lines of the audit log that wait to be written, and room reserved for calls in flight.",
    )
    .sample(&[], audit.queued_bytes);
}

fn requests(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_requests_total",
        Counter,
        "Requests answered, by key store, call and errorName (XKS specification).",
    );
    let mut write = |store: &str, counts: &OutcomeCounts, is_store: bool| {
        for (call, outcome, count) in counts.iter() {
            // A rate needs a series that begins before the first request.
            let is_expected = is_store && outcome == OutcomeLabel::Ok && call != CallLabel::None;
            if count > 0 || is_expected {
                let (call, outcome) = (call.text(), outcome.text());
                text.sample(&[("store", store), ("call", call), ("outcome", outcome)], count);
            }
        }
    };
    for store in metrics.stores() {
        write(store_label(&store.uri_path_prefix), &store.counts(), true);
    }
    write("none", &metrics.storeless(), false);
    text.family(
        "xks_proxy_policy_decisions_total",
        Counter,
        "Calls that secondary_auth's policy decided on, by evaluation, or by memory of one with \
         the same attributes. Denials are in xks_proxy_requests_total: AccessDeniedException.",
    )
    .sample(&[("by", "evaluation")], metrics.sum(|of_loop| of_loop.policy_evaluations.get()))
    .sample(&[("by", "memory")], metrics.sum(|of_loop| of_loop.policy_decisions_remembered.get()));
    text.family(
        "xks_proxy_requests_in_flight",
        Gauge,
        "Requests that wait for the HSM's answer at present.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.in_flight.get()));
}

/// One of a call's histograms, all event loops together.
pub(super) fn total(
    metrics: &Metrics,
    call: CallLabel,
    which: impl Fn(&Durations) -> &histogram::Histogram,
) -> Snapshot {
    let mut sum = Snapshot::default();
    for of_loop in metrics.loops() {
        which(of_loop.durations(call)).add_to(&mut sum);
    }
    sum
}

fn durations(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_request_duration_seconds",
        Histogram,
        "From a request's first byte to its answer.",
    );
    for call in CallLabel::CALLS {
        let durations = total(metrics, call, |durations| &durations.total);
        text.histogram(&[("call", call.text())], &durations);
    }
    text.family(
        "xks_proxy_request_queue_duration_seconds",
        Histogram,
        "From the queueing of a request to its beginning on an HSM session.",
    );
    for call in CallLabel::HSM_CALLS {
        let durations = total(metrics, call, |durations| &durations.queue);
        text.histogram(&[("call", call.text())], &durations);
    }
    text.family(
        "xks_proxy_request_hsm_duration_seconds",
        Histogram,
        "Time of a request in the HSM, all attempts together.",
    );
    for call in CallLabel::HSM_CALLS {
        let durations = total(metrics, call, |durations| &durations.hsm);
        text.histogram(&[("call", call.text())], &durations);
    }
}

fn connections(text: &mut Exposition, sources: &Sources) {
    let metrics = &sources.metrics;
    let accepted = metrics.sum(|of_loop| of_loop.connections_accepted.get());
    let closed = metrics.sum(|of_loop| of_loop.connections_closed.get());
    text.family("xks_proxy_connections", Gauge, "Open connections, /ping's included.")
        .sample(&[], accepted.saturating_sub(closed));
    text.family("xks_proxy_connections_max", Gauge, "[limits] max_connections.")
        .sample(&[], sources.facts.load().max_connections);
    text.family("xks_proxy_connections_accepted_total", Counter, "Connections accepted.")
        .sample(&[], accepted);
    text.family(
        "xks_proxy_connections_refused_total",
        Counter,
        "Connections ended at once, since their address had max_connections_per_address.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.connections_refused.get()));
    text.family(
        "xks_proxy_connections_evicted_total",
        Counter,
        "Connections ended to make room, at max_connections or max_buffered_bytes.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.connections_evicted.get()));
    text.family(
        "xks_proxy_accept_pauses_total",
        Counter,
        "Times that accepting paused at the limit of connections or file descriptors; meanwhile \
         connections wait in the kernel, which refuses them when its queue is full.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.accept_pauses.get()));
    text.family(
        "xks_proxy_congestion_refusals_total",
        Counter,
        "Requests answered 429 unseen, since an event loop cannot keep up with what comes.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.congestion_refusals.get()));
    text.family("xks_proxy_tls_handshakes_total", Counter, "TLS handshakes completed.")
        .sample(&[], metrics.sum(|of_loop| of_loop.tls_handshakes.get()));
    text.family(
        "xks_proxy_tls_handshake_failures_total",
        Counter,
        "Connections to the TLS port that ended before their handshake did.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.tls_handshake_failures.get()));
    text.family(
        "xks_proxy_tls_certificate_expiry_timestamp_seconds",
        Gauge,
        "When the certificate that the listener shows expires, in seconds since 1970.",
    );
    for certificate in metrics.certificates() {
        let labels = [("listener", certificate.listener.text()), ("subject", &certificate.subject)];
        text.sample(&labels, certificate.not_after_unix_secs);
    }
}

/// A token's state as a number: what dashboards and alerts compare with.
fn state(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Unavailable => 0,
        HealthStatus::Degraded => 1,
        HealthStatus::Active => 2,
    }
}

/// A metric of a token: name, kind, help, and where it comes from.
type OfToken =
    (&'static str, crate::observe::metrics::exposition::Kind, &'static str, fn(&TokenStats) -> u64);

const OF_TOKEN: &[OfToken] = &[
    ("xks_proxy_hsm_queue_length", Gauge, "Requests that wait for a session.", |token| {
        token.queued as u64
    }),
    ("xks_proxy_hsm_sessions_busy", Gauge, "Sessions at work, or about to be.", |token| {
        token.running as u64
    }),
    ("xks_proxy_hsm_sessions_idle", Gauge, "Sessions at rest.", |token| token.idle as u64),
    (
        "xks_proxy_hsm_sessions_hung",
        Gauge,
        "Threads that are stuck in a PKCS#11 call and were replaced.",
        |token| token.hung as u64,
    ),
    ("xks_proxy_hsm_sessions_limit", Gauge, "Sessions that may be at work at once.", |token| {
        token.active_limit as u64
    }),
    ("xks_proxy_hsm_answers_total", Counter, "Requests that the token answered.", |token| {
        token.answered_total
    }),
    (
        "xks_proxy_hsm_faults_total",
        Counter,
        "Failures that were the token's or a session's own.",
        |token| token.faults_total,
    ),
    (
        "xks_proxy_hsm_retries_total",
        Counter,
        "Requests that were tried again, on this token or another.",
        |token| token.retried_total,
    ),
    (
        "xks_proxy_hsm_hedges_total",
        Counter,
        "Requests that went to another token or session too, since this one was slow.",
        |token| token.hedged_total,
    ),
    (
        "xks_proxy_hsm_expired_requests_total",
        Counter,
        "Requests that the token was given and did not answer in time.",
        |token| token.expired_total,
    ),
    ("xks_proxy_hsm_hung_calls_total", Counter, "PKCS#11 calls that hung.", |token| {
        token.hung_total
    }),
    ("xks_proxy_hsm_sessions_opened_total", Counter, "Sessions opened.", |token| {
        token.sessions_opened_total
    }),
    (
        "xks_proxy_hsm_reinitializations_total",
        Counter,
        "Times that the token's module was finalised and initialised anew for its sake.",
        |token| token.reinitialized_total,
    ),
    (
        "xks_proxy_hsm_put_in_use_total",
        Counter,
        "Times that the token was put in use, the first time included.",
        |token| token.put_in_use_total,
    ),
    (
        "xks_proxy_hsm_key_breakers_open",
        Gauge,
        "Keys and directions (encrypt, decrypt) that the token does not serve, though it serves \
         others: their requests fail again and again, or do not return.",
        |token| token.keys_out_of_use.len() as u64,
    ),
    (
        "xks_proxy_hsm_key_breaker_openings_total",
        Counter,
        "Times that a key was taken out of use since its requests failed again and again.",
        |token| token.key_breaker_openings_total,
    ),
    (
        "xks_proxy_hsm_keys_differing",
        Gauge,
        "Keys of the token that are others than the other tokens' keys of the same label, or than \
         the witness of that label.",
        |token| token.keys_disagreeing.len() as u64,
    ),
    (
        "xks_proxy_hsm_keys_unproven",
        Gauge,
        "Keys of the token that have not been proven yet to be the same as the other tokens'.",
        |token| token.keys_unproven as u64,
    ),
    (
        "xks_proxy_hsm_cdiv_mismatches_total",
        Counter,
        "Encryptions that the token did not decrypt to the same plaintext again.",
        |token| token.cdiv_mismatches_total,
    ),
];

#[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
fn tokens(text: &mut Exposition, sources: &Sources) {
    let hsm = sources.hsm.load();
    let (stats, health) = (hsm.stats(), hsm.health());
    // Labels of tokens need not differ, places in the settings do.
    let indices: Vec<String> = (0..stats.len()).map(|index| index.to_string()).collect();
    let labels = |index: usize| {
        let label = stats.get(index).map_or("", |token| token.label.as_str());
        [("index", indices.get(index).map_or("", String::as_str)), ("token", label)]
    };
    text.family("xks_proxy_hsm_token_info", Gauge, "Always 1; the labels say who the token is.");
    for (index, token) in health.tokens.iter().enumerate() {
        let [place, label] = labels(index);
        let more = [
            ("serial", token.id.as_str()),
            ("model", token.model.as_str()),
            ("manufacturer", token.manufacturer.as_str()),
        ];
        text.sample(&[place, label, more[0], more[1], more[2]], 1);
    }
    text.family(
        "xks_proxy_hsm_token_state",
        Gauge,
        "A token's health: 2 active, 1 degraded but able to serve, 0 unavailable.",
    );
    for (index, token) in health.tokens.iter().enumerate() {
        text.sample(&labels(index), state(token.status));
    }
    text.family(
        "xks_proxy_hsm_call_duration_average_seconds",
        Gauge,
        "Moving average of a call's duration, which admission goes by.",
    );
    for (index, token) in stats.iter().enumerate() {
        text.sample(&labels(index), token.service_micros as f64 / 1e6);
    }
    for (name, kind, help, value) in OF_TOKEN {
        text.family(name, *kind, help);
        for (index, token) in stats.iter().enumerate() {
            text.sample(&labels(index), value(token));
        }
    }
    text.family(
        "xks_proxy_hsm_failure_codes_total",
        Counter,
        "CK_RV codes of failure, by name; bad ciphertexts are among them.",
    );
    for (index, token) in stats.iter().enumerate() {
        for (code, count) in &token.failure_codes {
            let [place, label] = labels(index);
            text.sample(&[place, label, ("code", code)], count);
        }
    }
}

fn credentials(text: &mut Exposition, metrics: &Metrics) {
    let credentials = metrics.credentials();
    text.family(
        "xks_proxy_credential_loaded_timestamp_seconds",
        Gauge,
        "When this process first loaded the SigV4 credential, in seconds since 1970.",
    );
    for credential in &credentials {
        let store = store_label(&credential.uri_path_prefix);
        let labels = [("store", store), ("access_key_id", &*credential.access_key_id)];
        text.sample(&labels, credential.loaded_unix_secs);
    }
    text.family(
        "xks_proxy_credential_created_timestamp_seconds",
        Gauge,
        "When the SigV4 credential was made, in seconds since 1970, where the settings say it.",
    );
    for credential in &credentials {
        if let Some(created) = credential.created_unix_secs() {
            let store = store_label(&credential.uri_path_prefix);
            let labels = [("store", store), ("access_key_id", &*credential.access_key_id)];
            text.sample(&labels, created);
        }
    }
    text.family(
        "xks_proxy_credential_last_used_timestamp_seconds",
        Gauge,
        "When a right signature was last made with the credential, in seconds since 1970; 0 if \
         not since it was loaded.",
    );
    for credential in &credentials {
        let store = store_label(&credential.uri_path_prefix);
        let labels = [("store", store), ("access_key_id", &*credential.access_key_id)];
        text.sample(&labels, credential.last_used_unix_secs());
    }
}

/// The keys that were encrypted with most, and what all others come to.
pub(super) fn most_used(metrics: &Metrics) -> (Vec<(Box<str>, u64)>, u64) {
    let keys = metrics.used_keys();
    let mut used: Vec<(Box<str>, u64)> =
        keys.iter().map(|key| (key.key_id.clone(), key.encrypts.get())).collect();
    used.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let rest = used.split_off(used.len().min(MAX_KEYS_IN_METRICS));
    (used, rest.iter().map(|(_, count)| count).sum())
}

fn keys(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_key_encrypts_total",
        Counter,
        "Encryptions with the key by this process; AES-GCM with random IVs allows a key 2^32 in \
         all (NIST SP 800-38D, 8.3). Keys beyond the 1,000 most used are one, \"other\".",
    );
    let (used, rest) = most_used(metrics);
    for (key_id, count) in &used {
        text.sample(&[("key", key_id)], count);
    }
    if rest > 0 {
        text.sample(&[("key", "other")], rest);
    }
}

fn process(text: &mut Exposition, sources: &Sources) {
    let process = Process::now();
    let started: SystemTime = sources.metrics.started.1;
    text.family("process_cpu_seconds_total", Counter, "Processor time, user and system.")
        .sample(&[], process.cpu_seconds);
    text.family("process_resident_memory_bytes", Gauge, "Resident memory.")
        .sample(&[], process.resident_bytes);
    text.family("process_virtual_memory_bytes", Gauge, "Mapped memory.")
        .sample(&[], process.virtual_bytes);
    text.family("process_open_fds", Gauge, "Open file descriptors.")
        .sample(&[], process.open_descriptors);
    text.family("process_max_fds", Gauge, "How many file descriptors may be open.")
        .sample(&[], process.max_descriptors);
    text.family("process_threads", Gauge, "Threads.").sample(&[], process.threads);
    text.family(
        "process_start_time_seconds",
        Gauge,
        "When the process began, in seconds since 1970.",
    )
    .sample(&[], unix_secs(started));
}

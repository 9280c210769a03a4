//! All metrics: for `/metrics` in Prometheus's format, and for the export by OTLP.

mod key_usage;
mod key_versions;
mod otlp;
mod store_label;
mod syslog;
mod tokens;

use std::time::SystemTime;

use self::key_versions::key_versions;
use self::otlp::otlp;
use self::store_label::store_label;
use self::tokens::tokens;
use super::key_usage::KeyUsage;
use super::sources::Sources;
use super::sums::{durations_of, most_used_keys};
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::{Counter, Gauge, Histogram};
use crate::observe::metrics::labels::{CallLabel, OutcomeLabel};
use crate::observe::metrics::process::Process;
use crate::observe::metrics::{Metrics, OutcomeCounts};
use crate::observe::timestamp::unix_secs;

/// Returns all metrics at this moment.
pub(super) fn collect(sources: &Sources) -> Exposition {
    let mut text = Exposition::default();
    about(&mut text, sources);
    settings(&mut text, &sources.metrics);
    audit(&mut text, sources);
    otlp(&mut text, sources);
    syslog::syslog(&mut text, &sources.syslog.stats());
    requests(&mut text, &sources.metrics);
    durations(&mut text, &sources.metrics);
    connections(&mut text, sources);
    overload(&mut text, &sources.metrics);
    tokens(&mut text, sources);
    credentials(&mut text, &sources.metrics);
    keys(&mut text, &sources.metrics);
    key_usage::key_usage(&mut text, &KeyUsage::of(&sources.usage));
    key_versions(&mut text, &sources.service_info.load().key_versions);
    process(&mut text, sources);
    text
}

fn about(text: &mut Exposition, sources: &Sources) {
    text.family("xks_proxy_build_info", Gauge, "Always 1; the label says which version runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family(
        "xks_proxy_ready",
        Gauge,
        "1 if /readyz is 200: a token works, calls can be audited, the clock is right, and \
         nothing drains.",
    )
    .sample(&[], u8::from(sources.is_ready()));
    text.family(
        "xks_proxy_clock_ahead_seconds",
        Gauge,
        "Seconds by which this machine's clock is ahead of that of the signed requests (negative: \
         behind): their median, if there were 20 in the last 60 s. From 300 on, calls are refused.",
    );
    if let Some(ahead_secs) = sources.clock_skew().ahead_secs() {
        text.sample(&[], ahead_secs);
    }
    text.family("xks_proxy_draining", Gauge, "1 if the process is about to stop.")
        .sample(&[], u8::from(sources.lifecycle.is_draining()));
    text.family(
        "xks_proxy_panics_total",
        Counter,
        "Panics; each is a defect, and ended at most one connection.",
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
        "Reloads of the settings, by outcome: taken_up or refused.",
    )
    .sample(&[("outcome", "taken_up")], state.applied)
    .sample(&[("outcome", "refused")], state.attempts - state.applied);
    text.family(
        "xks_proxy_settings_last_reload_successful",
        Gauge,
        "0 if the last reload of the settings was refused, so that older ones are in use.",
    )
    .sample(&[], u8::from(state.refused.is_empty()));
    text.family(
        "xks_proxy_settings_loaded_timestamp_seconds",
        Gauge,
        "Time at which the settings in use were applied, in seconds since 1970.",
    )
    .sample(&[], state.loaded_unix_secs);
    text.family(
        "xks_proxy_settings_restart_needed",
        Gauge,
        "Sections and members of the settings file without effect until a restart.",
    )
    .sample(&[], state.needs_restart.len());
}

/// Writes the metrics of the audit log; nothing if there is none.
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
        "Lines of unauthenticated calls left out, beyond the limit per second.",
    )
    .sample(&[], audit.left_out_lines);
    text.family(
        "xks_proxy_audit_write_errors_total",
        Counter,
        "Attempts to write, synchronise or rotate the audit log that failed.",
    )
    .sample(&[], audit.write_errors);
    text.family(
        "xks_proxy_audit_lost_files_total",
        Counter,
        "Files of the audit log that others deleted, moved, replaced or cut while they were written.",
    )
    .sample(&[], audit.lost_files);
    text.family(
        "xks_proxy_audit_checkpoint_errors_total",
        Counter,
        "Checkpoints of the audit log that the HSM did not seal.",
    )
    .sample(&[], audit.checkpoint_errors);
    text.family(
        "xks_proxy_audit_last_checkpoint_timestamp_seconds",
        Gauge,
        "Time of the last sealed checkpoint of the audit log, in seconds since 1970; 0 if none.",
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
        "Time at which a line of the audit log was last written, in seconds since 1970.",
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
            // A rate can only be computed if the series exists before the first request.
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
        "Decisions of secondary_auth's policy, by evaluation, or from memory of a call with \
         the same attributes. Denials are in xks_proxy_requests_total: AccessDeniedException.",
    )
    .sample(&[("by", "evaluation")], metrics.sum(|of_loop| of_loop.policy_evaluations.get()))
    .sample(&[("by", "memory")], metrics.sum(|of_loop| of_loop.policy_decisions_remembered.get()));
    text.family("xks_proxy_requests_in_flight", Gauge, "Requests that wait for the HSM's answer.")
        .sample(&[], metrics.sum(|of_loop| of_loop.in_flight.get()));
}

fn durations(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_request_duration_seconds",
        Histogram,
        "Time from a request's first byte to its answer.",
    );
    for call in CallLabel::CALLS {
        let durations = durations_of(metrics, call, |durations| &durations.total);
        text.histogram(&[("call", call.text())], &durations);
    }
    text.family(
        "xks_proxy_request_queue_duration_seconds",
        Histogram,
        "Time of a request in the queue, until an HSM session takes it.",
    );
    for call in CallLabel::HSM_CALLS {
        let durations = durations_of(metrics, call, |durations| &durations.queue);
        text.histogram(&[("call", call.text())], &durations);
    }
    text.family(
        "xks_proxy_request_hsm_duration_seconds",
        Histogram,
        "Time of a request in the HSM, all attempts together.",
    );
    for call in CallLabel::HSM_CALLS {
        let durations = durations_of(metrics, call, |durations| &durations.hsm);
        text.histogram(&[("call", call.text())], &durations);
    }
}

fn connections(text: &mut Exposition, sources: &Sources) {
    let metrics = &sources.metrics;
    let accepted = metrics.sum(|of_loop| of_loop.connections_accepted.get());
    let closed = metrics.sum(|of_loop| of_loop.connections_closed.get());
    text.family("xks_proxy_connections", Gauge, "Open connections, including those to /ping.")
        .sample(&[], accepted.saturating_sub(closed));
    text.family(
        "xks_proxy_connections_max",
        Gauge,
        "Limit of connections in use: [limits] max_connections, or fewer if the limit of open \
         files (RLIMIT_NOFILE) allows no more.",
    )
    .sample(&[], sources.service_info.load().max_connections);
    text.family("xks_proxy_connections_accepted_total", Counter, "Connections accepted.")
        .sample(&[], accepted);
    text.family(
        "xks_proxy_connections_refused_total",
        Counter,
        "Connections closed at once, as their address had max_connections_per_address.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.connections_refused.get()));
    text.family(
        "xks_proxy_connections_evicted_total",
        Counter,
        "Connections closed to make room, at max_connections or max_buffered_bytes.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.connections_evicted.get()));
    text.family(
        "xks_proxy_connections_by_proxy_header_total",
        Counter,
        "Connections to the API from the networks in proxy_protocol_from, by whether they began \
         with a PROXY protocol header.",
    )
    .sample(&[("header", "present")], metrics.sum(|of_loop| of_loop.proxied.get()))
    .sample(&[("header", "absent")], metrics.sum(|of_loop| of_loop.unproxied.get()));
    text.family(
        "xks_proxy_accept_pauses_total",
        Counter,
        "Pauses in accepting, at the limit of connections or file descriptors. During a pause, \
         connections wait in the kernel, which refuses them when its queue is full.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.accept_pauses.get()));
    text.family("xks_proxy_tls_handshakes_total", Counter, "TLS handshakes completed.")
        .sample(&[], metrics.sum(|of_loop| of_loop.tls_handshakes.get()));
    text.family(
        "xks_proxy_tls_handshake_failures_total",
        Counter,
        "Connections to the TLS port that ended before the end of their handshake.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.tls_handshake_failures.get()));
    text.family(
        "xks_proxy_tls_certificate_expiry_timestamp_seconds",
        Gauge,
        "Time at which the listener's certificate expires, in seconds since 1970.",
    );
    for certificate in metrics.certificates() {
        let labels = [("listener", certificate.listener.text()), ("subject", &certificate.subject)];
        text.sample(&labels, certificate.not_after_unix_secs);
    }
}

fn overload(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_congestion_refusals_total",
        Counter,
        "Requests answered 429 unread, as an event loop was overloaded.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.congestion_refusals.get()));
    text.family(
        "xks_proxy_congestion_given_up_total",
        Counter,
        "Connections that clients had closed by the time an overloaded event loop came to them.",
    )
    .sample(&[], metrics.sum(|of_loop| of_loop.given_up_unread.get()));
}

fn credentials(text: &mut Exposition, metrics: &Metrics) {
    let credentials = metrics.credentials();
    text.family(
        "xks_proxy_credential_loaded_timestamp_seconds",
        Gauge,
        "Time at which this process first loaded the SigV4 credential, in seconds since 1970.",
    );
    for credential in &credentials {
        let store = store_label(&credential.uri_path_prefix);
        let labels = [("store", store), ("access_key_id", &*credential.access_key_id)];
        text.sample(&labels, credential.loaded_unix_secs);
    }
    text.family(
        "xks_proxy_credential_created_timestamp_seconds",
        Gauge,
        "Time at which the SigV4 credential was created, in seconds since 1970, if it is set.",
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
        "Time of the last valid signature with the credential, in seconds since 1970; 0 if \
         there was none since it was loaded.",
    );
    for credential in &credentials {
        let store = store_label(&credential.uri_path_prefix);
        let labels = [("store", store), ("access_key_id", &*credential.access_key_id)];
        text.sample(&labels, credential.last_used_unix_secs());
    }
}

fn keys(text: &mut Exposition, metrics: &Metrics) {
    text.family(
        "xks_proxy_key_encrypts_total",
        Counter,
        "Encryptions with the key by this process; AES-GCM with random IVs allows 2^32 per key \
         in all (NIST SP 800-38D, 8.3). Keys beyond the 1,000 most used are summed as \"other\".",
    );
    let (used, rest) = most_used_keys(metrics);
    for (key_id, count) in &used {
        text.sample(&[("key", key_id)], *count);
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
    text.family("process_max_fds", Gauge, "Limit of open file descriptors.")
        .sample(&[], process.max_descriptors);
    text.family("process_threads", Gauge, "Number of threads.").sample(&[], process.threads);
    text.family(
        "process_start_time_seconds",
        Gauge,
        "Time at which the process began, in seconds since 1970.",
    )
    .sample(&[], unix_secs(started));
}

//! The metrics of each token.

use crate::admin::sources::Sources;
use crate::hsm::TokenStats;
use crate::job::HealthStatus;
use crate::limits::MAX_END_DATES_SHOWN;
use crate::observe::metrics::exposition::Kind::{Counter, Gauge};
use crate::observe::metrics::exposition::{Exposition, Kind};

/// Returns a token's state as a number, for dashboards and alerts.
fn state(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Unavailable => 0,
        HealthStatus::Degraded => 1,
        HealthStatus::Active => 2,
    }
}

/// A metric of a token: name, kind, help, and value.
type OfToken = (&'static str, Kind, &'static str, fn(&TokenStats) -> u64);

const OF_TOKEN: &[OfToken] = &[
    ("xks_proxy_hsm_queue_length", Gauge, "Requests that wait for a session.", |token| {
        token.queued as u64
    }),
    ("xks_proxy_hsm_sessions_busy", Gauge, "Sessions at work, or about to be.", |token| {
        token.running as u64
    }),
    ("xks_proxy_hsm_sessions_idle", Gauge, "Idle sessions.", |token| token.idle as u64),
    (
        "xks_proxy_hsm_sessions_hung",
        Gauge,
        "Threads stuck in a PKCS#11 call, which have been replaced.",
        |token| token.hung as u64,
    ),
    ("xks_proxy_hsm_sessions_limit", Gauge, "Limit of sessions at work at once.", |token| {
        token.active_limit as u64
    }),
    ("xks_proxy_hsm_answers_total", Counter, "Requests that the token answered.", |token| {
        token.answered_total
    }),
    (
        "xks_proxy_hsm_faults_total",
        Counter,
        "Failures that were the fault of the token or of a session.",
        |token| token.faults_total,
    ),
    (
        "xks_proxy_hsm_retries_total",
        Counter,
        "Requests retried, on this token or another.",
        |token| token.retried_total,
    ),
    (
        "xks_proxy_hsm_hedges_total",
        Counter,
        "Requests also sent to another token or session, as this one was slow.",
        |token| token.hedged_total,
    ),
    (
        "xks_proxy_hsm_expired_requests_total",
        Counter,
        "Requests that the token took and did not answer in time.",
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
        "Times that the token's module was finalised and initialised again because of this token.",
        |token| token.reinitialized_total,
    ),
    (
        "xks_proxy_hsm_put_in_use_total",
        Counter,
        "Times that the token was put in use, including the first time.",
        |token| token.put_in_use_total,
    ),
    (
        "xks_proxy_hsm_key_breakers_open",
        Gauge,
        "Keys and directions (encrypt, decrypt) out of use on the token, while it serves others: \
         their requests fail repeatedly, or do not return.",
        |token| token.keys_out_of_use.len() as u64,
    ),
    (
        "xks_proxy_hsm_key_breaker_openings_total",
        Counter,
        "Times that a key was taken out of use because its requests failed repeatedly.",
        |token| token.key_breaker_openings_total,
    ),
    (
        "xks_proxy_hsm_keys_differing",
        Gauge,
        "Keys of the token that differ from the other tokens' keys of the same label, or from the \
         witness of that label.",
        |token| token.keys_disagreeing.len() as u64,
    ),
    (
        "xks_proxy_hsm_keys_unproven",
        Gauge,
        "Keys of the token that are not yet proven to be the same as the other tokens'.",
        |token| token.keys_unproven as u64,
    ),
    (
        "xks_proxy_hsm_cdiv_mismatches_total",
        Counter,
        "Encryptions that the token did not decrypt to the same plaintext.",
        |token| token.cdiv_mismatches_total,
    ),
];

#[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
pub(super) fn tokens(text: &mut Exposition, sources: &Sources) {
    let hsm = sources.hsm.load();
    let (stats, health) = (hsm.stats(), hsm.health());
    // Tokens may have the same label, but not the same index in the settings.
    let indices: Vec<String> = (0..stats.len()).map(|index| index.to_string()).collect();
    let labels = |index: usize| {
        let label = stats.get(index).map_or("", |token| token.label.as_str());
        [("index", indices.get(index).map_or("", String::as_str)), ("token", label)]
    };
    text.family("xks_proxy_hsm_token_info", Gauge, "Always 1; the labels identify the token.");
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
        "Moving average of a call's duration, which admission is based on.",
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
        "xks_proxy_hsm_key_end_date_timestamp_seconds",
        Gauge,
        "CKA_END_DATE of a key that has one, in seconds since 1970; the earliest 100 of each token.",
    );
    for (index, keys) in hsm.end_dates(MAX_END_DATES_SHOWN).iter().enumerate() {
        for (key, date) in keys {
            let [place, label] = labels(index);
            text.sample(&[place, label, ("key", key)], date.unix_secs());
        }
    }
    text.family(
        "xks_proxy_hsm_failure_codes_total",
        Counter,
        "Failures by name of their CK_RV code, including those for invalid ciphertexts.",
    );
    for (index, token) in stats.iter().enumerate() {
        for (code, count) in &token.failure_codes {
            let [place, label] = labels(index);
            text.sample(&[place, label, ("code", code)], *count);
        }
    }
}

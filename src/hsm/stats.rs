//! Figures about the tokens, for metrics and the status page.

use std::time::Duration;

use super::token::Token;
use crate::sync::atomic::Ordering;
use crate::sync::clock;

/// Figures about one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenStats {
    /// `CK_TOKEN_INFO.label`
    pub label: String,
    /// True if the token gets jobs.
    pub is_usable: bool,
    /// Reason why the token gets no jobs, or the problem found by the latest health check or recent
    /// calls.
    pub trouble: Option<String>,
    /// Number of waiting jobs.
    pub queued: usize,
    /// Number of sessions that are busy, or about to look for a job.
    pub running: usize,
    /// Number of idle sessions.
    pub idle: usize,
    /// Number of threads stuck in a call.
    pub hung: usize,
    /// Maximum number of sessions that may be at work at once.
    pub active_limit: usize,
    /// Average duration of a call, in microseconds.
    pub service_micros: u64,
    /// Number of answers since the start.
    pub answered_total: u64,
    /// Number of failures of the token or a session since the start.
    pub faults_total: u64,
    /// Number of retries since the start.
    pub retried_total: u64,
    /// Number of slow calls that were repeated on another session, since the start.
    pub hedged_total: u64,
    /// Number of repeated calls on this token that answered first, since the start.
    pub hedges_won_total: u64,
    /// Number of jobs not answered by their deadline since the start.
    pub expired_total: u64,
    /// Number of calls that hung since the start.
    pub hung_total: u64,
    /// Number of sessions opened since the start.
    pub sessions_opened_total: u64,
    /// Number of times that the module was initialized again because of this token, since the
    /// start.
    pub reinitialized_total: u64,
    /// Number of times that the token was put in use since the start, including the first time.
    pub put_in_use_total: u64,
    /// Keys that the token does not serve, with the reason for each.
    pub keys_out_of_use: Vec<KeyOutOfUse>,
    /// Number of keys that are not proven to be the same as on the other tokens.
    pub keys_unproven: usize,
    /// `CKA_LABEL`s of keys that differ from those of the other tokens, or from their witnesses.
    pub keys_disagreeing: Vec<Box<str>>,
    /// Number of times that a key was taken out of use since the start.
    pub key_breaker_openings_total: u64,
    /// Number of encryptions whose verification failed, since the start.
    pub cdiv_mismatches_total: u64,
    /// Return codes of failures since the start, by name, with their counts.
    pub failure_codes: Vec<(&'static str, u64)>,
}

/// A key that a token does not serve, although it serves others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOutOfUse {
    /// `CKA_LABEL`
    pub label: String,
    /// `encrypt` or `decrypt`
    pub direction: &'static str,
    /// The reason.
    pub reason: String,
    /// Time for which the circuit breaker has been open; `None` if calls with the key hang.
    pub since: Option<Duration>,
}

/// Returns the keys with an open circuit breaker and those whose calls hang.
fn keys_out_of_use(token: &Token) -> Vec<KeyOutOfUse> {
    let now = clock::now();
    let broken = token.key_breakers.all_open().into_iter().map(|open| KeyOutOfUse {
        label: token.backend.label_of(open.key),
        direction: open.direction.name(),
        reason: format!("{} ({} times in a row)", open.failure, open.faults),
        since: Some(now.saturating_duration_since(open.since)),
    });
    let hanging = token.hangs.blocked().into_iter().map(|(key, direction)| KeyOutOfUse {
        label: token.backend.label_of(key),
        direction: direction.name(),
        reason: "calls do not return".to_owned(),
        since: None,
    });
    broken.chain(hanging).collect()
}

/// Returns the token's current figures.
#[must_use]
pub fn stats(token: &Token) -> TokenStats {
    let counts = token.pool.counts();
    let counters = &token.counters;
    let is_usable = token.circuit_breaker.is_usable();
    let trouble = token.checker.lock().trouble.clone();
    let not_proven = token.backend.not_proven();
    let recent = || {
        let faults = token.circuit_breaker.recent_faults(clock::now())?;
        Some(format!("{faults} of the latest 64 calls failed"))
    };
    TokenStats {
        label: token.backend.identity().label,
        is_usable,
        trouble: if is_usable {
            trouble.or_else(recent)
        } else {
            token.circuit_breaker.reason().or(trouble)
        },
        queued: token.queue.len() + token.deferred.len(),
        running: counts.running,
        idle: counts.idle,
        hung: counts.abandoned,
        active_limit: counts.limit,
        service_micros: u64::try_from(token.service_time.mean().as_micros()).unwrap_or(u64::MAX),
        answered_total: counters.answered.load(Ordering::Relaxed),
        faults_total: counters.faults.load(Ordering::Relaxed),
        retried_total: counters.retried.load(Ordering::Relaxed),
        hedged_total: counters.hedged.load(Ordering::Relaxed),
        hedges_won_total: counters.hedges_won.load(Ordering::Relaxed),
        expired_total: counters.expired.load(Ordering::Relaxed),
        hung_total: counters.hung.load(Ordering::Relaxed),
        sessions_opened_total: counters.sessions_opened.load(Ordering::Relaxed),
        reinitialized_total: counters.reinitialized.load(Ordering::Relaxed),
        put_in_use_total: counters.put_in_use.load(Ordering::Relaxed),
        keys_out_of_use: keys_out_of_use(token),
        keys_unproven: not_proven.unproven,
        keys_disagreeing: not_proven.disagreeing,
        key_breaker_openings_total: token.key_breakers.opened_total(),
        cdiv_mismatches_total: token.backend.cdiv_mismatches(),
        failure_codes: token.backend.failure_codes(),
    }
}

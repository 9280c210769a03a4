//! The consequences of attributed faults and of successes: circuit breakers and log messages.

use std::time::Instant;

use super::attribution::FaultScope;
use super::backend::{Failed, Fault, KeyUse};
use super::fleet::Fleet;
use super::key_breaker::Change;
use super::token::Token;
use crate::job::Failure;
use crate::sync::clock;

/// Applies an attributed fault. Takes the token out of service if it has failed too often in a row.
pub fn apply(fleet: &Fleet, token: &Token, about: Failed, fault: Fault, scope: FaultScope) {
    let now = clock::now();
    let are_keys_missed = fault == Fault::KEYS_MISSED;
    if are_keys_missed {
        // The health checker finds out whether the keys were deleted or the token is in trouble.
        token.checker_signal.notify();
    }
    match scope {
        FaultScope::Key if are_keys_missed => {}
        FaultScope::Key => apply_to_key(token, about, fault, now),
        // Sessions that died together, for instance because the HSM was restarted, are no reason to
        // take the token out of service if new ones work.
        FaultScope::Session => token.circuit_breaker.record_fault(now),
        FaultScope::Token => {
            let reason = || match are_keys_missed {
                true => "keys have disappeared".to_owned(),
                false => fault.failure.to_string(),
            };
            if token.circuit_breaker.count_fault(now, reason) {
                fleet.on_circuit_opened(token);
            }
        }
    }
}

fn apply_to_key(token: &Token, about: Failed, fault: Fault, now: Instant) {
    let Failed { key, direction: Some(direction) } = about else { return };
    let do_others_fail = token.circuit_breaker.has_recent_own_fault(now);
    if !token.key_breakers.is_doubtful(key, Some(direction), do_others_fail) {
        token.circuit_breaker.record_key_fault(now);
    }
    // If the token is busy, the key is not at fault; if the result is wrong, it is.
    if !fault.breaks_session() && fault.failure != Failure::CdivMismatch {
        token.key_breakers.busy(key, direction, fault.failure, now);
        return;
    }
    let opened = token.key_breakers.fault(key, direction, fault.failure, do_others_fail, now);
    if let Some(Change { failure, faults, .. }) = opened {
        tracing::error!(
            token = token.backend.identity().label,
            key = token.backend.label_of(key),
            direction = direction.name(),
            failure = %failure,
            faults,
            "HSM key out of use: the token does not serve it, and serves other keys"
        );
    }
}

/// Records that the token answered with a key, even if it refused, which shows that its calls do
/// not hang. Rejecting a ciphertext requires the key, so the key counts as served.
pub fn key_answered(token: &Token, key: KeyUse, fault: Fault, now: Instant) {
    if token.hangs.is_any() {
        token.hangs.success(key, now);
    }
    if fault.failure == Failure::InvalidCiphertext {
        key_succeeded(token, key, now);
    }
}

/// Records that an operation with a key succeeded.
pub fn key_succeeded(token: &Token, (key, direction): KeyUse, now: Instant) {
    if token.hangs.is_any() {
        token.hangs.success((key, direction), now);
    }
    if !token.key_breakers.is_any_failing() {
        return;
    }
    if let Some(change) = token.key_breakers.success(key, direction, now) {
        tracing::info!(
            token = token.backend.identity().label,
            key = token.backend.label_of(key),
            direction = direction.name(),
            out_of_use_secs = change.open_for.as_secs(),
            "HSM key in use again"
        );
    }
}

//! The fleet's health, as reported by GetHealthStatus.

use std::sync::Arc;
use std::time::Instant;

use super::fleet::Fleet;
use super::token::Token;
use crate::job::{FleetHealth, HealthStatus, TokenHealth};
use crate::limits::{MAX_HEALTH_AGE, MAX_HEALTH_CHECK};
use crate::sync::atomic::Ordering;

/// Returns whether neither a health check nor a job returned recently, so that the token's state is
/// unknown.
#[must_use]
pub fn is_health_unknown(token: &Token, now: Instant) -> bool {
    // No health checks are made while keys are listed, which may take minutes.
    let is_lost = || is_check_overdue(token, now) && !token.checker.lock().is_listing;
    token.circuit_breaker.is_usable() && is_lost() && !token.circuit_breaker.is_answering(now)
}

/// Returns whether a health check hangs, or the latest one is too old to be reported.
fn is_check_overdue(token: &Token, now: Instant) -> bool {
    let state = token.checker.lock();
    let is_late = |since: Instant| now.saturating_duration_since(since) > MAX_HEALTH_CHECK;
    let hangs = !state.is_listing && state.call.since().is_some_and(is_late);
    let is_old = |at: Instant| now.saturating_duration_since(at) > MAX_HEALTH_AGE;
    hangs || state.checked_at.is_none_or(is_old)
}

/// Returns a token's status.
#[must_use]
pub fn status(token: &Token, now: Instant) -> HealthStatus {
    if !token.circuit_breaker.is_usable() || is_health_unknown(token, now) || token.serves_no_key()
    {
        return HealthStatus::Unavailable;
    }
    let is_troubled = token.checker.lock().trouble.is_some()
        || is_check_overdue(token, now)
        || token.pool.counts().abandoned > 0
        || token.circuit_breaker.faults_in_a_row() > 1
        || token.circuit_breaker.recent_faults(now).is_some();
    if is_troubled { HealthStatus::Degraded } else { HealthStatus::Active }
}

/// Publishes the fleet's health if it has changed.
pub fn publish(fleet: &Fleet, now: Instant) {
    let before = fleet.health.load();
    let mut is_same = before.tokens.len() == fleet.tokens.len();
    for (index, token) in fleet.tokens.iter().enumerate() {
        let published = before.tokens.get(index).map(|published| published.status);
        is_same &= published == Some(status(token, now));
        // A token's identity changes only when the proxy connects to it.
        is_same &= !token.is_identity_new.swap(false, Ordering::AcqRel);
    }
    if is_same {
        return;
    }
    let tokens = fleet.tokens.iter().map(|token| {
        let identity = token.backend.identity();
        TokenHealth {
            id: identity.id,
            label: identity.label,
            model: identity.model,
            manufacturer: identity.manufacturer,
            status: status(token, now),
        }
    });
    fleet.health.store(Arc::new(FleetHealth { tokens: tokens.collect() }));
}

//! Proof of a token's keys by its health checker, at a limited rate, so that traffic is not
//! disturbed.

use std::time::Instant;

use super::backend::{Direction, KeyStatus, Proof};
use super::fleet::Fleet;
use super::monitored_session::{Abandoned, MonitoredSession};
use super::selection::may_make_witness;
use super::token::Token;
use super::token_set::TokenSet;
use crate::limits::{
    MAX_MAINTENANCE_CALL, MAX_PROOFS_PER_SLICE, MAX_START_WAIT, PROOF_INTERVAL, PROOF_SLICE,
};
use crate::sync::clock;

/// Proves keys until no more can be proven now, there is something else to do, or `end` is reached.
pub fn prove_keys(
    fleet: &Fleet,
    token: &Token,
    session: &mut MonitoredSession<'_>,
    end: Instant,
) -> Result<(), Abandoned> {
    if !have_all_tried(fleet) {
        // Until then it is unknown which token is the first and makes the witnesses.
        return Ok(());
    }
    let mut has_made = false;
    while token.circuit_breaker.is_usable() && !fleet.is_stopping() {
        let start = clock::now();
        let mut is_done = false;
        for _ in 0..MAX_PROOFS_PER_SLICE {
            match prove_next(fleet, session)? {
                Some(proof) => has_made |= proof == Proof::Made,
                None => is_done = true,
            }
            if is_done || clock::now().saturating_duration_since(start) >= PROOF_SLICE {
                break;
            }
        }
        settle_witnesses(fleet);
        let next = start + (clock::now().saturating_duration_since(start) * 2).max(PROOF_INTERVAL);
        if is_done || next >= end {
            break;
        }
        token.checker_signal.wait_until(next);
        if clock::now() < next {
            // The health checker was notified of something else.
            token.checker_signal.notify();
            break;
        }
    }
    if has_made {
        // The other tokens can now prove the keys whose witnesses were made.
        notify_other_checkers(fleet, token);
    }
    Ok(())
}

fn prove_next(
    fleet: &Fleet,
    session: &mut MonitoredSession<'_>,
) -> Result<Option<Proof>, Abandoned> {
    session.call(MAX_MAINTENANCE_CALL, |session, keys| {
        let may_make = |key| may_make_witness(&fleet.tokens, keys.token, key);
        session.as_mut().and_then(|session| session.prove_next(&may_make, &keys))
    })
}

/// Records that `last` has been tried for the first time. Once all tokens have been tried, those
/// tried earlier can prove their keys, so their health checkers are woken.
pub fn begin_proofs(fleet: &Fleet, last: &Token) {
    if have_all_tried(fleet) {
        notify_other_checkers(fleet, last);
    }
}

fn notify_other_checkers(fleet: &Fleet, than: &Token) {
    let others = fleet.tokens.iter().filter(|other| other.index != than.index);
    others.for_each(|other| other.checker_signal.notify());
}

/// Returns whether every token has been tried once, or has had enough time for that.
fn have_all_tried(fleet: &Fleet) -> bool {
    let has_tried = |token: &Token| token.checker.lock().has_tried;
    clock::now().saturating_duration_since(fleet.start) >= MAX_START_WAIT
        || fleet.tokens.iter().all(has_tried)
}

/// Settles the witnesses with which all tokens in use have been tested.
fn settle_witnesses(fleet: &Fleet) {
    if have_all_tried(fleet) {
        let usable = fleet.tokens.iter().filter(|token| token.circuit_breaker.is_usable());
        settle_among(fleet, usable.map(|token| token.index).collect());
    }
}

/// Settles the witnesses with which all tokens in `tokens` have been tested. Does not wait for a
/// token that lacks the key, may not decrypt with it, or does not serve it.
pub fn settle_among(fleet: &Fleet, tokens: TokenSet) {
    let is_silent = |token: &&Token, label: &str| {
        token.backend.index_of(label).is_some_and(|key| {
            let status = token.backend.key_status(key, Some(Direction::Decrypt));
            status == KeyStatus::Absent || !token.is_key_sound(key)
        })
    };
    fleet.witnesses.settle(fleet.number, tokens, &|label| {
        let silent = fleet.tokens.iter().filter(|token| is_silent(token, label));
        silent.map(|token| token.index).collect()
    });
}

//! Decisions about a job at which a token has failed: another token tries it, the same one tries it
//! again, or the failure is the answer.

use std::time::Instant;

use super::attribution::FaultScope;
use super::backend::{Blame, Direction, Fault, KeyStatus};
use super::fleet::Fleet;
use super::key_breaker::Admission;
use super::queued::Queued;
use super::selection::best_for;
use super::token::Token;
use crate::job::{Completion, Failure};
use crate::limits::{ATTEMPTS_BEFORE_ATTRIBUTION, MAX_ATTEMPTS, MAX_SUSPICIONS, SUSPICIONS};
use crate::sync::atomic::Ordering;
use crate::sync::clock;

/// Handles a failure that is not a fault of the token. The job is answered (the answer is added to
/// `answered`), moved to another token, or returned to be tried again on the same one.
pub fn on_failure(
    fleet: &Fleet,
    token: &Token,
    mut queued: Queued,
    fault: Fault,
    answered: &mut Vec<Completion>,
) -> Option<Queued> {
    let now = clock::now();
    match fault.blame {
        Blame::Request => answered_by(fleet, token, queued, fault, answered),
        _ if now >= queued.job.deadline => token.record_expired(&queued.job),
        Blame::Suspect => return on_suspected_ciphertext(fleet, token, queued, now, answered),
        Blame::Key | Blame::Busy | Blame::Session | Blame::Token => {
            queued.attempts += 1;
            queued.lacking.insert(token.index);
            if fault.failure == Failure::KeysDiffer {
                queued.failure.get_or_insert(fault.failure);
            }
            if queued.attempts < MAX_ATTEMPTS && !fleet.is_stopping() {
                token.counters.retried.fetch_add(1, Ordering::Relaxed);
                match fleet.reassign(token, queued) {
                    Ok(()) => return None,
                    Err(back) => queued = back,
                }
            }
            answer_with_final_failure(fleet, token, queued, answered);
        }
    }
    None
}

/// Answers a request that is itself at fault, unless a token of another make may support what this
/// one does not.
fn answered_by(
    fleet: &Fleet,
    token: &Token,
    mut queued: Queued,
    fault: Fault,
    answered: &mut Vec<Completion>,
) {
    if fault.failure == Failure::InvalidCiphertext {
        return on_bad_ciphertext(fleet, token, queued, answered);
    }
    if matches!(fault.failure, Failure::Pkcs11(_) | Failure::Malformed) {
        queued.lacking.insert(token.index);
        queued.failure.get_or_insert(fault.failure);
        let not_these = queued.tried.union(queued.lacking);
        if let Some(other) = best_for(&fleet.tokens, &queued.job.request, not_these) {
            match fleet.push_first(other, queued) {
                Ok(()) => return,
                Err(back) => queued = back,
            }
        }
    }
    answered.extend(queued.complete(Err(fault.failure), Some(token.index), 0));
}

/// Handles a ciphertext that `token` has definitely rejected. Next, a token that may hold another
/// key with that label is tried, since it may have made the ciphertext. If no token with a proven
/// key has rejected the ciphertext, and some token could not be tried, the ciphertext may be valid.
fn on_bad_ciphertext(
    fleet: &Fleet,
    token: &Token,
    mut queued: Queued,
    answered: &mut Vec<Completion>,
) {
    let bad = Failure::InvalidCiphertext;
    let key = queued.job.request.key;
    let status = |it: &Token| it.backend.key_status(key, Some(Direction::Decrypt));
    queued.lacking.insert(token.index);
    if status(token) == KeyStatus::Proven {
        queued.failure = Some(bad);
    }
    let is_certain = queued.failure == Some(bad);
    // A token with the same key would give the same answer.
    let same = fleet.tokens.iter().filter(|it| is_certain && status(it) == KeyStatus::Proven);
    let not_these = queued.lacking.union(same.map(|it| it.index).collect());
    if let Some(other) = best_for(&fleet.tokens, &queued.job.request, not_these) {
        match fleet.push_first(other, queued) {
            Ok(()) => return,
            Err(back) => queued = back,
        }
    }
    // A token that is out of use and holds another key may have made the ciphertext.
    let may_have_made = |it: &Token| {
        let is_asked = queued.lacking.contains(it.index);
        !it.circuit_breaker.is_usable() && !is_asked && status(it) == KeyStatus::Disagrees
    };
    let failure = match is_certain {
        true if fleet.tokens.iter().any(may_have_made) => Failure::NoToken,
        true => bad,
        false => undecided_failure(fleet, &queued),
    };
    answered.extend(queued.complete(Err(failure), Some(token.index), 0));
}

/// Returns the answer to a decryption that failed on all tokens that could be tried, none of which
/// is known to have the right key.
fn undecided_failure(fleet: &Fleet, queued: &Queued) -> Failure {
    let request = &queued.job.request;
    let status = |it: &Token| it.backend.key_status(request.key, Some(Direction::Decrypt));
    let has_said_so = |it: &&Token| queued.lacking.contains(it.index);
    // A token that is out of use may lack its keys only temporarily.
    let may_have = |it: &&Token| !it.circuit_breaker.is_usable() || status(it) != KeyStatus::Absent;
    let have_key = || fleet.tokens.iter().filter(may_have);
    let mut unasked = have_key().filter(|it| !has_said_so(it));
    if unasked.clone().any(|it| !it.circuit_breaker.is_usable()) {
        return Failure::NoToken;
    }
    // A failure is not a rejection of the ciphertext.
    if let Some(failure) = queued.failure {
        return failure;
    }
    match unasked.next() {
        Some(it) => match it.admit(request, clock::now(), false) {
            _ if !it.has_room_for(request) => Failure::TooLarge,
            Admission::Refused(failure) => failure,
            Admission::Admitted | Admission::Trial => Failure::Overloaded,
        },
        // None of the tokens has the right key.
        None if have_key().any(|it| status(it) == KeyStatus::Disagrees)
            && have_key().all(|it| status(it) == KeyStatus::Disagrees) =>
        {
            Failure::KeysDiffer
        }
        None => Failure::InvalidCiphertext,
    }
}

/// Handles a fault of the token, a session or a key. Before the fault is attributed, the job goes
/// to a token that has not tried it, if there is one; otherwise it is returned.
pub fn fail_over(fleet: &Fleet, token: &Token, mut queued: Queued, fault: Fault) -> Option<Queued> {
    if clock::now() >= queued.job.deadline {
        // The event loop's timer has answered it.
        token.record_expired(&queued.job);
        return None;
    }
    queued.attempts += 1;
    queued.failure.get_or_insert(fault.failure);
    queued.tried.insert(token.index);
    if queued.attempts >= MAX_ATTEMPTS || fleet.is_stopping() {
        return Some(queued);
    }
    let not_these = queued.tried.union(queued.lacking);
    let Some(other) = best_for(&fleet.tokens, &queued.job.request, not_these) else {
        return Some(queued);
    };
    token.counters.retried.fetch_add(1, Ordering::Relaxed);
    fleet.push_first(other, queued).err()
}

/// Decides about a job at which all tokens have failed, once the fault is attributed: it is
/// returned to be tried again here, moved to another token, or answered. A key that has failed too
/// often in a row is not tried again.
pub fn retry(
    fleet: &Fleet,
    token: &Token,
    mut queued: Queued,
    scope: FaultScope,
    answered: &mut Vec<Completion>,
) -> Option<Queued> {
    let now = clock::now();
    let about = queued.about();
    let is_doubtful = |token: &Token| {
        let do_others_fail = token.circuit_breaker.has_recent_own_fault(now);
        token.key_breakers.is_doubtful(about.key, about.direction, do_others_fail)
    };
    // If the key's circuit breaker is open, the request need not try the key again.
    let is_known = |token: &Token| token.key_breakers.is_open(about.key, about.direction);
    let is_of_key = scope == FaultScope::Key
        && (queued.attempts >= ATTEMPTS_BEFORE_ATTRIBUTION || is_known(token));
    if queued.attempts < MAX_ATTEMPTS && !fleet.is_stopping() {
        if is_of_key {
            if about.direction.is_none() {
                // Reading the attributes does not count towards any circuit breaker.
                queued.lacking.insert(token.index);
            }
            let doubtful =
                fleet.tokens.iter().filter(|token| is_doubtful(token) || is_known(token));
            queued.lacking = queued.lacking.union(doubtful.map(|token| token.index).collect());
        }
        token.counters.retried.fetch_add(1, Ordering::Relaxed);
        match fleet.reassign(token, queued) {
            Ok(()) => return None,
            Err(back) => queued = back,
        }
        if !queued.lacking.contains(token.index) && token.circuit_breaker.is_usable() {
            return Some(queued);
        }
    }
    answer_with_final_failure(fleet, token, queued, answered);
    None
}

fn answer_with_final_failure(
    fleet: &Fleet,
    token: &Token,
    queued: Queued,
    answered: &mut Vec<Completion>,
) {
    let failure = final_failure(fleet, &queued);
    answered.extend(queued.complete(Err(failure), Some(token.index), 0));
}

/// Handles a ciphertext that `token` rejects with a code that may also mean trouble. Another token
/// is tried, or the same one again, until enough rejections agree; then the ciphertext counts as
/// definitely rejected. Returns the job as [`on_failure`] does.
fn on_suspected_ciphertext(
    fleet: &Fleet,
    token: &Token,
    mut queued: Queued,
    now: Instant,
    answered: &mut Vec<Completion>,
) -> Option<Queued> {
    queued.suspicions += 1;
    queued.suspecting.insert(token.index);
    queued.tried.insert(token.index);
    let is_doubtful = |token: &Token| {
        queued.suspecting.contains(token.index) && token.circuit_breaker.has_recent_fault(now)
    };
    let needed = if fleet.tokens.iter().any(is_doubtful) { MAX_SUSPICIONS } else { SUSPICIONS };
    if queued.suspicions >= needed {
        token.circuit_breaker.record_success(now);
        on_bad_ciphertext(fleet, token, queued, answered);
        return None;
    }
    let queued = match fleet.reassign(token, queued) {
        Ok(()) => return None,
        Err(back) => back,
    };
    if token.circuit_breaker.is_usable() && !fleet.is_stopping() {
        return Some(queued);
    }
    answered.extend(queued.complete(Err(Failure::NoToken), Some(token.index), 0));
    None
}

/// Records that the tokens which rejected a ciphertext were in trouble, since `by` has decrypted
/// it. Tokens whose key differs are excepted.
pub fn record_wrong_suspicions(fleet: &Fleet, by: &Token, queued: &Queued, now: Instant) {
    if queued.suspicions == 0 {
        return;
    }
    let key = queued.job.request.key;
    let is_alone = fleet.tokens.len() == 1;
    if !is_alone && by.backend.key_status(key, None) != KeyStatus::Proven {
        return;
    }
    for token in &fleet.tokens {
        // A token that may hold another key was right to reject it.
        let is_same = || is_alone || token.backend.key_status(key, None) == KeyStatus::Proven;
        if queued.suspecting.contains(token.index) && is_same() {
            token.counters.faults.fetch_add(1, Ordering::Relaxed);
            token.circuit_breaker.record_fault(now);
        }
    }
}

/// Returns the answer to a request that no token could serve. With no usable token it is always
/// `NoToken`, so that requests just before and after an outage begins get the same answer.
/// Otherwise it is the first failure, if any. If there is none, no token in use has the key: it is
/// `KeyNotFound`, or `NoToken` if a token that is out of use may have it.
fn final_failure(fleet: &Fleet, queued: &Queued) -> Failure {
    let mut usable = fleet.tokens.iter().map(|token| token.circuit_breaker.is_usable());
    match queued.failure {
        _ if !usable.clone().any(|is_usable| is_usable) => Failure::NoToken,
        // A token that is out of use may hold the right key.
        Some(Failure::KeysDiffer) if !usable.all(|is_usable| is_usable) => Failure::NoToken,
        Some(failure) => failure,
        None if usable.all(|is_usable| is_usable) => Failure::KeyNotFound,
        None => Failure::NoToken,
    }
}

//! Second attempts at slow calls on other sessions, and moving of jobs that are queued behind such
//! calls.
//!
//! A *hedge* costs the fleet work, so hedges are limited to a percentage of calls. Once a call has
//! used up half of its request's time it is *rescued* regardless of the budget, but only if a
//! session is free for it, so that an overloaded fleet gets no additional work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::config::HedgeAfter;
use super::fleet::Fleet;
use super::in_flight_call::Attempt;
use super::queued::{Queued, key_use};
use super::race::Race;
use super::selection::best_for;
use super::token::Token;
use super::token_set::TokenSet;
use crate::job::Job;
use crate::limits::{
    HEDGE_FACTOR, MIN_HEDGE_AFTER, MIN_MONITOR_TICK, MONITOR_TICK, UNKNOWN_HEDGE_AFTER,
};
use crate::sync::atomic::Ordering;
use crate::sync::clock;

/// Returns the duration after which a call is hedged; `None` if calls are not hedged.
#[must_use]
pub fn after(setting: HedgeAfter, tokens: &[Token]) -> Option<Duration> {
    match setting {
        HedgeAfter::Off => None,
        HedgeAfter::Fixed(after) => Some(after),
        HedgeAfter::Automatic => {
            let usable = tokens.iter().filter(|token| token.circuit_breaker.is_usable());
            let best = usable.filter_map(|token| token.latencies.p90()).min();
            Some(best.map_or(UNKNOWN_HEDGE_AFTER, |p90| (p90 * HEDGE_FACTOR).max(MIN_HEDGE_AFTER)))
        }
    }
}

/// Returns the interval at which calls must be inspected so that they are hedged in time.
#[must_use]
pub fn tick(after: Option<Duration>) -> Duration {
    after.map_or(MONITOR_TICK, |after| (after / 2).clamp(MIN_MONITOR_TICK, MONITOR_TICK))
}

/// Hedges the token's calls that take too long.
pub fn hedge_calls(fleet: &Fleet, token: &Token, now: Instant, after: Duration) {
    for call in token.calls.lock().iter() {
        call.hedge(now, after, |attempt, since| hedge(fleet, token, attempt, since, now));
    }
}

fn hedge(
    fleet: &Fleet,
    token: &Token,
    attempt: &Attempt,
    since: Instant,
    now: Instant,
) -> Option<Arc<Race>> {
    if now >= attempt.deadline || attempt.race.as_ref().is_some_and(|race| race.is_over()) {
        return None;
    }
    let time = attempt.deadline.saturating_duration_since(attempt.queued_at);
    let is_late = now.saturating_duration_since(attempt.queued_at) >= time / 2;
    let is_paid = fleet.hedge_budget.spend();
    if !is_paid && !is_late {
        return None;
    }
    let target = target(fleet, token, attempt, since);
    let race = target.and_then(|target| {
        let race = match &attempt.race {
            Some(race) => {
                race.join();
                Arc::clone(race)
            }
            None => Arc::new(Race::of_two()),
        };
        let job = Job {
            request: Arc::clone(&attempt.request),
            output: Zeroizing::new(Vec::with_capacity(attempt.request.max_output_bytes())),
            reply_to: attempt.reply_to,
            queued_at: attempt.queued_at,
            deadline: attempt.deadline,
        };
        let mut queued = Queued::new(job);
        queued.tried = attempt.tried;
        queued.tried.insert(token.index);
        queued.lacking = attempt.lacking;
        queued.is_hedge = true;
        queued.race = Some(Arc::clone(&race));
        match fleet.push_first(target, queued) {
            Ok(()) => Some(race),
            // The hedge is undone, so that a failure of the first attempt will still be answered.
            Err(_) => {
                race.leave();
                None
            }
        }
    });
    match race {
        Some(_) => {
            token.counters.hedged.fetch_add(1, Ordering::Relaxed);
        }
        None if is_paid => fleet.hedge_budget.refund(),
        None => {}
    }
    race
}

/// Selects a token on which a second attempt is likely to be answered soon: one with an empty
/// queue, or else another session of the same token, if that token has answered other requests
/// since. (A single session may be stuck because its connection or one member of the HSM's own
/// cluster is. If all sessions are slow, another call does not help. The last session is never
/// used: if the request itself hangs, it would hang there too, and other requests need that
/// session.)
fn target<'f>(
    fleet: &'f Fleet,
    token: &'f Token,
    attempt: &Attempt,
    since: Instant,
) -> Option<&'f Token> {
    let is_free = |token: &Token| token.queue.is_empty() && !token.load().is_stalled;
    let key = key_use(&attempt.request);
    let may_hedge = |token: &Token| key.is_none_or(|key| token.hangs.may_hedge(key, since));
    let hanging = fleet.tokens.iter().filter(|token| !may_hedge(token));
    let mut not_these: TokenSet = hanging.map(|token| token.index).collect();
    not_these.insert(token.index);
    let not_these = not_these.union(attempt.tried).union(attempt.lacking);
    let other = best_for(&fleet.tokens, &attempt.request, not_these);
    if let Some(other) = other {
        return is_free(other).then_some(other);
    }
    let answers_others = || token.circuit_breaker.last_success().is_some_and(|then| then > since);
    let is_sole_attempt = attempt.race.is_none();
    let is_good = is_sole_attempt
        && may_hedge(token)
        && token.circuit_breaker.is_usable()
        && is_free(token)
        && token.spare_sessions() > 1
        && answers_others();
    is_good.then_some(token)
}

/// Moves jobs from a stalled token to tokens that are making progress.
pub fn move_stalled_jobs(fleet: &Fleet, token: &Token) {
    if token.queue.is_empty() || !token.load().is_stalled {
        return;
    }
    let gets_on = |other: &Token| {
        other.index != token.index && other.circuit_breaker.is_usable() && !other.load().is_stalled
    };
    if !fleet.tokens.iter().any(gets_on) {
        return;
    }
    let mut kept = Vec::new();
    for queued in token.drain_unexpired(clock::now()) {
        // The job has not been tried here, so it may come back if it fails on the other token.
        let mut not_these = queued.tried.union(queued.lacking);
        not_these.insert(token.index);
        let back = match best_for(&fleet.tokens, &queued.job.request, not_these) {
            Some(other) => fleet.push_first(other, queued),
            None => Err(queued),
        };
        kept.extend(back.err());
    }
    // In reverse order, since each job is put ahead of the previous one.
    for queued in kept.into_iter().rev() {
        fleet.requeue(token, queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval is short enough to hedge in time, and no shorter than is useful.
    #[test]
    fn ticks() {
        assert_eq!(tick(None), MONITOR_TICK);
        assert_eq!(tick(Some(MIN_HEDGE_AFTER)), MIN_HEDGE_AFTER / 2);
        assert_eq!(tick(Some(Duration::from_millis(1))), MIN_MONITOR_TICK);
        assert_eq!(tick(Some(Duration::from_secs(1))), MONITOR_TICK);
    }
}

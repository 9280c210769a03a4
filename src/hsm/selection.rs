//! Selection of the token that gets a job.
//!
//! Tokens are compared by these criteria, in this order: the key is present, and proven to be the
//! same as on the other tokens; the token is not stalled; it has the lowest priority number; it can
//! meet the deadline; it is not half open and busy; the job's wait is shortest; it has the fewest
//! jobs relative to its weight. Among equals the choice is random, in proportion to their weights.

use std::time::{Duration, Instant};

use super::backend::{Direction, KeyStatus};
use super::key_breaker::Admission;
use super::token::{Load, Token};
use super::token_set::TokenSet;
use crate::job::{Failure, Job, KeyIndex, Operation, Request};
use crate::limits::MAX_TOKENS;
use crate::sync::{clock, random};

/// A token that may get jobs during one iteration of an event loop, with its load.
pub struct Candidate<'a> {
    /// The token.
    pub token: &'a Token,
    /// Number of jobs queued in this iteration.
    pub pushed: usize,
    /// True if the job for which it is selected tries a key that the token otherwise does not
    /// serve.
    pub is_trial: bool,
    /// Number of jobs that were waiting before this iteration.
    waiting: usize,
    load: Load,
}

impl<'a> Candidate<'a> {
    /// Creates a candidate with the token's current load.
    #[must_use]
    pub fn of(token: &'a Token) -> Self {
        Self { token, waiting: token.queue.len(), pushed: 0, is_trial: false, load: token.load() }
    }

    fn wait(&self) -> Duration {
        self.load.wait(self.waiting + self.pushed)
    }

    /// Returns whether the queue has room for one more job, and the job would meet its deadline.
    fn is_in_time(&self, wait: Duration, deadline: Instant, now: Instant) -> bool {
        // The wait is increased by half, because it is based on an average, and a job that is
        // accepted but misses its deadline has wasted the others' time. An idle session always
        // accepts a job, however slow the token was before.
        let end = now + wait + wait / 2 + self.load.service * 2;
        (wait.is_zero() || end <= deadline) && self.token.queue.has_room()
    }

    /// Returns why a job that would miss its deadline is rejected: there is too much work, or the
    /// token is making no progress.
    fn too_late(&self) -> Failure {
        match self.token.circuit_breaker.unanswered() {
            Some(_) => Failure::TimedOut,
            None => Failure::Overloaded,
        }
    }

    fn rank(&self, is_in_time: bool, wait: Duration) -> Rank {
        let weight = self.token.share.weight.max(1);
        let outstanding = self.load.outstanding + self.pushed;
        Rank {
            is_stalled: self.load.is_stalled,
            priority: self.token.share.priority,
            is_late: !is_in_time,
            is_half_open: outstanding > 0 && self.token.circuit_breaker.is_half_open(),
            wait: wait / weight,
            outstanding: (u64::try_from(outstanding).unwrap_or(u64::MAX) << 10) / u64::from(weight),
            lot: lot(weight),
        }
    }
}

/// The criteria for comparing tokens, the most important first. The lowest rank is the best.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Rank {
    is_stalled: bool,
    priority: u32,
    is_late: bool,
    is_half_open: bool,
    wait: Duration,
    /// Number of outstanding jobs in relation to the token's weight.
    outstanding: u64,
    lot: f32,
}

/// Returns a random number. Among several tokens, this token's is the lowest with a probability in
/// proportion to its weight: the minimum of exponentially distributed variables.
fn lot(weight: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "24 bits, and a weight of up to 1000")]
    let (number, weight) = ((random() >> 40) as f32, weight as f32);
    -((number + 1.0) / 16_777_217.0).ln() / weight
}

/// The suitability of a token's key for a request; the lowest value is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// The key is the same as on the other tokens, will be tested before it encrypts, or is tested
    /// by the decryption itself.
    Suits,
    /// The key may differ. All encryptions with such a key use the same token: the first one in
    /// use, ordered by trust, priority and position in the settings.
    Unproven { is_untrusted: bool, priority: u32, place: u16 },
    /// The key differs: no other token can decrypt its ciphertexts.
    Differs,
    /// The token does not have the key, or may not use it in this direction.
    Lacks,
}

impl Fit {
    fn of(token: &Token, request: &Request) -> Self {
        let backend = &token.backend;
        match backend.key_status(request.key, Direction::of(&request.operation)) {
            KeyStatus::Proven | KeyStatus::Provable => Self::Suits,
            KeyStatus::Unproven if !is_encryption(request) => Self::Suits,
            // An encryption with a CDIV is verified by a decryption, which is not permitted with
            // this key.
            KeyStatus::Unproven
                if matches!(request.operation, Operation::Encrypt { cdiv: Some(_) })
                    && backend.key_status(request.key, Some(Direction::Decrypt))
                        == KeyStatus::Absent =>
            {
                Self::Lacks
            }
            KeyStatus::Unproven => Self::Unproven {
                is_untrusted: !backend.is_trusted(),
                priority: token.share.priority,
                place: token.index.0,
            },
            KeyStatus::Disagrees => Self::Differs,
            KeyStatus::Absent => Self::Lacks,
        }
    }
}

fn is_encryption(request: &Request) -> bool {
    matches!(request.operation, Operation::Encrypt { .. })
}

/// Returns why an encryption is rejected if the tokens in use hold different keys.
fn keys_differ(tokens: &[Token]) -> Failure {
    // A token that is out of use may hold the right key.
    match tokens.iter().all(|token| token.circuit_breaker.is_usable()) {
        true => Failure::KeysDiffer,
        false => Failure::NoToken,
    }
}

/// Returns whether the token is the one that makes the key's witness: of the tokens in use that may
/// have the key, the trusted one, or else the first.
#[must_use]
pub fn may_make_witness(tokens: &[Token], token: &Token, key: KeyIndex) -> bool {
    let order = |it: &Token| (!it.backend.is_trusted(), it.share.priority, it.index.0);
    let own = order(token);
    let comes_before = |it: &Token| {
        it.circuit_breaker.is_usable()
            && it.backend.key_status(key, Some(Direction::Encrypt)) != KeyStatus::Absent
            && order(it) < own
    };
    !tokens.iter().any(comes_before)
}

/// Selects the token for a new job.
///
/// # Errors
/// Returns why the job is rejected.
pub fn select<'o, 'f>(
    tokens: &[Token],
    candidates: &'o mut [Option<Candidate<'f>>; MAX_TOKENS],
    job: &Job,
    now: Instant,
) -> Result<&'o mut Candidate<'f>, Failure> {
    let is_sole = tokens.len() == 1;
    let mut is_any_usable = false;
    let mut best = None;
    let mut is_too_large = false;
    let mut refused = None;
    for candidate in candidates.iter_mut().flatten() {
        is_any_usable = true;
        if !candidate.token.has_room_for(&job.request) {
            is_too_large = true;
            continue;
        }
        let wait = candidate.wait();
        let is_in_time = candidate.is_in_time(wait, job.deadline, now);
        if candidate.token.has_failing_keys() {
            match candidate.token.admit(&job.request, now, is_in_time) {
                Admission::Admitted => {}
                Admission::Trial => {
                    candidate.is_trial = true;
                    return Ok(candidate);
                }
                Admission::Refused(failure) => {
                    refused = refused.or(Some(failure));
                    continue;
                }
            }
        }
        if is_sole {
            return if is_in_time { Ok(candidate) } else { Err(candidate.too_late()) };
        }
        let fit = Fit::of(candidate.token, &job.request);
        if fit == Fit::Differs && is_encryption(&job.request) {
            refused = refused.or(Some(keys_differ(tokens)));
            continue;
        }
        let rank = (fit, candidate.rank(is_in_time, wait));
        if best.as_ref().is_none_or(|(best_rank, _)| rank < *best_rank) {
            best = Some((rank, candidate));
        }
    }
    match (best, refused) {
        // The only token known to have the key does not serve it.
        (Some(((Fit::Lacks, _), _)), Some(failure)) => Err(failure),
        (Some(((_, rank), candidate)), _) if !rank.is_late => Ok(candidate),
        (Some((_, candidate)), _) => Err(candidate.too_late()),
        (None, Some(failure)) => Err(failure),
        (None, None) if is_too_large => Err(Failure::TooLarge),
        (None, None) if is_any_usable => Err(Failure::Overloaded),
        (None, None) => Err(Failure::NoToken),
    }
}

/// Selects the token for another attempt at a request: usable, serving the key, and not in
/// `not_these`. A token that lacks the key is selected only if no token is known to have it.
#[must_use]
pub fn best_for<'f>(
    tokens: &'f [Token],
    request: &Request,
    not_these: TokenSet,
) -> Option<&'f Token> {
    let now = clock::now();
    let serves_key = |token: &Token| {
        !token.has_failing_keys()
            || !matches!(token.admit(request, now, false), Admission::Refused(_))
    };
    let is_proven_somewhere = || {
        let mut usable = tokens.iter().filter(|token| token.circuit_breaker.is_usable());
        usable.any(|token| Fit::of(token, request) == Fit::Suits)
    };
    let may_do = |token: &Token| {
        !is_encryption(request)
            || match Fit::of(token, request) {
                Fit::Suits | Fit::Lacks => true,
                Fit::Differs => false,
                // Nothing would reveal whether this key differs from the proven ones.
                Fit::Unproven { .. } => {
                    !token.backend.is_untestable(request.key) || !is_proven_somewhere()
                }
            }
    };
    let usable = || {
        tokens.iter().filter(|token| {
            token.circuit_breaker.is_usable()
                && token.has_room_for(request)
                && serves_key(token)
                && may_do(token)
        })
    };
    let has_key = |token: &Token| Fit::of(token, request) != Fit::Lacks;
    let is_anywhere = usable().any(has_key);
    let mut best = None;
    for token in usable() {
        if not_these.contains(token.index) || (is_anywhere && !has_key(token)) {
            continue;
        }
        let candidate = Candidate::of(token);
        let rank = (Fit::of(token, request), candidate.rank(true, candidate.wait()));
        if best.as_ref().is_none_or(|(best_rank, _)| rank < *best_rank) {
            best = Some((rank, token));
        }
    }
    best.map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two idle tokens, one with three times the weight of the other gets three in four jobs.
    #[test]
    fn lots_follow_weights() {
        let heavy = (0..40_000).filter(|_| lot(3) < lot(1)).count();
        assert!((29_000..31_000).contains(&heavy), "{heavy}");
    }

    /// The order of the criteria.
    #[test]
    fn order() {
        let rank = Rank {
            is_stalled: false,
            priority: 1,
            is_late: false,
            is_half_open: false,
            wait: Duration::ZERO,
            outstanding: 0,
            lot: 0.5,
        };
        let better_first = [
            Rank { priority: 0, is_late: true, ..rank },
            Rank { lot: 0.1, ..rank },
            rank,
            Rank { outstanding: 1, lot: 0.1, ..rank },
            Rank { wait: Duration::from_nanos(1), ..rank },
            Rank { is_half_open: true, ..rank },
            Rank { is_late: true, ..rank },
            Rank { is_stalled: true, priority: 0, ..rank },
        ];
        assert!(better_first.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

//! A job that is queued or being performed, with the history of its attempts.

use std::sync::Arc;

use super::backend::{Direction, Failed, KeyUse};
use super::race::Race;
use super::token_set::TokenSet;
use crate::job::{Completion, Failure, Job, Request, Success, TokenIndex};

/// A job with the history of its attempts.
pub struct Queued {
    /// The current attempt.
    pub job: Job,
    /// Number of failed attempts.
    pub attempts: u8,
    /// Tokens that have failed at it; reset once all of them have.
    pub tried: TokenSet,
    /// Tokens that lack the key, or refuse this kind of operation.
    pub lacking: TokenSet,
    /// Number of times that the ciphertext was suspected to be bad.
    pub suspicions: u8,
    /// Tokens that suspect the ciphertext to be bad.
    pub suspecting: TokenSet,
    /// Microseconds in the HSM so far.
    pub hsm_micros: u32,
    /// The first failure that was a token's fault; or [`Failure::InvalidCiphertext`], if a token
    /// with a proven key has definitely rejected the ciphertext.
    pub failure: Option<Failure>,
    /// The race with other attempts at the same request, if there are any.
    pub race: Option<Arc<Race>>,
    /// True if this is a second attempt at a slow call.
    pub is_hedge: bool,
    /// True if this job tries a key that does not work, and so is not deferred.
    pub is_trial: bool,
    /// True if a session was reopened because of this job.
    pub has_reopened: bool,
    /// True if the job must pause before its next attempt, because the latest fault was not the
    /// key's.
    pub backs_off: bool,
}

impl Queued {
    /// Returns whether another attempt has answered the request.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.race.as_ref().is_some_and(|race| race.is_over())
    }

    /// Returns the key and direction; `None` if only the key's attributes are read.
    #[must_use]
    pub fn key_use(&self) -> Option<KeyUse> {
        key_use(&self.job.request)
    }

    /// Returns the key, and the direction if there is one.
    #[must_use]
    pub fn about(&self) -> Failed {
        let request = &self.job.request;
        Failed { key: request.key, direction: Direction::of(&request.operation) }
    }

    /// Creates a job that has not been tried.
    #[must_use]
    pub fn new(job: Job) -> Self {
        Self {
            job,
            attempts: 0,
            tried: TokenSet::EMPTY,
            lacking: TokenSet::EMPTY,
            suspicions: 0,
            suspecting: TokenSet::EMPTY,
            hsm_micros: 0,
            failure: None,
            race: None,
            is_hedge: false,
            is_trial: false,
            has_reopened: false,
            backs_off: false,
        }
    }

    /// Ends this attempt. Returns the answer to the request, unless another attempt has given it or
    /// may do better; then this attempt's output is zeroed. The request is released before the
    /// answer is sent, so that the event loop can reuse its memory.
    #[must_use]
    pub fn complete(
        self,
        outcome: Result<Success, Failure>,
        token: Option<TokenIndex>,
        queue_micros: u32,
    ) -> Option<Completion> {
        if self.race.is_some_and(|race| !race.finish(&outcome)) {
            return None;
        }
        let Job { output, reply_to, .. } = self.job;
        Some(Completion {
            reply_to,
            outcome,
            output,
            token,
            queue_micros,
            hsm_micros: self.hsm_micros,
        })
    }
}

/// Returns the request's key and direction; `None` if it only reads the key's attributes.
#[must_use]
pub fn key_use(request: &Request) -> Option<KeyUse> {
    Direction::of(&request.operation).map(|direction| (request.key, direction))
}

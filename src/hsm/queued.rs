//! A job while it waits or is at work, and what has been tried so far.

use std::sync::Arc;

use super::backend::{Direction, Failed, KeyUse};
use super::race::Race;
use super::token_set::TokenSet;
use crate::job::{Completion, Failure, Job, Request, Success, TokenIndex};

/// A job, and what has been tried so far.
pub struct Queued {
    /// The attempt at hand.
    pub job: Job,
    /// Attempts that failed.
    pub attempts: u8,
    /// Tokens that failed at it, until all have.
    pub tried: TokenSet,
    /// Tokens that lack the key, or refuse such an operation.
    pub lacking: TokenSet,
    /// Times that the ciphertext was held to be bad.
    pub suspicions: u8,
    /// Tokens that held the ciphertext to be bad.
    pub suspecting: TokenSet,
    /// Microseconds in the HSM so far.
    pub hsm_micros: u32,
    /// The first failure that was a token's fault; that the ciphertext is bad, if a token whose
    /// key is proven is sure of it.
    pub failure: Option<Failure>,
    /// The other attempts at the same request, if there are any.
    pub race: Option<Arc<Race>>,
    /// It was not the first attempt.
    pub is_hedge: bool,
    /// It tries a key that hangs, so it waits for no share of the sessions.
    pub is_trial: bool,
    /// A session was opened again for its sake.
    pub has_reopened: bool,
    /// The latest failure was not the key's: the token is to have a moment before the next attempt.
    pub backs_off: bool,
}

impl Queued {
    /// Whether another attempt has answered the request.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.race.as_ref().is_some_and(|race| race.is_over())
    }

    /// Its key and direction; `None` if only the key's attributes are asked for.
    #[must_use]
    pub fn key_use(&self) -> Option<KeyUse> {
        key_use(&self.job.request)
    }

    /// Which key it is about, and in which direction.
    #[must_use]
    pub fn about(&self) -> Failed {
        let request = &self.job.request;
        Failed { key: request.key, direction: Direction::of(&request.operation) }
    }

    /// Nothing was tried yet.
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

    /// Ends this attempt. Returns the answer to the request, unless another attempt has given it
    /// or may do better; then this one's output is zeroed. The request is released before the
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

/// The request's key and direction; `None` if it only asks for the key's attributes.
#[must_use]
pub fn key_use(request: &Request) -> Option<KeyUse> {
    Direction::of(&request.operation).map(|direction| (request.key, direction))
}

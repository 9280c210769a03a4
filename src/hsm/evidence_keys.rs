//! The keys for known-good operations: only those that neither fail nor hang themselves. The
//! monitor can see which key is in use, so that it can attribute a hang to that key.

use std::time::Duration;

use super::backend::{Direction, KeyChoice};
use super::in_flight_call::InFlightCall;
use super::token::Token;
use crate::job::KeyIndex;

/// The keys that one call may use.
pub struct MonitoredKeys<'a> {
    /// The token.
    pub token: &'a Token,
    /// The thread's call.
    pub call: &'a InFlightCall,
    /// The direction in which the keys are used.
    pub direction: Direction,
    /// Maximum duration of an operation with a configured key, after which the call counts as
    /// hanging; `None` stands for the call's own limit.
    pub max: Option<Duration>,
}

impl KeyChoice for MonitoredKeys<'_> {
    fn may_use(&self, key: KeyIndex) -> bool {
        self.token.is_key_sound(key)
    }

    fn uses(&self, key: Option<KeyIndex>) {
        self.call.uses(key.map(|key| (key, self.direction)), self.max.filter(|_| key.is_some()));
    }
}

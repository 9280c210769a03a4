//! The keys that known-good operations use: none that fails or hangs itself, and each under the
//! monitor's eyes, so that one that hangs is known.

use std::time::Duration;

use super::backend::{Direction, KeyChoice};
use super::in_flight_call::InFlightCall;
use super::token::Token;
use crate::job::KeyIndex;

/// The choice of one call.
pub struct MonitoredKeys<'a> {
    /// Whose keys.
    pub token: &'a Token,
    /// The thread's call.
    pub call: &'a InFlightCall,
    /// The direction in which the keys are used.
    pub direction: Direction,
    /// An operation with one of the configured keys hangs if it lasts longer; `None`: the call's
    /// own limit.
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

//! The health checker's session. Each call into it is visible to the monitor, which abandons the
//! call if it hangs.

use std::time::Duration;

use super::backend::{Direction, Fault, KeyUse, Session};
use super::evidence_keys::MonitoredKeys;
use super::in_flight_call::{End, InFlightCall};
use super::token::Token;
use crate::limits::{MAX_HEALTH_CHECK, MAX_MAINTENANCE_CALL};
use crate::sync::clock;

/// Indicates that a call was abandoned and its thread must end. Contains the key that the call was
/// counted for, if any.
pub struct Abandoned(pub Option<KeyUse>);

/// The reason why a call returned no result.
pub enum CallError {
    /// The call was abandoned.
    Abandoned(Abandoned),
    /// The call failed.
    Fault(Fault),
}

impl From<Abandoned> for CallError {
    fn from(abandoned: Abandoned) -> Self {
        Self::Abandoned(abandoned)
    }
}

/// A session with a token, which may be closed.
pub struct MonitoredSession<'a> {
    token: &'a Token,
    call: &'a InFlightCall,
    session: Option<Box<dyn Session>>,
}

impl<'a> MonitoredSession<'a> {
    /// Creates a closed session; `call` is registered with the monitor.
    #[must_use]
    pub fn new(token: &'a Token, call: &'a InFlightCall) -> Self {
        Self { token, call, session: None }
    }

    /// Returns whether the session is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Takes over a session that has been opened.
    pub fn set(&mut self, session: Box<dyn Session>) {
        self.session = Some(session);
    }

    /// Makes a call, which counts as hanging if it takes longer than `max`.
    ///
    /// # Errors
    /// Returns [`Abandoned`] if the call hung.
    pub fn call<T>(
        &mut self,
        max: Duration,
        call: impl FnOnce(&mut Option<Box<dyn Session>>, MonitoredKeys<'_>) -> T,
    ) -> Result<T, Abandoned> {
        let now = clock::now();
        let (token, direction) = (self.token, Direction::Decrypt);
        let keys = MonitoredKeys { token, call: self.call, direction, max: Some(MAX_HEALTH_CHECK) };
        self.call.begin(now, now + max, false);
        let result = call(&mut self.session, keys);
        match self.call.end() {
            (End::InTime | End::Stalled, _) => Ok(result),
            (End::Abandoned, key) => Err(Abandoned(key)),
        }
    }

    /// Makes a call that may fail, like [`Self::call`].
    ///
    /// # Errors
    /// Returns [`CallError`] if the call failed or hung.
    pub fn try_call<T>(
        &mut self,
        max: Duration,
        call: impl FnOnce(&mut Option<Box<dyn Session>>, MonitoredKeys<'_>) -> Result<T, Fault>,
    ) -> Result<T, CallError> {
        self.call(max, call)?.map_err(CallError::Fault)
    }

    /// Closes the session, if it is open.
    ///
    /// # Errors
    /// Returns [`Abandoned`] if closing it hung.
    pub fn close(&mut self) -> Result<(), Abandoned> {
        let Some(session) = self.session.take() else { return Ok(()) };
        self.call(MAX_MAINTENANCE_CALL, |_, _| drop(session))
    }

    /// Closes the session after a fault of the session or the token.
    ///
    /// # Errors
    /// Returns [`Abandoned`] if closing it hung.
    pub fn close_broken(&mut self, fault: &Fault) -> Result<(), Abandoned> {
        if let Some(session) = &mut self.session {
            session.on_broken(fault);
        }
        self.close()
    }
}

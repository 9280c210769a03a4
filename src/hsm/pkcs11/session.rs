//! A logged-in session of a token, as a [`Session`].

use std::sync::Arc;

use super::calls::Calls;
use super::module::Entry;
use super::native_session::NativeSession;
use super::opened::Opened;
use super::shared::Shared;
use super::trouble::{NO_SESSION, is_reconnection};
use crate::hsm::backend::{Direction, Evidence, Failed, Fault, Health, KeyChoice, Proof, Session};
use crate::job::{KeyIndex, Request, Success};

/// A logged-in session of a token.
pub struct Pkcs11Session {
    token: Arc<Shared>,
    calls: Calls,
}

impl Pkcs11Session {
    /// Wraps an open session, which is closed on drop.
    pub(super) fn new(token: Arc<Shared>, session: NativeSession, opened: Opened) -> Self {
        token.module.session_opened();
        let calls = Calls::new(session, opened);
        Self { token, calls }
    }

    /// Returns the PKCS#11 session. The caller must hold an [`Entry`] of the session's generation.
    pub(super) fn native(&self) -> Option<&NativeSession> {
        self.calls.session.as_ref()
    }

    /// Enters the module for calls on [`Self::native`]. Returns `None` if the module has been
    /// initialised again.
    pub(super) fn enter(&self) -> Option<Entry<'_>> {
        self.token.module.enter_session(self.calls.opened.generation)
    }

    /// Makes calls on the session, unless the module has been initialised again since the session
    /// was opened.
    pub(super) fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Calls, &Shared) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // After a C_Finalize the handle may belong to another session; no C_Finalize can happen
        // while the entry is held.
        let Some(_entry) = self.token.module.enter_session(self.calls.opened.generation) else {
            return Err(NO_SESSION);
        };
        work(&mut self.calls, &self.token)
    }
}

impl Session for Pkcs11Session {
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault> {
        let result = self.call(|calls, token| calls.perform(token, request, output));
        if result.is_err() {
            output.clear();
        }
        result
    }

    fn check_health(&mut self, keys: &dyn KeyChoice) -> Result<Health, Fault> {
        self.call(|calls, token| calls.check_health(token, keys))
    }

    fn known_good(&mut self, failed: Failed, keys: &dyn KeyChoice) -> Evidence {
        let found = self.call(|calls, token| Ok(calls.known_good_elsewhere(token, failed, keys)));
        found.unwrap_or(Evidence::Failed)
    }

    fn try_configured_key(&mut self, keys: &dyn KeyChoice) -> Evidence {
        let found = self.call(|calls, token| {
            Ok(calls.configured_keys_work(token, Direction::Decrypt, [None; 2], keys))
        });
        found.unwrap_or(Evidence::Failed)
    }

    fn try_key(&mut self, key: KeyIndex, direction: Direction) -> Evidence {
        let found = self.call(|calls, token| Ok(calls.key_works(token, key, direction)));
        found.unwrap_or(Evidence::Failed)
    }

    fn prove_next(
        &mut self,
        may_make: &dyn Fn(KeyIndex) -> bool,
        keys: &dyn KeyChoice,
    ) -> Option<Proof> {
        self.call(|calls, token| Ok(calls.prove_next(token, may_make, keys))).unwrap_or(None)
    }

    fn prove(&mut self, key: KeyIndex) -> Proof {
        let proof = self.call(|calls, token| Ok(calls.prove_by_index(token, key)));
        proof.unwrap_or_else(|fault| Proof::Unproven(fault.failure.to_string()))
    }

    fn on_broken(&mut self, fault: &Fault) {
        if is_reconnection(fault) {
            self.token.keys.forget();
        }
    }

    fn token_is_present(&mut self) -> Result<(), Fault> {
        self.call(|calls, token| calls.token_is_present(token))
    }

    fn refresh_keys(&mut self) -> Result<(), Fault> {
        self.call(|calls, token| calls.refresh_keys(token))
    }
}

impl Drop for Pkcs11Session {
    fn drop(&mut self) {
        let session = self.calls.session.take();
        if let (Some(session), Some(_entry)) =
            (session, self.token.module.enter_session(self.calls.opened.generation))
        {
            // The session is gone even if this fails.
            let _ = session.close();
        }
        self.token.module.session_closed();
    }
}

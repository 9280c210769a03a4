//! Makes keys on the tokens of a fleet, for an operator.

use std::sync::Arc;

use cryptoki_sys::CKF_WRITE_PROTECTED;

pub use super::calls::{MadeKey, NewKey, NotMade};
use super::codes;
use super::labels::Labels;
use super::session::Pkcs11Session;
use super::token::Pkcs11Token;
use crate::hsm::backend::{Backend as _, Identity};
use crate::hsm::config::TokenConfig;
use crate::hsm::witness::Member;
use crate::job::TokenIndex;
use crate::key_name::KeyName;

/// A session with each token of a fleet. Nothing else uses the tokens, so no other thread logs in.
pub struct KeyMaker {
    tokens: Vec<OpenToken>,
}

/// A token with a session. The session is closed before the token.
struct OpenToken {
    session: Pkcs11Session,
    token: Pkcs11Token,
}

impl KeyMaker {
    /// Opens a session with each token, and logs in.
    ///
    /// # Errors
    /// Returns the reason, for the operator, why a token cannot be used.
    pub fn open(configs: &[TokenConfig]) -> Result<Self, String> {
        let labels = Arc::new(Labels::new(Vec::new(), true, None, Vec::new()));
        let in_use = Arc::default();
        let open = |(index, config): (TokenIndex, &TokenConfig)| {
            let member = Member { fleet: 0, index };
            let (labels, in_use) = (Arc::clone(&labels), Arc::clone(&in_use));
            let token = Pkcs11Token::new(config.clone(), member, labels, Arc::default(), in_use)
                .map_err(|error| error.to_string())?;
            let session = token.open_session().map_err(|error| {
                format!("token {:?}: {}", token.identity().label, error.reason())
            })?;
            Ok(OpenToken { session, token })
        };
        let tokens: Result<_, String> = (0..).map(TokenIndex).zip(configs).map(open).collect();
        Ok(Self { tokens: tokens? })
    }

    /// Returns the tokens' identities, in the order of the settings.
    #[must_use]
    pub fn identities(&self) -> Vec<Identity> {
        self.tokens.iter().map(|open| open.token.identity()).collect()
    }

    /// Returns whether that token says that it is write-protected.
    #[must_use]
    pub fn is_write_protected(&self, token: usize) -> bool {
        let Some(OpenToken { token, .. }) = self.tokens.get(token) else { return false };
        let shared = token.shared();
        let Some((_, slot)) = shared.chosen.read().slot else { return false };
        shared.module.raw.token_info(slot).is_ok_and(|info| info.flags & CKF_WRITE_PROTECTED != 0)
    }

    /// Returns the first token that has an object with that name.
    ///
    /// # Errors
    /// Returns the reason, for the operator, why a token cannot be searched.
    pub fn find(&mut self, name: &KeyName<'_>) -> Result<Option<Identity>, String> {
        for OpenToken { session, token } in &mut self.tokens {
            let told = |why: String| format!("token {:?}: {why}", token.identity().label);
            let found = session
                .call(|calls, _| Ok(calls.has_object(name)))
                .map_err(|fault| told(fault.failure.to_string()))?;
            if found.map_err(|error| told(codes::describe_error(&error)))? {
                return Ok(Some(token.identity()));
            }
        }
        Ok(None)
    }

    /// Makes a key on that token and tests it. A key that fails the test is destroyed.
    ///
    /// # Errors
    /// Returns [`NotMade`], with what is left on the token.
    pub fn make(&mut self, token: usize, key: &NewKey) -> Result<MadeKey, NotMade> {
        let unmade = |reason: String| NotMade { reason, left: "Nothing was made.".to_owned() };
        let Some(OpenToken { session, .. }) = self.tokens.get_mut(token) else {
            return Err(unmade("there is no such token".to_owned()));
        };
        let made = session.call(|calls, token| Ok(calls.make_key(token, key)));
        made.unwrap_or_else(|fault| Err(unmade(fault.failure.to_string())))
    }
}

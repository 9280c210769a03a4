//! The calls made in one session: the operations of requests, and the checks that support them.

mod evidence;
mod health_check;
mod lost_keys;
mod make_key;
mod operations;
mod own_handle;
mod prove;

use cryptoki_sys::CKR_USER_NOT_LOGGED_IN;
use zeroize::Zeroizing;

use super::gcm::IvStock;
use super::known_good::{KnownGood, SessionKey};
use super::native_session::NativeSession;
use super::opened::Opened;
use super::own_handles::OwnHandles;
use super::shared::Shared;
use super::trouble::{NO_SESSION, fault_of};
use crate::hsm::backend::{Blame, Fault};
pub use make_key::{MadeKey, NewKey, NotMade};

/// A session's own state, kept apart from the token's so that both can be borrowed.
pub(super) struct Calls {
    pub(super) session: Option<NativeSession>,
    pub(super) opened: Opened,
    pub(super) ivs: IvStock,
    /// The plaintext of a verifying decryption, zeroed after each use.
    pub(super) scratch: Zeroizing<Vec<u8>>,
    pub(super) known_good: Option<KnownGood>,
    /// A ciphertext made with another key, used to attribute faults.
    pub(super) evidence: Option<KnownGood>,
    pub(super) session_key: SessionKey,
    own_handles: OwnHandles,
}

impl Calls {
    pub(super) fn new(session: NativeSession, opened: Opened) -> Self {
        Self {
            session: Some(session),
            opened,
            ivs: IvStock::new(),
            scratch: Zeroizing::new(Vec::new()),
            known_good: None,
            evidence: None,
            session_key: SessionKey::Untried,
            own_handles: OwnHandles::default(),
        }
    }

    pub(super) fn session(&self) -> Result<&NativeSession, Fault> {
        self.session.as_ref().ok_or(NO_SESSION)
    }

    fn require_login(&self, token: &Shared) -> Result<(), Fault> {
        if token.login.is_needed() && token.login_rules().is_required {
            match self.session()?.is_logged_in() {
                Ok(true) => {}
                Ok(false) | Err(_) => {
                    return Err(fault_of(CKR_USER_NOT_LOGGED_IN, Blame::Session));
                }
            }
        }
        Ok(())
    }
}

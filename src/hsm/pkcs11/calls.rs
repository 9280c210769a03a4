//! The calls that are made on one session.

mod evidence;
mod health_check;
mod lost_keys;
mod operations;
mod prove;

use cryptoki_sys::CKR_USER_NOT_LOGGED_IN;
use zeroize::Zeroizing;

use super::gcm::IvStock;
use super::known_good::{KnownGood, ProbeKey};
use super::login;
use super::native_session::NativeSession;
use super::opened::Opened;
use super::shared::Shared;
use super::trouble::{NO_SESSION, fault_of};
use crate::hsm::backend::{Blame, Fault};

/// The session proper, apart from the token so that both can be borrowed.
pub(super) struct Calls {
    pub(super) session: Option<NativeSession>,
    pub(super) opened: Opened,
    pub(super) ivs: IvStock,
    /// Plaintexts of verifying decryptions; wiped after each.
    pub(super) scratch: Zeroizing<Vec<u8>>,
    pub(super) known_good: Option<KnownGood>,
    /// A ciphertext of another key's, by which faults are charged.
    pub(super) evidence: Option<KnownGood>,
    pub(super) probe_key: ProbeKey,
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
            probe_key: ProbeKey::Untried,
        }
    }

    pub(super) fn session(&self) -> Result<&NativeSession, Fault> {
        self.session.as_ref().ok_or(NO_SESSION)
    }

    fn require_login(&self, token: &Shared) -> Result<(), Fault> {
        if token.login.is_needed() && token.login_rules().is_required {
            match login::is_logged_in(self.session()?) {
                Ok(true) => {}
                Ok(false) | Err(_) => {
                    return Err(fault_of(CKR_USER_NOT_LOGGED_IN, Blame::Session));
                }
            }
        }
        Ok(())
    }
}

//! Health checks: operations whose results are known in advance.

use cryptoki_sys::*;
use zeroize::{Zeroize as _, Zeroizing};

use super::Calls;
use crate::hsm::backend::{AnyKey, Blame, Fault, Health, KeyChoice};
use crate::hsm::config::IvMode;
use crate::hsm::pkcs11::keys::Key;
use crate::hsm::pkcs11::known_good::{KNOWN_PLAINTEXT, KnownGood, SessionKey};
use crate::hsm::pkcs11::native::{Attribute, RawError};
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::{NO_SESSION, Trouble, fault_of, fault_of_class, malformed};
use crate::job::{Failure, Iv, KeyIndex};

impl Calls {
    /// Checks with a known-good operation that the token, this session and this key work. If they
    /// do not, returns a fault with `code`, the ambiguous code that led to this check.
    pub fn known_good(
        &mut self,
        token: &Shared,
        index: KeyIndex,
        key: &Key,
        code: CK_RV,
    ) -> Result<(), Trouble> {
        // A session in which the failed operation is still active is no evidence about the token.
        let broken = |fault: Fault| {
            let blame = if fault.blame == Blame::Session { fault.blame } else { Blame::Token };
            Trouble::from(fault_of(code, blame))
        };
        if !(key.attributes.encrypt && key.attributes.decrypt) {
            return self.check_health(token, &AnyKey).map(drop).map_err(broken);
        }
        if let Some(known) = self.known_good.take_if(|known| known.handle == key.handle) {
            let result = self.decrypts_to_known(token, key.handle, &known.iv, &known.ciphertext);
            if result.is_ok() {
                self.known_good = Some(known);
                return Ok(());
            }
        }
        let mut ciphertext = Vec::new();
        let counted = (Some(index), key.handle);
        match self.encrypt_bytes(token, counted, &[], &KNOWN_PLAINTEXT, &mut ciphertext) {
            Ok(iv) => {
                self.decrypts_to_known(token, key.handle, &iv, &ciphertext).map_err(broken)?;
                self.known_good = Some(KnownGood { handle: key.handle, iv, ciphertext });
                Ok(())
            }
            Err(Trouble::StaleHandle(stale)) => Err(Trouble::StaleHandle(stale)),
            Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                self.check_health(token, &AnyKey).map(drop).map_err(broken)
            }
            Err(Trouble::Fault(fault)) => Err(broken(fault)),
        }
    }

    pub fn decrypts_to_known(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        iv: &Iv,
        ciphertext: &[u8],
    ) -> Result<(), Fault> {
        let handle = self.own_handle(token, handle).map_err(|trouble| match trouble {
            Trouble::Fault(fault) => fault,
            Trouble::StaleHandle(code) => fault_of_class(code),
        })?;
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let result = token.decrypt(session, handle, iv, &[], ciphertext, &mut self.scratch);
        let is_same = self.scratch.as_slice() == KNOWN_PLAINTEXT;
        self.scratch.zeroize();
        match result {
            Ok(()) if is_same => Ok(()),
            Err(RawError::Init(code) | RawError::Operation(code)) => Err(fault_of_class(code)),
            Ok(()) | Err(RawError::Malformed) => Err(malformed()),
        }
    }

    /// Checks the token with the first of these that is available: the health key, the session's
    /// own key, or keys that requests name. If none is, checks random bytes and the session's
    /// state.
    ///
    /// One key that works is enough: if another one fails, the fault is attributed to that key.
    pub fn check_health(&mut self, token: &Shared, keys: &dyn KeyChoice) -> Result<Health, Fault> {
        self.require_login(token)?;
        let mut fault = None;
        if let Some((index, key)) = token.keys.health_key()
            && keys.may_use(index)
        {
            keys.uses(Some(index));
            match self.check_with(token, index, &key) {
                Ok(Some(health)) => return Ok(health),
                Ok(None) => {}
                Err(trouble) => fault = Some(trouble),
            }
        }
        keys.uses(None);
        match self.check_with_session_key(token) {
            Ok(true) => return Ok(Health::Good),
            Ok(false) => {}
            Err(trouble) => fault = Some(trouble),
        }
        for (index, key) in token.keys.for_health_check(&|key| keys.may_use(key)) {
            keys.uses(Some(index));
            match self.check_with(token, index, &key) {
                Ok(Some(health)) => return Ok(health),
                Ok(None) => {}
                Err(trouble) => fault = Some(trouble),
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        keys.uses(None);
        let mut random = Zeroizing::new([0; 16]);
        self.session()?.generate_random_slice(&mut *random).map_err(|error| token.fault(&error))?;
        self.session()?.is_logged_in().map_err(|error| token.fault(&error))?;
        if let SessionKey::Untried = self.session_key {
            self.require_login(token)?;
            self.session_key = SessionKey::Refused;
            token.notice_no_session_keys();
        }
        Ok(Health::Good)
    }

    /// Performs a round trip with the session's own key. Returns false if the token makes no such
    /// key.
    fn check_with_session_key(&mut self, token: &Shared) -> Result<bool, Fault> {
        if let SessionKey::Untried = self.session_key
            && let Some(handle) = self.make_session_key(token)?
        {
            self.session_key = SessionKey::Made(handle);
        }
        let SessionKey::Made(handle) = self.session_key else { return Ok(false) };
        let mut ciphertext = Vec::new();
        let counted = (None, handle);
        match self.encrypt_bytes(token, counted, &[], &KNOWN_PLAINTEXT, &mut ciphertext) {
            Ok(iv) => {
                self.decrypts_to_known(token, handle, &iv, &ciphertext)?;
                Ok(true)
            }
            // AES-GCM does not work with this key, or not with these parameters.
            Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                self.session_key = SessionKey::Refused;
                Ok(false)
            }
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::StaleHandle(code)) => Err(fault_of(code, Blame::Session)),
        }
    }

    /// Performs a round trip with a configured key. Returns `None` if this is no evidence about the
    /// token.
    fn check_with(
        &mut self,
        token: &Shared,
        index: KeyIndex,
        key: &Key,
    ) -> Result<Option<Health>, Fault> {
        let mut ciphertext = Vec::new();
        let counted = (Some(index), key.handle);
        match self.encrypt_bytes(token, counted, &[], &KNOWN_PLAINTEXT, &mut ciphertext) {
            Ok(_) if !key.attributes.decrypt => Ok(Some(Health::Good)),
            Ok(iv) => match self.decrypts_to_known(token, key.handle, &iv, &ciphertext) {
                Ok(()) => {
                    let handle = key.handle;
                    *token.sample.lock() = Some(KnownGood { handle, iv, ciphertext });
                    Ok(Some(Health::Good))
                }
                Err(Fault { blame: Blame::Request, .. }) => Ok(None),
                Err(fault) => Err(fault),
            },
            Err(Trouble::Fault(Fault {
                failure: failure @ (Failure::Pkcs11(_) | Failure::Malformed),
                blame: Blame::Request,
            })) => Ok(Some(Health::CannotEncrypt(advice(failure, token.config.iv_mode)))),
            Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => Ok(None),
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::StaleHandle(_)) => {
                self.forget_own_handle(index);
                token.keys.mark_stale();
                Ok(None)
            }
        }
    }

    /// Makes a session key. Returns `None` if the token makes none. No code distinguishes a refusal
    /// from a failure: a token that requires a card may report that nobody is logged in, or that no
    /// token is present. Other operations must show whether the token works.
    pub fn make_session_key(&self, token: &Shared) -> Result<Option<CK_OBJECT_HANDLE>, Fault> {
        let template = [
            Attribute::Flag(CKA_TOKEN, CK_FALSE),
            Attribute::Number(CKA_VALUE_LEN, 32),
            Attribute::Flag(CKA_SENSITIVE, CK_TRUE),
            Attribute::Flag(CKA_EXTRACTABLE, CK_FALSE),
            Attribute::Flag(CKA_ENCRYPT, CK_TRUE),
            Attribute::Flag(CKA_DECRYPT, CK_TRUE),
        ];
        let made = self.session()?.generate_aes_key(&template);
        Ok(made.inspect_err(|error| token.count(error)).ok())
    }
}

/// Returns advice for the operator of a token that does not encrypt in the configured way.
fn advice(failure: Failure, iv_mode: IvMode) -> String {
    let said = match iv_mode {
        IvMode::Random => "can_generate_iv = false",
        IvMode::ZeroedBuffer => "can_generate_iv = true, is_zero_iv_required = true",
        IvMode::Appended => "can_generate_iv = true, is_zero_iv_required = false",
    };
    format!(
        "encryption fails: {failure}. [hsm_capabilities] says {said}, by its own members or by \
        its profile, which may be for another HSM: `xks-proxy probe-hsm` finds the right values"
    )
}

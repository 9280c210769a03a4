//! Whether a session works: operations whose outcome is known.

use cryptoki_sys::*;
use zeroize::{Zeroize as _, Zeroizing};

use super::Calls;
use crate::hsm::backend::{AnyKey, Blame, Fault, Health, KeyChoice};
use crate::hsm::config::IvMode;
use crate::hsm::pkcs11::keys::Key;
use crate::hsm::pkcs11::known_good::{KnownGood, PROBE_PLAINTEXT, ProbeKey};
use crate::hsm::pkcs11::native::{Attribute, RawError};
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::{Trouble, fault_of, fault_of_class, malformed};
use crate::job::{Failure, Iv};

impl Calls {
    /// Finds out whether the token, this session and this key work. Fails with `code`, the one
    /// that made one ask, if they don't.
    pub fn known_good(&mut self, token: &Shared, key: &Key, code: CK_RV) -> Result<(), Trouble> {
        // A session in which the failed operation is still active tells nothing of the token.
        let broken = |fault: Fault| {
            let blame = if fault.blame == Blame::Session { fault.blame } else { Blame::Token };
            Trouble::from(fault_of(code, blame))
        };
        if !(key.attributes.encrypt && key.attributes.decrypt) {
            return self.probe(token, &AnyKey).map(drop).map_err(broken);
        }
        if let Some(known) = self.known_good.take_if(|known| known.handle == key.handle) {
            let result = self.decrypts_to_probe(token, key.handle, &known.iv, &known.ciphertext);
            if result.is_ok() {
                self.known_good = Some(known);
                return Ok(());
            }
        }
        let mut ciphertext = Vec::new();
        let aad = &[];
        match self.encrypt_bytes(token, key.handle, aad, &PROBE_PLAINTEXT, &mut ciphertext) {
            Ok(iv) => {
                self.decrypts_to_probe(token, key.handle, &iv, &ciphertext).map_err(broken)?;
                self.known_good = Some(KnownGood { handle: key.handle, iv, ciphertext });
                Ok(())
            }
            Err(Trouble::StaleHandle(stale)) => Err(Trouble::StaleHandle(stale)),
            Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                self.probe(token, &AnyKey).map(drop).map_err(broken)
            }
            Err(Trouble::Fault(fault)) => Err(broken(fault)),
        }
    }

    pub fn decrypts_to_probe(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        iv: &Iv,
        ciphertext: &[u8],
    ) -> Result<(), Fault> {
        let session = self.session.as_ref();
        let result = token.decrypt(session, handle, iv, &[], ciphertext, &mut self.scratch)?;
        let is_same = self.scratch.as_slice() == PROBE_PLAINTEXT;
        self.scratch.zeroize();
        match result {
            Ok(()) if is_same => Ok(()),
            Err(RawError::Init(code) | RawError::Operation(code)) => Err(fault_of_class(code)),
            Ok(()) | Err(RawError::Malformed) => Err(malformed()),
        }
    }

    /// A known-good operation with the health key; where there is none, with a key of the
    /// session's own; where that is not to be had, with keys that requests name; and where there
    /// is none of those either, random bytes and the session's state.
    ///
    /// One key that works is enough: a fault that the others do not show is that key's.
    pub fn probe(&mut self, token: &Shared, keys: &dyn KeyChoice) -> Result<Health, Fault> {
        self.require_login(token)?;
        let mut fault = None;
        if let Some((index, key)) = token.keys.health_key()
            && keys.may_use(index)
        {
            keys.uses(Some(index));
            match self.probe_with(token, &key) {
                Ok(Some(probed)) => return Ok(probed),
                Ok(None) => {}
                Err(trouble) => fault = Some(trouble),
            }
        }
        keys.uses(None);
        match self.probe_with_session_key(token) {
            Ok(true) => return Ok(Health::Good),
            Ok(false) => {}
            Err(trouble) => fault = Some(trouble),
        }
        for (index, key) in token.keys.to_probe_with(&|key| keys.may_use(key)) {
            keys.uses(Some(index));
            match self.probe_with(token, &key) {
                Ok(Some(probed)) => return Ok(probed),
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
        if let ProbeKey::Untried = self.probe_key {
            self.require_login(token)?;
            self.probe_key = ProbeKey::Refused;
            token.notice_no_session_keys();
        }
        Ok(Health::Good)
    }

    /// Whether a round trip with a key of the session's own was made; false if there is none to
    /// be had.
    fn probe_with_session_key(&mut self, token: &Shared) -> Result<bool, Fault> {
        if let ProbeKey::Untried = self.probe_key
            && let Some(handle) = self.make_probe_key(token)?
        {
            self.probe_key = ProbeKey::Made(handle);
        }
        let ProbeKey::Made(handle) = self.probe_key else { return Ok(false) };
        let mut ciphertext = Vec::new();
        match self.encrypt_bytes(token, handle, &[], &PROBE_PLAINTEXT, &mut ciphertext) {
            Ok(iv) => {
                self.decrypts_to_probe(token, handle, &iv, &ciphertext)?;
                Ok(true)
            }
            // AES-GCM is not to be had with this key, or not in this way.
            Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                self.probe_key = ProbeKey::Refused;
                Ok(false)
            }
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::StaleHandle(code)) => Err(fault_of(code, Blame::Session)),
        }
    }

    /// With a key that requests name; `None` if this key tells nothing of the token.
    fn probe_with(&mut self, token: &Shared, key: &Key) -> Result<Option<Health>, Fault> {
        let mut ciphertext = Vec::new();
        match self.encrypt_bytes(token, key.handle, &[], &PROBE_PLAINTEXT, &mut ciphertext) {
            Ok(_) if !key.attributes.decrypt => Ok(Some(Health::Good)),
            Ok(iv) => match self.decrypts_to_probe(token, key.handle, &iv, &ciphertext) {
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
                token.keys.suspect();
                Ok(None)
            }
        }
    }

    /// `None` if the token made none. No code tells a refusal from trouble: a token that wants a
    /// card may say that nobody is logged in, or that there is no token. What else it does tells.
    pub fn make_probe_key(&self, token: &Shared) -> Result<Option<CK_OBJECT_HANDLE>, Fault> {
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

/// What an operator can do about a token that does not encrypt in the way that the settings say.
fn advice(failure: Failure, iv_mode: IvMode) -> String {
    let said = match iv_mode {
        IvMode::Random => "can_generate_iv = false",
        IvMode::ZeroedBuffer => "can_generate_iv = true, is_zero_iv_required = true",
        IvMode::Appended => "can_generate_iv = true, is_zero_iv_required = false",
    };
    format!(
        "encryption fails: {failure}. [hsm_capabilities] says {said}, by its own members or by \
         its profile, and may be another HSM's: `xks-proxy probe-hsm` finds out what is right"
    )
}

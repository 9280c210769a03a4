//! One session: AES-GCM operations in as few calls as it can be, and what their failures mean.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session as CryptokiSession;
use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_RV, CKR_ARGUMENTS_BAD, CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_MECHANISM_PARAM_INVALID, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID,
    CKR_USER_NOT_LOGGED_IN,
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::codes::{self, Class};
use super::ffi::RawError;
use super::gcm::{IvStock, NoIv, given_iv};
use super::keys::Key;
use super::login;
use super::module::{Entry, Generation};
use super::token::Shared;
use crate::hsm::backend::{Blame, Fault, Session};
use crate::job::{Failure, Iv, KeyIndex, Operation, Request, Success};
use crate::limits::{AMBIGUOUS_CODE_REPEATS, GCM_IV_BYTES, GCM_TAG_BYTES};

/// What probes and known-good operations encrypt.
const PROBE_PLAINTEXT: [u8; 32] = *b"xks-proxy probes this HSM's work";

/// The module was initialised anew, or is being so: this session is of the past.
const NO_SESSION: Fault = fault_of(CKR_CRYPTOKI_NOT_INITIALIZED, Blame::Session);

/// A logged-in session of a token.
pub struct Pkcs11Session {
    token: Arc<Shared>,
    generation: Generation,
    calls: Calls,
}

/// The session proper, apart from the token so that both can be borrowed.
struct Calls {
    session: Option<CryptokiSession>,
    ivs: IvStock,
    /// Plaintexts of verifying decryptions; wiped after each.
    scratch: Zeroizing<Vec<u8>>,
    known_good: Option<KnownGood>,
    probe_key: ProbeKey,
}

/// A ciphertext that this session has decrypted with the key before.
struct KnownGood {
    handle: CK_OBJECT_HANDLE,
    iv: Iv,
    ciphertext: Vec<u8>,
}

/// An AES key that lives as long as the session.
#[derive(Clone, Copy)]
enum ProbeKey {
    Untried,
    Made(CK_OBJECT_HANDLE),
    /// The token makes none, which is no sign of ill health: a FIPS 140 level 3 nShield world
    /// wants a card for that.
    Refused,
}

/// A failure, before the stale handles are told from the rest.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    StaleHandle(CK_RV),
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Pkcs11Session {
    /// Takes a session over; it is closed when this is dropped.
    pub(super) fn new(
        token: Arc<Shared>,
        session: CryptokiSession,
        generation: Generation,
    ) -> Self {
        token.module.session_opened();
        let calls = Calls {
            session: Some(session),
            ivs: IvStock::new(),
            scratch: Zeroizing::new(Vec::new()),
            known_good: None,
            probe_key: ProbeKey::Untried,
        };
        Self { token, generation, calls }
    }

    /// For calls through `cryptoki`. The caller holds an entry of this session's generation.
    pub(super) fn cryptoki(&self) -> Option<&CryptokiSession> {
        self.calls.session.as_ref()
    }

    /// For calls on [`Self::cryptoki`]; `None` if the module was initialised anew since.
    pub(super) fn enter(&self) -> Option<Entry<'_>> {
        self.token.module.enter_session(self.generation)
    }

    fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Calls, &Shared) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // While the entry is held there is no C_Finalize; if there was one, the handle may by now
        // be another session's.
        let Some(_entry) = self.token.module.enter_session(self.generation) else {
            return Err(NO_SESSION);
        };
        let result = work(&mut self.calls, &self.token);
        if let Err(fault) = &result
            && is_reconnection(fault)
        {
            self.token.keys.forget();
        }
        result
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

    fn probe(&mut self) -> Result<(), Fault> {
        self.call(Calls::probe)
    }

    fn refresh_keys(&mut self) -> Result<(), Fault> {
        self.call(|calls, token| {
            calls.require_login(token)?;
            token.keys.refresh(calls.session()?).map_err(|error| fault_of_error(&error))
        })
    }
}

impl Drop for Pkcs11Session {
    fn drop(&mut self) {
        let session = self.calls.session.take();
        if let (Some(session), Some(_entry)) =
            (session, self.token.module.enter_session(self.generation))
        {
            // What it answers does not matter: the session is gone either way.
            let _ = session.close();
        }
        self.token.module.session_gone();
    }
}

impl Calls {
    fn session(&self) -> Result<&CryptokiSession, Fault> {
        self.session.as_ref().ok_or(NO_SESSION)
    }

    fn perform(
        &mut self,
        token: &Shared,
        request: &Request,
        output: &mut Vec<u8>,
    ) -> Result<Success, Fault> {
        let key = match token.keys.get(request.key) {
            Some(key) => key,
            None => self.look_up(token, request.key)?,
        };
        match self.attempt(token, &key, request, output) {
            Ok(success) => Ok(success),
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::StaleHandle(_)) => {
                let key = token
                    .keys
                    .replace(self.session()?, request.key, key.handle)
                    .map_err(|error| fault_of_error(&error))?;
                let Some(key) = key else { return Err(self.not_found(token)) };
                self.attempt(token, &key, request, output).map_err(|trouble| match trouble {
                    Trouble::Fault(fault) => fault,
                    // A handle just found is not stale: the session is.
                    Trouble::StaleHandle(code) => fault_of(code, Blame::Session),
                })
            }
        }
    }

    fn look_up(&mut self, token: &Shared, key: KeyIndex) -> Result<Key, Fault> {
        if token.keys.may_look_up(key, Instant::now())
            && let Some(key) =
                token.keys.look_up(self.session()?, key).map_err(|error| fault_of_error(&error))?
        {
            return Ok(key);
        }
        Err(self.not_found(token))
    }

    /// A token that lost its login shows no private keys: that is no key missing.
    fn not_found(&self, token: &Shared) -> Fault {
        match self.require_login(token) {
            Ok(()) => Fault { failure: Failure::KeyNotFound, blame: Blame::Key },
            Err(fault) => fault,
        }
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

    fn attempt(
        &mut self,
        token: &Shared,
        key: &Key,
        request: &Request,
        output: &mut Vec<u8>,
    ) -> Result<Success, Trouble> {
        if key.count > 1 && !token.keys.labels().allow_ambiguous {
            return Err(Fault::answer(Failure::KeyAmbiguous(key.count)).into());
        }
        match &request.operation {
            Operation::Describe => Ok(Success::Described(key.attributes)),
            Operation::Encrypt { .. } if !key.attributes.encrypt => {
                Err(Fault::answer(Failure::MayNotEncrypt).into())
            }
            Operation::Encrypt { cdiv: None } => {
                let iv = self.encrypt(token, key.handle, request, output)?;
                encrypted(iv, None, output)
            }
            Operation::Encrypt { cdiv: Some(_) } | Operation::Decrypt { .. }
                if !key.attributes.decrypt =>
            {
                Err(Fault::answer(Failure::MayNotDecrypt).into())
            }
            Operation::Encrypt { cdiv: Some(prefix) } => {
                self.encrypt_with_cdiv(token, key, request, prefix, output)
            }
            Operation::Decrypt { iv } => self.decrypt(token, key, request, iv, output),
        }
    }

    /// `output` is ciphertext and tag afterwards.
    fn encrypt(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        request: &Request,
        output: &mut Vec<u8>,
    ) -> Result<Iv, Trouble> {
        self.encrypt_bytes(token, handle, request.aad.as_slice(), &request.input, output)
    }

    fn encrypt_bytes(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        aad: &[u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Iv, Trouble> {
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let mode = token.config.iv_mode;
        let mut iv = mode.prepare(|| self.ivs.take(session)).map_err(|no_iv| match no_iv {
            NoIv::Code(Some(code)) => fault_of_class(code),
            NoIv::Code(None) | NoIv::NotRandom => {
                Fault { failure: Failure::Malformed, blame: Blame::Token }
            }
        })?;
        let raw = &token.module.raw;
        raw.encrypt(session.handle(), handle, &mut iv, aad, plaintext, output).map_err(
            |error| match error {
                RawError::Init(code) | RawError::Operation(code) => {
                    trouble_of(code, Failure::MayNotEncrypt)
                }
                RawError::Malformed => malformed().into(),
            },
        )?;
        // Wrong length, or no IV: the profile of this HSM is not what the settings say.
        mode.finish(&iv, plaintext.len(), output).ok_or(Fault::answer(Failure::Malformed).into())
    }

    fn encrypt_with_cdiv(
        &mut self,
        token: &Shared,
        key: &Key,
        request: &Request,
        prefix: &Sha256,
        output: &mut Vec<u8>,
    ) -> Result<Success, Trouble> {
        for _ in 0..2 {
            let iv = self.encrypt(token, key.handle, request, output)?;
            // The hash is of what C_Encrypt gave, before anything else touches it.
            let mut hash = prefix.clone();
            hash.update(iv.as_slice());
            hash.update(&*output);
            let cdiv = hash.finalize().into();
            if self.verifies(token, key, request, &iv, output)? {
                return encrypted(iv, Some(cdiv), output);
            }
            token.cdiv_mismatches.fetch_add(1, Ordering::Relaxed);
        }
        Err(Fault::answer(Failure::CdivMismatch).into())
    }

    /// Whether the token decrypts what it has encrypted to the same plaintext.
    fn verifies(
        &mut self,
        token: &Shared,
        key: &Key,
        request: &Request,
        iv: &Iv,
        encrypted: &[u8],
    ) -> Result<bool, Trouble> {
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let mut parameter = given_iv(iv);
        let result = token.module.raw.decrypt(
            session.handle(),
            key.handle,
            &mut parameter,
            request.aad.as_slice(),
            encrypted,
            &mut self.scratch,
        );
        let is_same = bool::from(self.scratch.ct_eq(&request.input));
        self.scratch.zeroize();
        match result {
            Ok(()) => Ok(is_same),
            Err(RawError::Operation(code)) => match codes::class(code) {
                Class::BadCiphertext => Ok(false),
                Class::Ambiguous | Class::AmbiguousRequest => {
                    self.known_good(token, key, code)?;
                    Ok(false)
                }
                _ => Err(trouble_of(code, Failure::MayNotDecrypt)),
            },
            Err(RawError::Init(code)) => Err(trouble_of(code, Failure::MayNotDecrypt)),
            Err(RawError::Malformed) => Err(malformed().into()),
        }
    }

    fn decrypt(
        &mut self,
        token: &Shared,
        key: &Key,
        request: &Request,
        iv: &Iv,
        output: &mut Vec<u8>,
    ) -> Result<Success, Trouble> {
        let invalid = Err(Fault::answer(Failure::InvalidCiphertext).into());
        let Some(plaintext_bytes) = request.input.len().checked_sub(GCM_TAG_BYTES) else {
            return invalid;
        };
        for _ in 0..AMBIGUOUS_CODE_REPEATS {
            let session = self.session.as_ref().ok_or(NO_SESSION)?;
            let mut parameter = given_iv(iv);
            let result = token.module.raw.decrypt(
                session.handle(),
                key.handle,
                &mut parameter,
                request.aad.as_slice(),
                &request.input,
                output,
            );
            match result {
                Ok(()) if output.len() == plaintext_bytes => return Ok(Success::Decrypted),
                Ok(()) | Err(RawError::Malformed) => return Err(malformed().into()),
                // The token knows no such IV, so it has not made this ciphertext.
                Err(RawError::Init(CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD))
                    if iv.as_slice().len() != GCM_IV_BYTES =>
                {
                    return invalid;
                }
                Err(RawError::Init(code)) => {
                    return Err(trouble_of(code, Failure::MayNotDecrypt));
                }
                Err(RawError::Operation(code)) => match codes::class(code) {
                    Class::BadCiphertext => return invalid,
                    // It may be the device that is in trouble, or too busy. If a good ciphertext
                    // passes and this one fails, again and again, then it is this one.
                    Class::Ambiguous | Class::AmbiguousRequest => {
                        self.known_good(token, key, code)?;
                    }
                    _ => return Err(trouble_of(code, Failure::MayNotDecrypt)),
                },
            }
        }
        invalid
    }

    /// Finds out whether the token, this session and this key work. Fails with `code`, the one
    /// that made one ask, if they don't.
    fn known_good(&mut self, token: &Shared, key: &Key, code: CK_RV) -> Result<(), Trouble> {
        // A session in which the failed operation is still active tells nothing of the token.
        let broken = |fault: Fault| {
            let blame = if fault.blame == Blame::Session { fault.blame } else { Blame::Token };
            Trouble::from(fault_of(code, blame))
        };
        if !(key.attributes.encrypt && key.attributes.decrypt) {
            return self.probe(token).map_err(broken);
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
                self.probe(token).map_err(broken)
            }
            Err(Trouble::Fault(fault)) => Err(broken(fault)),
        }
    }

    fn decrypts_to_probe(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        iv: &Iv,
        ciphertext: &[u8],
    ) -> Result<(), Fault> {
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let mut parameter = given_iv(iv);
        let raw = &token.module.raw;
        let result = raw.decrypt(
            session.handle(),
            handle,
            &mut parameter,
            &[],
            ciphertext,
            &mut self.scratch,
        );
        let is_same = self.scratch.as_slice() == PROBE_PLAINTEXT;
        self.scratch.zeroize();
        match result {
            Ok(()) if is_same => Ok(()),
            Err(RawError::Init(code) | RawError::Operation(code)) => Err(fault_of_class(code)),
            Ok(()) | Err(RawError::Malformed) => Err(malformed()),
        }
    }

    /// A known-good operation with a key of the session's own; where the token makes none, random
    /// bytes and the session's state.
    fn probe(&mut self, token: &Shared) -> Result<(), Fault> {
        self.require_login(token)?;
        if let ProbeKey::Untried = self.probe_key {
            self.probe_key = self.make_probe_key()?;
        }
        if let ProbeKey::Made(handle) = self.probe_key {
            let mut ciphertext = Vec::new();
            match self.encrypt_bytes(token, handle, &[], &PROBE_PLAINTEXT, &mut ciphertext) {
                Ok(iv) => return self.decrypts_to_probe(token, handle, &iv, &ciphertext),
                // AES-GCM with this key is not to be had: then not.
                Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                    self.probe_key = ProbeKey::Refused;
                }
                Err(Trouble::Fault(fault)) => return Err(fault),
                Err(Trouble::StaleHandle(code)) => return Err(fault_of(code, Blame::Session)),
            }
        }
        let mut random = Zeroizing::new([0; 16]);
        self.session()?
            .generate_random_slice(&mut *random)
            .map_err(|error| fault_of_error(&error))?;
        self.session()?.get_session_info().map_err(|error| fault_of_error(&error))?;
        Ok(())
    }

    fn make_probe_key(&self) -> Result<ProbeKey, Fault> {
        let template = [
            Attribute::Token(false),
            Attribute::ValueLen(cryptoki::types::Ulong::new(32)),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        match self.session()?.generate_key(&Mechanism::AesKeyGen, &template) {
            Ok(key) => Ok(ProbeKey::Made(key.handle())),
            Err(error) => match codes::code_of(&error).map(codes::class) {
                Some(Class::Session | Class::Login | Class::Token | Class::Module) => {
                    Err(fault_of_error(&error))
                }
                _ => Ok(ProbeKey::Refused),
            },
        }
    }
}

/// Whether after this failure the token is reached anew, and its handles may be others.
fn is_reconnection(fault: &Fault) -> bool {
    match fault.failure {
        Failure::Pkcs11(CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED) => true,
        Failure::Pkcs11(code) => {
            matches!(codes::class(code), Class::Login | Class::Token | Class::Module)
        }
        _ => false,
    }
}

/// Splits `output`, ciphertext and tag, into the two.
fn encrypted(iv: Iv, cdiv: Option<[u8; 32]>, output: &mut Vec<u8>) -> Result<Success, Trouble> {
    let Some((_, &tag)) = output.split_last_chunk::<GCM_TAG_BYTES>() else {
        return Err(malformed().into());
    };
    output.truncate(output.len() - GCM_TAG_BYTES);
    Ok(Success::Encrypted { iv, tag, cdiv })
}

/// The module broke PKCS#11; an operation may still be active in the session.
const fn malformed() -> Fault {
    Fault { failure: Failure::Malformed, blame: Blame::Session }
}

const fn fault_of(code: CK_RV, blame: Blame) -> Fault {
    Fault { failure: Failure::Pkcs11(code), blame }
}

/// What a code means from any function but C_Decrypt.
fn fault_of_class(code: CK_RV) -> Fault {
    let blame = match codes::class(code) {
        Class::Ambiguous | Class::Token | Class::Module | Class::Pin => Blame::Token,
        Class::Session | Class::Login | Class::KeyHandle => Blame::Session,
        Class::Busy => Blame::Busy,
        Class::BadCiphertext | Class::AmbiguousRequest | Class::Request | Class::KeyUsage => {
            Blame::Request
        }
    };
    fault_of(code, blame)
}

fn fault_of_error(error: &Error) -> Fault {
    codes::code_of(error).map_or(malformed(), fault_of_class)
}

fn trouble_of(code: CK_RV, may_not: Failure) -> Trouble {
    match codes::class(code) {
        Class::KeyHandle => Trouble::StaleHandle(code),
        Class::KeyUsage => Trouble::Fault(Fault::answer(may_not)),
        _ => Trouble::Fault(fault_of_class(code)),
    }
}

//! AES-GCM operations in as few calls as possible, and the interpretation of their failures.

use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use super::Calls;
use crate::hsm::backend::{Blame, Fault};
use crate::hsm::config::IvMode;
use crate::hsm::pkcs11::codes::Class;
use crate::hsm::pkcs11::gcm::NoIv;
use crate::hsm::pkcs11::keys::Key;
use crate::hsm::pkcs11::native::RawError;
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::{
    NO_SESSION, Trouble, fault_of, fault_of_class, malformed, trouble_of,
};
use crate::hsm::usage::LimitReached;
use crate::job::{Failure, Iv, KeyIndex, Operation, Request, Success};
use crate::limits::{GCM_IV_BYTES, GCM_TAG_BYTES};

impl Calls {
    pub fn perform(
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
            Err(Trouble::StaleHandle(code)) => {
                self.forget_own_handle(request.key);
                if !token.keys.may_replace(request.key, key.handle, Instant::now()) {
                    return Err(fault_of(code, Blame::Session));
                }
                let key = token
                    .keys
                    .replace(self.session()?, request.key, key.handle)
                    .map_err(|error| token.fault(&error))?;
                let Some(key) = key else { return Err(self.not_found(token, request.key)) };
                self.attempt(token, &key, request, output).map_err(|trouble| match trouble {
                    Trouble::Fault(fault) => fault,
                    // A handle that was just found is not stale. A test with another key will show
                    // whether the session or the key is at fault.
                    Trouble::StaleHandle(code) => {
                        token.keys.refused(request.key, key.handle, Instant::now());
                        fault_of(code, Blame::Session)
                    }
                })
            }
        }
    }

    fn look_up(&mut self, token: &Shared, key: KeyIndex) -> Result<Key, Fault> {
        if token.keys.may_look_up(key, Instant::now())
            && let Some(key) =
                token.keys.look_up(self.session()?, key).map_err(|error| token.fault(&error))?
        {
            return Ok(key);
        }
        Err(self.not_found(token, key))
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
                self.require_proof(token, request.key, key)?;
                let iv = self.encrypt(token, key.handle, request, output)?;
                encrypted(iv, None, output)
            }
            Operation::Encrypt { cdiv: Some(_) } | Operation::Decrypt { .. }
                if !key.attributes.decrypt =>
            {
                Err(Fault::answer(Failure::MayNotDecrypt).into())
            }
            Operation::Encrypt { cdiv: Some(prefix) } => {
                self.require_proof(token, request.key, key)?;
                self.encrypt_with_cdiv(token, key, request, prefix, output)
            }
            Operation::Decrypt { iv } => self.decrypt(token, key, request, iv, output),
        }
    }

    /// Encrypts the request. Afterwards `output` holds ciphertext and tag.
    fn encrypt(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        request: &Request,
        output: &mut Vec<u8>,
    ) -> Result<Iv, Trouble> {
        let usage = token.keys.labels().usage();
        let count = || usage.encrypts_for_request(request.key);
        let (aad, plaintext) = (request.aad.as_slice(), &request.input);
        self.encrypt_once(token, handle, count, aad, plaintext, output)
    }

    /// Encrypts for the proxy itself. `key` is the key's index, or `None` for a session key, whose
    /// uses do not count.
    pub fn encrypt_bytes(
        &mut self,
        token: &Shared,
        (key, handle): (Option<KeyIndex>, CK_OBJECT_HANDLE),
        aad: &[u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Iv, Trouble> {
        let usage = token.keys.labels().usage();
        let count = || {
            key.inspect(|key| usage.encrypts(*key));
            Ok(())
        };
        self.encrypt_once(token, handle, count, aad, plaintext, output)
    }

    /// Calls C_EncryptInit and C_Encrypt once. `count` counts this, and may refuse it.
    fn encrypt_once(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        count: impl FnOnce() -> Result<(), LimitReached>,
        aad: &[u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Iv, Trouble> {
        let handle = self.own_handle(token, handle)?;
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let mode = token.config.iv_mode;
        let mut iv = mode.prepare(|| self.ivs.take(session, &token.iv_batches)).map_err(
            |no_iv| match no_iv {
                NoIv::Code(Some(code)) => {
                    token.codes.count(code);
                    fault_of_class(code)
                }
                NoIv::Code(None) | NoIv::NotRandom | NoIv::NoSystemRandom => {
                    Fault { failure: Failure::Malformed, blame: Blame::Token }
                }
            },
        )?;
        if mode == IvMode::Appended && token.config.rules.appended_iv_bits != 0 {
            iv.bits = token.config.rules.appended_iv_bits;
        }
        let raw = &token.module.raw;
        let form = token.config.rules.form;
        count().map_err(|LimitReached(limit)| Fault::answer(Failure::LimitReached(limit)))?;
        let result =
            raw.encrypt(form, session.handle(), handle, &mut iv, aad, plaintext, output, || {});
        token.counted(result).map_err(|error| match error {
            RawError::Init(code) | RawError::Operation(code) => {
                trouble_of(code, Failure::MayNotEncrypt)
            }
            RawError::Malformed => malformed().into(),
        })?;
        // A wrong length or a missing IV means that the settings do not fit this HSM.
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
        let iv = self.encrypt(token, key.handle, request, output)?;
        // The hash covers the output of C_Encrypt before anything else can change it.
        let mut hash = prefix.clone();
        hash.update(iv.as_slice());
        hash.update(&*output);
        let cdiv = hash.finalize().into();
        if self.verifies(token, key, request, &iv, output)? {
            return encrypted(iv, Some(cdiv), output);
        }
        token.cdiv_mismatches.fetch_add(1, Ordering::Relaxed);
        // Another token may succeed, and this one is marked as having failed.
        Err(Fault { failure: Failure::CdivMismatch, blame: Blame::Busy }.into())
    }

    /// Returns whether the token decrypts its own ciphertext to the same plaintext.
    fn verifies(
        &mut self,
        token: &Shared,
        key: &Key,
        request: &Request,
        iv: &Iv,
        encrypted: &[u8],
    ) -> Result<bool, Trouble> {
        let handle = self.own_handle(token, key.handle)?;
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let aad = request.aad.as_slice();
        let result = token.decrypt(session, handle, iv, aad, encrypted, &mut self.scratch);
        let is_same = bool::from(self.scratch.ct_eq(&request.input));
        self.scratch.zeroize();
        match result {
            Ok(()) => Ok(is_same),
            Err(RawError::Operation(code)) => match token.class_of_decrypt(code) {
                Class::BadCiphertext => Ok(false),
                Class::Ambiguous | Class::AmbiguousRequest => {
                    self.known_good(token, request.key, key, code)?;
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
        let handle = self.own_handle(token, key.handle)?;
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let aad = request.aad.as_slice();
        token.keys.labels().usage().decrypts(request.key);
        let result = token.decrypt(session, handle, iv, aad, &request.input, output);
        match result {
            Ok(()) if output.len() == plaintext_bytes => Ok(Success::Decrypted),
            Ok(()) | Err(RawError::Malformed) => Err(malformed().into()),
            // The token does not support such an IV, so it cannot have made this ciphertext.
            Err(RawError::Init(CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD))
                if iv.as_slice().len() != GCM_IV_BYTES =>
            {
                invalid
            }
            Err(RawError::Init(code)) => Err(trouble_of(code, Failure::MayNotDecrypt)),
            Err(RawError::Operation(code)) => match token.class_of_decrypt(code) {
                Class::BadCiphertext => {
                    self.try_before_refusal(token, request.key, key);
                    invalid
                }
                // The device may be failing or too busy. The ciphertext is at fault only if it
                // fails repeatedly while a known-good one decrypts.
                Class::Ambiguous | Class::AmbiguousRequest => {
                    self.known_good(token, request.key, key, code)?;
                    self.try_before_refusal(token, request.key, key);
                    let failure = Failure::InvalidCiphertext;
                    Err(Fault { failure, blame: Blame::Suspect }.into())
                }
                _ => Err(trouble_of(code, Failure::MayNotDecrypt)),
            },
        }
    }
}

/// Splits `output` into ciphertext and tag.
fn encrypted(iv: Iv, cdiv: Option<[u8; 32]>, output: &mut Vec<u8>) -> Result<Success, Trouble> {
    let Some((_, &tag)) = output.split_last_chunk::<GCM_TAG_BYTES>() else {
        return Err(malformed().into());
    };
    output.truncate(output.len() - GCM_TAG_BYTES);
    Ok(Success::Encrypted { iv, tag, cdiv })
}

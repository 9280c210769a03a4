//! Evidence for the attribution of faults: known-good operations with keys other than the one that
//! failed.

use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::Calls;
use crate::hsm::backend::{Blame, Direction, Evidence, Failed, Fault, KeyChoice};
use crate::hsm::pkcs11::known_good::{KNOWN_PLAINTEXT, KnownGood, SessionKey};
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::Trouble;
use crate::job::KeyIndex;
use crate::limits::MAX_EVIDENCE_KEYS;

/// Indicates that the token does not know the handle.
struct Stale;

impl Calls {
    /// Performs known-good operations in the direction that failed, with the health key, the
    /// session's own key, and other configured keys, until one succeeds.
    ///
    /// A token with a single key and no session keys is judged by that key's other direction, if
    /// possible.
    pub fn known_good_elsewhere(
        &mut self,
        token: &Shared,
        failed: Failed,
        keys: &dyn KeyChoice,
    ) -> Evidence {
        // Session keys are public objects, which work without a login.
        if self.require_login(token).is_err() {
            return Evidence::Failed;
        }
        let direction = failed.direction.unwrap_or(Direction::Encrypt);
        let mut evidence = Evidence::Unavailable;
        let health_key = token.keys.health_key().map(|found| found.0);
        if let Some(index) = health_key
            && index != failed.key
            && keys.may_use(index)
        {
            keys.uses(Some(index));
            evidence = evidence.or(self.key_works(token, index, direction));
        }
        // The session's own key is no evidence for a token that has lost its stored keys.
        if evidence != Evidence::Passed && token.missed.keys() == 0 {
            keys.uses(None);
            if let Some(handle) = self.ensure_session_key(token) {
                let works = self.works(token, (None, handle), direction);
                evidence = evidence.or(works.unwrap_or(Evidence::Failed));
            }
        }
        if evidence != Evidence::Passed {
            let not_these = [Some(failed.key), health_key];
            let works = self.configured_keys_work(token, direction, not_these, keys);
            evidence = evidence.or(works);
        }
        if evidence == Evidence::Unavailable {
            keys.uses(Some(failed.key));
            evidence = self.other_direction_works(token, failed);
        }
        evidence
    }

    /// Tries a few configured keys other than `not_these`, different ones each time, until one
    /// works.
    pub fn configured_keys_work(
        &mut self,
        token: &Shared,
        direction: Direction,
        not_these: [Option<KeyIndex>; 2],
        keys: &dyn KeyChoice,
    ) -> Evidence {
        let may_use = |index| !not_these.contains(&Some(index)) && keys.may_use(index);
        if token.keys.is_unknown() {
            self.look_a_few_up(token, &may_use);
        }
        let mut evidence = Evidence::Unavailable;
        for (index, _) in token.keys.some_for_evidence(MAX_EVIDENCE_KEYS, &may_use) {
            keys.uses(Some(index));
            evidence = evidence.or(self.key_works(token, index, direction));
            if evidence == Evidence::Passed {
                break;
            }
        }
        evidence
    }

    /// Looks up a few keys, since no handle is known right after a reconnection. Failures are
    /// ignored here, since they show when a key is used.
    fn look_a_few_up(&self, token: &Shared, may_use: &dyn Fn(KeyIndex) -> bool) {
        let Ok(session) = self.session() else { return };
        let labels = u32::try_from(token.keys.labels().now().all().len()).unwrap_or(u32::MAX);
        let indices = (0..labels).map(KeyIndex).filter(|index| may_use(*index));
        for index in indices.take(MAX_EVIDENCE_KEYS) {
            let _ = token.keys.look_up(session, index);
        }
    }

    /// Returns the session's own key, which is made at the first call, if the token makes session
    /// keys.
    fn ensure_session_key(&mut self, token: &Shared) -> Option<CK_OBJECT_HANDLE> {
        if let SessionKey::Made(handle) = self.session_key {
            return Some(handle);
        }
        if matches!(self.session_key, SessionKey::Refused) || token.refuses_session_keys() {
            return None;
        }
        let handle = self.make_session_key(token).ok()??;
        self.session_key = SessionKey::Made(handle);
        Some(handle)
    }

    /// Performs a known-good operation with that key. If its handle is stale, looks the key up
    /// again.
    pub fn key_works(&mut self, token: &Shared, index: KeyIndex, direction: Direction) -> Evidence {
        let Some(key) = token.keys.get(index) else { return Evidence::Unavailable };
        match self.works(token, (Some(index), key.handle), direction) {
            Err(Stale) if token.keys.may_replace(index, key.handle, Instant::now()) => {
                self.forget_own_handle(index);
                let session = self.session().ok();
                let found = session.and_then(|it| token.keys.replace(it, index, key.handle).ok());
                let Some(Some(found)) = found else { return Evidence::Failed };
                self.works(token, (Some(index), found.handle), direction)
                    .unwrap_or(Evidence::Failed)
            }
            result => result.unwrap_or(Evidence::Failed),
        }
    }

    /// Performs a known-good operation with that handle. There is no evidence if the key may not be
    /// used in this direction, or cannot make the ciphertext that is to be decrypted.
    fn works(
        &mut self,
        token: &Shared,
        (key, handle): (Option<KeyIndex>, CK_OBJECT_HANDLE),
        direction: Direction,
    ) -> Result<Evidence, Stale> {
        let known = self.evidence.take_if(|known| known.handle == handle);
        let known = match (direction, known) {
            (Direction::Decrypt, Some(known)) => known,
            (Direction::Encrypt, _) | (Direction::Decrypt, None) => {
                let mut ciphertext = Vec::new();
                match self.encrypt_bytes(
                    token,
                    (key, handle),
                    &[],
                    &KNOWN_PLAINTEXT,
                    &mut ciphertext,
                ) {
                    Ok(iv) => KnownGood { handle, iv, ciphertext },
                    Err(Trouble::StaleHandle(_)) => return Err(Stale),
                    Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                        return Ok(Evidence::Unavailable);
                    }
                    Err(Trouble::Fault(_)) => return Ok(Evidence::Failed),
                }
            }
        };
        // An encryption counts as successful only once its output decrypts, since the token may
        // compute a wrong result.
        match self.decrypts_to_known(token, handle, &known.iv, &known.ciphertext) {
            Ok(()) => {
                self.evidence = Some(known);
                Ok(Evidence::Passed)
            }
            Err(Fault { blame: Blame::Request, .. }) => Ok(Evidence::Unavailable),
            Err(_) => Ok(Evidence::Failed),
        }
    }

    /// Uses the failed key in the other direction: an expired key often still decrypts.
    fn other_direction_works(&mut self, token: &Shared, failed: Failed) -> Evidence {
        let Some(key) = token.keys.get(failed.key) else { return Evidence::Unavailable };
        let works = match failed.direction {
            Some(Direction::Decrypt) if key.attributes.encrypt => {
                let (plaintext, mut ciphertext) = (&KNOWN_PLAINTEXT, Vec::new());
                let counted = (Some(failed.key), key.handle);
                self.encrypt_bytes(token, counted, &[], plaintext, &mut ciphertext).is_ok()
            }
            Some(Direction::Encrypt) => {
                let sample = token.sample.lock().clone();
                let sample = sample.filter(|sample| sample.handle == key.handle);
                sample.is_some_and(|KnownGood { iv, ciphertext, .. }| {
                    self.decrypts_to_known(token, key.handle, &iv, &ciphertext).is_ok()
                })
            }
            Some(Direction::Decrypt) | None => false,
        };
        if works { Evidence::Passed } else { Evidence::Unavailable }
    }
}

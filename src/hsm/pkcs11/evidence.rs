//! Known-good operations with other keys than the one that failed: what faults are charged by.

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::known_good::{KnownGood, PROBE_PLAINTEXT, ProbeKey};
use super::session::Calls;
use super::token::Shared;
use super::trouble::Trouble;
use crate::hsm::backend::{Blame, Direction, Evidence, Failed, Fault, MayUse};
use crate::job::KeyIndex;
use crate::limits::MAX_EVIDENCE_KEYS;

impl Calls {
    /// Does a known-good operation in the direction that failed with the health key, a key of the
    /// session's own, or other configured keys, until one succeeds.
    ///
    /// A token that has a single key and makes no session keys is judged by that key's other
    /// direction, if a ciphertext of it is known.
    pub(super) fn known_good_elsewhere(
        &mut self,
        token: &Shared,
        failed: Failed,
        may_use: &MayUse<'_>,
    ) -> Evidence {
        let direction = failed.direction.unwrap_or(Direction::Encrypt);
        let mut evidence = Evidence::Unavailable;
        let health_key = token.keys.health_key();
        if let Some((index, key)) = health_key
            && index != failed.key
            && may_use(index)
        {
            evidence = evidence.or(self.works(token, key.handle, direction));
        }
        if evidence != Evidence::Passed
            && let Some(handle) = self.session_key(token)
        {
            evidence = evidence.or(self.works(token, handle, direction));
        }
        if evidence != Evidence::Passed {
            let is_other = |index| {
                index != failed.key && Some(index) != health_key.map(|it| it.0) && may_use(index)
            };
            evidence = evidence.or(self.configured_keys_work(token, direction, &is_other));
        }
        if evidence == Evidence::Unavailable {
            evidence = self.other_direction_works(token, failed);
        }
        evidence
    }

    /// Tries a few of the configured keys, other ones each time, until one works.
    pub(super) fn configured_keys_work(
        &mut self,
        token: &Shared,
        direction: Direction,
        may_use: &MayUse<'_>,
    ) -> Evidence {
        let mut evidence = Evidence::Unavailable;
        for key in token.keys.some_for_evidence(MAX_EVIDENCE_KEYS, may_use) {
            evidence = evidence.or(self.works(token, key.handle, direction));
            if evidence == Evidence::Passed {
                break;
            }
        }
        evidence
    }

    /// Whether a known-good operation with that key succeeds.
    pub(super) fn key_works(
        &mut self,
        token: &Shared,
        key: KeyIndex,
        direction: Direction,
    ) -> Evidence {
        match token.keys.get(key) {
            Some(key) => self.works(token, key.handle, direction),
            None => Evidence::Unavailable,
        }
    }

    /// The session's own key, made at the first call, if the token makes such keys.
    fn session_key(&mut self, token: &Shared) -> Option<CK_OBJECT_HANDLE> {
        if let ProbeKey::Made(handle) = self.probe_key {
            return Some(handle);
        }
        if matches!(self.probe_key, ProbeKey::Refused) || token.refuses_session_keys() {
            return None;
        }
        let handle = self.make_probe_key(token).ok()??;
        self.probe_key = ProbeKey::Made(handle);
        Some(handle)
    }

    /// Whether an operation with that key succeeds. A key that may not be used in this way tells
    /// nothing.
    fn works(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        direction: Direction,
    ) -> Evidence {
        let known = self.evidence.take_if(|known| known.handle == handle);
        let known = match (direction, known) {
            (Direction::Decrypt, Some(known)) => known,
            (Direction::Encrypt, _) | (Direction::Decrypt, None) => {
                let mut ciphertext = Vec::new();
                match self.encrypt_bytes(token, handle, &[], &PROBE_PLAINTEXT, &mut ciphertext) {
                    Ok(iv) => KnownGood { handle, iv, ciphertext },
                    Err(Trouble::Fault(Fault { blame: Blame::Request, .. })) => {
                        return Evidence::Unavailable;
                    }
                    Err(Trouble::Fault(_) | Trouble::StaleHandle(_)) => return Evidence::Failed,
                }
            }
        };
        // An encryption is known to be good once it decrypts: a token may get it wrong.
        match self.decrypts_to_probe(token, handle, &known.iv, &known.ciphertext) {
            Ok(()) => {
                self.evidence = Some(known);
                Evidence::Passed
            }
            Err(Fault { blame: Blame::Request, .. }) => Evidence::Unavailable,
            Err(_) => Evidence::Failed,
        }
    }

    /// Uses the failed key in the direction that did not fail: an expired key often still
    /// decrypts.
    fn other_direction_works(&mut self, token: &Shared, failed: Failed) -> Evidence {
        let Some(key) = token.keys.get(failed.key) else { return Evidence::Unavailable };
        match failed.direction {
            None => Evidence::Unavailable,
            Some(Direction::Decrypt) if key.attributes.encrypt => {
                self.works(token, key.handle, Direction::Encrypt)
            }
            Some(Direction::Encrypt) => {
                let sample = token.sample.lock().clone();
                let Some(sample) = sample.filter(|sample| sample.handle == key.handle) else {
                    return Evidence::Unavailable;
                };
                let result =
                    self.decrypts_to_probe(token, key.handle, &sample.iv, &sample.ciphertext);
                if result.is_ok() { Evidence::Passed } else { Evidence::Unavailable }
            }
            Some(Direction::Decrypt) => Evidence::Unavailable,
        }
    }
}

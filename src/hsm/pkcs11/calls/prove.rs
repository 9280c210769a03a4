//! The proof that a token holds the same key as the others: it decrypts the key's witness.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_RV, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};
use zeroize::Zeroize as _;

use super::Calls;
use crate::hsm::backend::{Blame, Fault, KeyChoice, Proof};
use crate::hsm::pkcs11::codes::{self, Class};
use crate::hsm::pkcs11::keys::Key;
use crate::hsm::pkcs11::native::RawError;
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::{NO_SESSION, Trouble, malformed, trouble_of};
use crate::hsm::witness::{Disagreement, WITNESS_AAD, WITNESS_PLAINTEXT, Witness};
use crate::job::{Failure, KeyIndex};
use crate::limits::{DISAGREEMENT_RETRY_INTERVAL, PROOF_RETRY_INTERVAL, SUSPICIONS};

/// Number of times that a token must refuse a witness with a definite code, each time followed by a
/// known-good operation with the same key, before it counts as disagreeing. With an ambiguous code
/// the number is [`SUSPICIONS`].
const DEFINITE_REFUSALS: u8 = 2;

/// Maximum number of times that a key is tested when its witness keeps changing during the test.
const MAX_CHANGES: usize = 3;

/// Outcome of a key's test with its witness.
enum Comparison {
    Same,
    Different,
    /// The key could not be tested, and retrying at once would not help.
    Impossible(String),
}

/// Outcome of one decryption of a witness.
enum Opened {
    Same,
    Refused { code: CK_RV, is_definite: bool },
    Impossible(String),
}

impl Calls {
    /// Requires, before an encryption, that the key is the same as on other tokens. A key that
    /// cannot be tested is refused the first time and accepted from then on: by then it is selected
    /// only if no other token's key is proven or can be proven.
    #[inline]
    pub fn require_proof(
        &mut self,
        token: &Shared,
        index: KeyIndex,
        key: &Key,
    ) -> Result<(), Trouble> {
        let era = token.keys.witnesses().era();
        if key.proven_in == era && self.is_own_proof(token, index, era) {
            return Ok(());
        }
        let differs = Fault { failure: Failure::KeysDiffer, blame: Blame::Key };
        let now = Instant::now();
        if token.keys.is_known_to_disagree(index, now) {
            return Err(differs.into());
        }
        match self.prove_key(token, index, key)? {
            Proof::Agrees | Proof::Made => Ok(()),
            Proof::Unproven(_) if token.keys.has_disagreed(index) => Err(differs.into()),
            Proof::Unproven(_) if !key.attributes.decrypt => Ok(()),
            Proof::Unproven(_) if !token.keys.cannot_be_proven(index) => Ok(()),
            Proof::Unproven(_) => Err(differs.into()),
            Proof::Disputed => Err(Fault::answer(Failure::KeysDiffer).into()),
            Proof::Disagrees => {
                token.keys.prove_later(index, now + DISAGREEMENT_RETRY_INTERVAL);
                Err(differs.into())
            }
            Proof::Absent => Err(Fault { failure: Failure::KeyNotFound, blame: Blame::Key }.into()),
        }
    }

    /// Tests an unproven key with its witness, if there is one, before a ciphertext that it rejects
    /// is declared bad: if the key differs, the rejection means little.
    #[cold]
    pub fn try_before_refusal(&mut self, token: &Shared, index: KeyIndex, key: &Key) {
        let now = Instant::now();
        let witnesses = token.keys.witnesses();
        let has_witness =
            || token.keys.labels().now().get(index).is_some_and(|label| witnesses.has(label));
        let era = witnesses.era();
        let is_proven = key.proven_in == era && self.is_own_proof(token, index, era);
        let is_known = is_proven || token.keys.is_untestable(index, now);
        if is_known || !has_witness() {
            return;
        }
        // A fault shows nothing about the key, which may be tested later.
        if let Ok(Proof::Disagrees | Proof::Disputed) = self.prove_key(token, index, key) {
            token.keys.prove_later(index, now + DISAGREEMENT_RETRY_INTERVAL);
        }
    }

    /// Proves the next key that is due, if any.
    pub fn prove_next(
        &mut self,
        token: &Shared,
        may_make: &dyn Fn(KeyIndex) -> bool,
        keys: &dyn KeyChoice,
    ) -> Option<Proof> {
        let now = Instant::now();
        let (index, _) = token.keys.next_to_prove(now, may_make, keys)?;
        keys.uses(Some(index));
        let proof = self.prove_by_index(token, index);
        match &proof {
            Proof::Agrees | Proof::Made => {}
            Proof::Disagrees | Proof::Disputed => {
                token.keys.prove_later(index, now + DISAGREEMENT_RETRY_INTERVAL);
            }
            Proof::Unproven(reason) => {
                let key = token.label_of(index);
                tracing::debug!(token = token.name(), key, reason, "HSM key not proven");
                token.keys.prove_later(index, now + PROOF_RETRY_INTERVAL);
            }
            Proof::Absent => token.keys.prove_later(index, now + PROOF_RETRY_INTERVAL),
        }
        Some(proof)
    }

    /// Proves that key. If it cannot be tested, settling its witness no longer waits for this
    /// token.
    pub fn prove_by_index(&mut self, token: &Shared, index: KeyIndex) -> Proof {
        let proof = self.try_to_prove(token, index);
        if matches!(proof, Proof::Unproven(_) | Proof::Absent)
            && let Some(label) = token.keys.labels().now().get(index)
        {
            token.keys.witnesses().unproven(label, token.member);
        }
        proof
    }

    /// Proves that key. If its handle is stale, looks the key up again.
    fn try_to_prove(&mut self, token: &Shared, index: KeyIndex) -> Proof {
        let found = match token.keys.get(index) {
            Some(key) => Ok(Some(key)),
            None => self.find(token, index, None),
        };
        let proof = match found {
            Ok(Some(key)) if key.count > 1 && !token.keys.labels().allow_ambiguous => {
                return Proof::Unproven(Failure::KeyAmbiguous(key.count).to_string());
            }
            Ok(Some(key)) => match self.prove_key(token, index, &key) {
                Err(Trouble::StaleHandle(_)) => {
                    self.forget_own_handle(index);
                    match self.find(token, index, Some(key.handle)) {
                        Ok(Some(key)) => self.prove_key(token, index, &key),
                        Ok(None) => return Proof::Absent,
                        Err(fault) => Err(fault.into()),
                    }
                }
                proof => proof,
            },
            Ok(None) => return Proof::Absent,
            Err(fault) => Err(fault.into()),
        };
        proof.unwrap_or_else(|trouble| {
            Proof::Unproven(match trouble {
                Trouble::Fault(fault) => fault.failure.to_string(),
                Trouble::StaleHandle(code) => codes::describe(code),
            })
        })
    }

    fn find(
        &self,
        token: &Shared,
        index: KeyIndex,
        stale: Option<CK_OBJECT_HANDLE>,
    ) -> Result<Option<Key>, Fault> {
        let session = self.session()?;
        let found = match stale {
            Some(handle) => token.keys.replace(session, index, handle),
            None => token.keys.look_up(session, index),
        };
        found.map_err(|error| token.fault(&error))
    }

    /// Tests the key with its witness, or makes the witness if there is none.
    #[cold]
    fn prove_key(&mut self, token: &Shared, index: KeyIndex, key: &Key) -> Result<Proof, Trouble> {
        let labels = token.keys.labels().now();
        let Some(label) = labels.get(index) else { return Ok(Proof::Absent) };
        let witnesses = token.keys.witnesses();
        for _ in 0..MAX_CHANGES {
            let era = witnesses.era();
            let Some(witness) = witnesses.get(label) else {
                if !(key.attributes.encrypt && key.attributes.decrypt) {
                    return Ok(Proof::Unproven("it may not encrypt and decrypt".to_owned()));
                }
                let witness = self.make_witness(token, index, key)?;
                if witnesses.offer(label, witness, token.member, &token.identity()) {
                    token.keys.is_proven(index, key.handle, era);
                    self.record_own_proof(index, era);
                    return Ok(Proof::Made);
                }
                // Another token was faster, and its witness is the one to use.
                continue;
            };
            match self.compare(token, index, key, &witness)? {
                Comparison::Same => {
                    witnesses.agrees(label, token.member);
                    if witnesses.is_disputed(label) {
                        return Ok(Proof::Disputed);
                    }
                    self.record_own_proof(index, era);
                    if token.keys.is_proven(index, key.handle, era) {
                        let token = token.name();
                        tracing::info!(token, key = label, "HSM key agrees with its witness again");
                    }
                    return Ok(Proof::Agrees);
                }
                Comparison::Different => {
                    let identity = token.identity();
                    match witnesses.disagrees(label, &witness, token.member, &identity) {
                        Disagreement::Dropped => {}
                        Disagreement::Excluded => {
                            log_exclusion(token, index, label, &witness);
                            return Ok(Proof::Disagrees);
                        }
                        Disagreement::Disputed { maker } => {
                            log_dispute(token, index, label, &maker);
                            return Ok(Proof::Disputed);
                        }
                    }
                }
                Comparison::Impossible(reason) => {
                    witnesses.unproven(label, token.member);
                    return Ok(Proof::Unproven(reason));
                }
            }
        }
        Ok(Proof::Unproven("its witness keeps changing".to_owned()))
    }

    /// Makes a witness. It counts only once it decrypts, since the token may compute a wrong
    /// result.
    fn make_witness(
        &mut self,
        token: &Shared,
        index: KeyIndex,
        key: &Key,
    ) -> Result<Witness, Trouble> {
        let mut ciphertext = Vec::new();
        let (plaintext, counted) = (&WITNESS_PLAINTEXT, (Some(index), key.handle));
        let iv = self.encrypt_bytes(token, counted, &WITNESS_AAD, plaintext, &mut ciphertext)?;
        let made_unix_secs =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let witness = Witness { iv, ciphertext, made_by: token.identity().id, made_unix_secs };
        match self.open_witness(token, key.handle, &witness)? {
            Opened::Same => Ok(witness),
            Opened::Refused { .. } | Opened::Impossible(_) => {
                Err(Fault { failure: Failure::CdivMismatch, blame: Blame::Busy }.into())
            }
        }
    }

    fn compare(
        &mut self,
        token: &Shared,
        index: KeyIndex,
        key: &Key,
        witness: &Witness,
    ) -> Result<Comparison, Trouble> {
        if !key.attributes.decrypt {
            return Ok(Comparison::Impossible("it may not decrypt".to_owned()));
        }
        let mut refusals = 0;
        loop {
            let (code, is_definite) = match self.open_witness(token, key.handle, witness)? {
                Opened::Same => return Ok(Comparison::Same),
                Opened::Impossible(reason) => return Ok(Comparison::Impossible(reason)),
                Opened::Refused { code, is_definite } => (code, is_definite),
            };
            if !key.attributes.encrypt {
                let reason = "it refuses the witness, and may not encrypt to show that it works";
                return Ok(Comparison::Impossible(reason.to_owned()));
            }
            self.known_good(token, index, key, code)?;
            refusals += 1;
            if refusals >= if is_definite { DEFINITE_REFUSALS } else { SUSPICIONS } {
                return Ok(Comparison::Different);
            }
        }
    }

    fn open_witness(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        witness: &Witness,
    ) -> Result<Opened, Trouble> {
        let handle = self.own_handle(token, handle)?;
        let session = self.session.as_ref().ok_or(NO_SESSION)?;
        let Witness { iv, ciphertext, .. } = witness;
        let output = &mut self.scratch;
        let result = token.decrypt(session, handle, iv, &WITNESS_AAD, ciphertext, output);
        let is_same = output.as_slice() == WITNESS_PLAINTEXT;
        output.zeroize();
        let code = match result {
            Ok(()) if is_same => return Ok(Opened::Same),
            Ok(()) | Err(RawError::Malformed) => return Err(malformed().into()),
            Err(RawError::Init(code)) => code,
            Err(RawError::Operation(code)) => match token.class_of_decrypt(code) {
                Class::BadCiphertext => return Ok(Opened::Refused { code, is_definite: true }),
                Class::Ambiguous | Class::AmbiguousRequest => {
                    return Ok(Opened::Refused { code, is_definite: false });
                }
                _ => code,
            },
        };
        let is_form = matches!(code, CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD);
        match trouble_of(code, Failure::MayNotDecrypt) {
            Trouble::Fault(Fault { blame, .. }) if is_form || blame == Blame::Request => {
                Ok(Opened::Impossible(codes::describe(code)))
            }
            trouble => Err(trouble),
        }
    }
}

fn log_exclusion(token: &Shared, index: KeyIndex, label: &str, witness: &Witness) {
    if token.keys.disagrees(index) {
        tracing::error!(
            token = token.name(),
            key = label,
            witness_made_by = witness.made_by,
            "HSM keys differ: the token's key of this label is not the one that the key's witness \
            was made with; the token does not encrypt with it, and serves its other keys"
        );
    }
}

fn log_dispute(token: &Shared, index: KeyIndex, label: &str, maker: &str) {
    if token.keys.disagrees(index) {
        tracing::error!(
            token = token.name(),
            other_token = maker,
            key = label,
            "HSM keys differ: these tokens hold different keys under one label, and it is unknown \
            which is right; nothing is encrypted with this label until [pkcs11] trust_token names \
            the right token, or `xks-proxy keys prove --trust` makes the key's witness"
        );
    }
}

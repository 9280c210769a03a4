//! Tests of all keys on all tokens, for an operator.

use super::backend::{Direction, Evidence, Proof};
use super::handle::Hsm;
use super::prover::settle_among;
use super::token::Token;
use crate::job::KeyIndex;

/// The results for one key on one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOnToken {
    /// Result of proving that the key is the same as on the other tokens.
    pub proof: Proof,
    /// Result of encrypting with the key and decrypting the ciphertext.
    pub round_trip: Evidence,
}

/// The results for one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenProofs {
    /// `CK_TOKEN_INFO.label`
    pub label: String,
    /// Serial number, or the label if there is none.
    pub id: String,
    /// The keys, in the order of [`KeyIndex`]; empty if no session could be opened.
    pub keys: Vec<KeyOnToken>,
    /// Reason why no session could be opened.
    pub trouble: Option<String>,
}

impl Hsm {
    /// Tests the first `keys` keys on each token by a round trip and a proof, in the order of the
    /// settings. Blocks for as long as the HSM does.
    #[must_use]
    pub fn prove_all(&self, keys: u32) -> Vec<TokenProofs> {
        let tokens = &self.fleet.tokens;
        let order =
            |token: &&Token| (!token.backend.is_trusted(), token.share.priority, token.index.0);
        let mut ordered: Vec<&Token> = tokens.iter().collect();
        ordered.sort_by_key(order);
        let mut proofs: Vec<_> =
            ordered.iter().map(|token| (token.index, prove_keys(token, keys))).collect();
        let usable = proofs.iter().filter(|(_, proofs)| proofs.trouble.is_none());
        settle_among(&self.fleet, usable.map(|(index, _)| *index).collect());
        // A dispute that arose on a later token also concerns the keys of the first one.
        for (token, (_, proofs)) in ordered.iter().zip(&mut proofs) {
            correct(token, proofs);
        }
        proofs.sort_by_key(|(index, _)| index.0);
        proofs.into_iter().map(|(_, proofs)| proofs).collect()
    }
}

fn prove_keys(token: &Token, keys: u32) -> TokenProofs {
    let opened = token.backend.open();
    let identity = token.backend.identity();
    let mut proofs =
        TokenProofs { label: identity.label, id: identity.id, keys: Vec::new(), trouble: None };
    match opened {
        Ok(mut session) => {
            let keys = (0..keys).map(KeyIndex).map(|key| {
                let proof = session.prove(key);
                KeyOnToken { proof, round_trip: session.try_key(key, Direction::Encrypt) }
            });
            proofs.keys = keys.collect();
        }
        Err(error) => proofs.trouble = Some(error.reason().to_owned()),
    }
    proofs
}

fn correct(token: &Token, proofs: &mut TokenProofs) {
    let disputed = (0..).map(KeyIndex).map(|key| token.backend.is_disputed(key));
    for (key, is_disputed) in proofs.keys.iter_mut().zip(disputed) {
        if is_disputed && matches!(key.proof, Proof::Agrees | Proof::Made) {
            key.proof = Proof::Disputed;
        }
    }
}

//! Ciphertexts that decrypt requests are made from.

use base64_simd::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::response::string_member;

/// The member with which a proxy tells itself more about a ciphertext.
pub const CIPHERTEXT_METADATA: &str = "\"ciphertextMetadata\"";

/// An encrypt's answer in the form needed to decrypt it.
#[derive(Clone, Debug, Default)]
pub struct Ciphertext {
    /// Index of the key id.
    pub key: usize,
    /// Expected plaintext, in base64.
    pub plaintext: Vec<u8>,
    /// `ciphertextMetadata` in base64; empty if there is none.
    pub metadata: Vec<u8>,
    /// The members of the decrypt request after `requestMetadata`, with a leading comma.
    pub decrypt_members: Vec<u8>,
}

impl Ciphertext {
    /// Makes it from an encrypt request and its answer; `None` if the answer lacks a member.
    #[must_use]
    pub fn from_answer(key: usize, plaintext: &[u8], aad: &[u8], answer: &[u8]) -> Option<Self> {
        let mut members = Vec::with_capacity(256);
        let mut append = |name: &str, value: &[u8]| {
            members.extend_from_slice(b",");
            members.extend_from_slice(name.as_bytes());
            members.extend_from_slice(b":\"");
            members.extend_from_slice(value);
            members.extend_from_slice(b"\"");
        };
        append("\"encryptionAlgorithm\"", b"AES_GCM");
        if !aad.is_empty() {
            append("\"additionalAuthenticatedData\"", aad);
        }
        for name in ["\"ciphertext\"", "\"initializationVector\"", "\"authenticationTag\""] {
            append(name, string_member(answer, name)?);
        }
        let metadata = string_member(answer, CIPHERTEXT_METADATA);
        if let Some(metadata) = metadata {
            append(CIPHERTEXT_METADATA, metadata);
        }
        Some(Self {
            key,
            plaintext: plaintext.to_vec(),
            metadata: metadata.unwrap_or_default().to_vec(),
            decrypt_members: members,
        })
    }

    /// Makes random bytes in place of a ciphertext, for servers with a constant answer.
    #[must_use]
    pub fn synthetic(plaintext_bytes: usize, aad_bytes: usize) -> Self {
        let random = |bytes| {
            let raw: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect();
            STANDARD.encode_to_string(raw)
        };
        let answer = format!(
            r#"{{"ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}"}}"#,
            random(plaintext_bytes),
            random(12),
            random(16)
        );
        let (plaintext, aad) = (random(plaintext_bytes), random(aad_bytes));
        Self::from_answer(0, plaintext.as_bytes(), aad.as_bytes(), answer.as_bytes())
            .unwrap_or_default()
    }
}

/// SHA-256(AAD || ciphertextMetadata || IV || ciphertext || tag) of an encrypt answer, in base64
/// (XKS specification, Appendix C); `None` if a member is missing or not base64.
#[must_use]
pub fn integrity_value(aad: &[u8], answer: &[u8]) -> Option<String> {
    let mut hash = Sha256::new();
    hash.update(STANDARD.decode_to_vec(aad).ok()?);
    if let Some(metadata) = string_member(answer, CIPHERTEXT_METADATA) {
        hash.update(STANDARD.decode_to_vec(metadata).ok()?);
    }
    for name in ["\"initializationVector\"", "\"ciphertext\"", "\"authenticationTag\""] {
        hash.update(STANDARD.decode_to_vec(string_member(answer, name)?).ok()?);
    }
    Some(STANDARD.encode_to_string(hash.finalize()))
}

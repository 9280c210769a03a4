//! The specification's bodies, and an AES-GCM implementation independent of the HSM's.

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, KeyInit};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::token::Key;

/// Encodes in standard base64 (RFC 4648, 4).
pub fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// Decodes a base64 member.
#[track_caller]
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("no string: {value}"));
    base64_simd::STANDARD.decode_to_vec(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Returns a body with the `requestMetadata` that KMS sends.
pub fn metadata(operation: &str) -> Value {
    json!({"requestMetadata": {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "awsSourceVpc": "vpc-1234567890abcdef0",
        "awsSourceVpce": "vpce-1234567890abcdef0",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": operation,
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kmsViaService": "ebs",
    }})
}

/// Returns the body of a health call.
pub fn health() -> Value {
    json!({"requestMetadata": {
        "kmsOperation": "KmsHealthCheck",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    }})
}

/// Returns an encrypt request, without an AAD member if `aad` is `None`.
pub fn encrypt(plaintext: &[u8], aad: Option<&[u8]>) -> Value {
    let mut body = metadata("Encrypt");
    body["encryptionAlgorithm"] = json!("AES_GCM");
    body["plaintext"] = json!(base64(plaintext));
    if let Some(aad) = aad {
        body["additionalAuthenticatedData"] = json!(base64(aad));
    }
    body
}

/// Returns an encrypt request that asks for the ciphertext data integrity value.
pub fn encrypt_with_cdiv(plaintext: &[u8], aad: Option<&[u8]>) -> Value {
    let mut body = encrypt(plaintext, aad);
    body["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_256");
    body
}

/// Returns the decrypt request for the answer to an encrypt request.
pub fn decrypt(encrypted: &Value, aad: Option<&[u8]>) -> Value {
    let mut body = metadata("Decrypt");
    body["encryptionAlgorithm"] = json!("AES_GCM");
    for member in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"]
    {
        if let Some(value) = encrypted.get(member) {
            body[member] = value.clone();
        }
    }
    if let Some(aad) = aad {
        body["additionalAuthenticatedData"] = json!(base64(aad));
    }
    body
}

/// Returns the AAD passed to the HSM, in the form used by existing ciphertexts.
pub fn hsm_aad(aad: Option<&[u8]>, metadata: &[u8]) -> Vec<u8> {
    let length = u16::try_from(aad.map_or(0, <[u8]>::len)).unwrap();
    let mut out = length.to_be_bytes().to_vec();
    if let Some(aad) = aad {
        out.extend_from_slice(&Sha256::digest(aad));
    }
    out.push(u8::try_from(metadata.len()).unwrap());
    out.extend_from_slice(metadata);
    out
}

/// Computes the ciphertext data integrity value of an answer (XKS specification, Appendix C).
pub fn cdiv(aad: Option<&[u8]>, encrypted: &Value) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(aad.unwrap_or_default());
    if let Some(metadata) = encrypted.get("ciphertextMetadata") {
        hash.update(bytes(metadata));
    }
    for member in ["initializationVector", "ciphertext", "authenticationTag"] {
        hash.update(bytes(&encrypted[member]));
    }
    hash.finalize().to_vec()
}

/// Decrypts the answer to an encrypt request without the proxy or the HSM. Returns `None` if its
/// tag does not match.
pub fn decrypt_here(key: &Key, encrypted: &Value, aad: &[u8]) -> Option<Vec<u8>> {
    let mut message = bytes(&encrypted["ciphertext"]);
    message.extend(bytes(&encrypted["authenticationTag"]));
    let iv = bytes(&encrypted["initializationVector"]);
    let payload = Payload { msg: &message, aad };
    if let Ok(iv) = iv.as_slice().try_into() {
        // IVs of 16 bytes, as Luna made them before firmware 7.9.3.
        let cipher = AesGcm::<Aes256, U16>::new_from_slice(&key.value()).unwrap();
        return cipher.decrypt(iv, payload).ok();
    }
    let iv = iv.as_slice().try_into().expect("an IV of 12 or 16 bytes");
    match key.length {
        16 => Aes128Gcm::new_from_slice(&key.value()).unwrap().decrypt(iv, payload),
        _ => Aes256Gcm::new_from_slice(&key.value()).unwrap().decrypt(iv, payload),
    }
    .ok()
}

/// Encrypts without the proxy or the HSM. Returns an answer in the proxy's form.
pub fn encrypt_here(key: &Key, plaintext: &[u8], aad: Option<&[u8]>, metadata: &[u8]) -> Value {
    let iv = [7; 12];
    let aad = hsm_aad(aad, metadata);
    let mut ciphertext = Aes256Gcm::new_from_slice(&key.value())
        .unwrap()
        .encrypt(&iv.into(), Payload { msg: plaintext, aad: &aad })
        .unwrap();
    let tag = ciphertext.split_off(plaintext.len());
    let mut encrypted = json!({
        "ciphertext": base64(&ciphertext),
        "initializationVector": base64(&iv),
        "authenticationTag": base64(&tag),
    });
    if !metadata.is_empty() {
        encrypted["ciphertextMetadata"] = json!(base64(metadata));
    }
    encrypted
}

//! Real ciphertexts, made by the proxy under test: what decrypt requests are made from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64_simd::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::request::{Operation, Requests, Sent, Sizes};
use crate::response::string_member;
use crate::target::Target;

/// Connections that encrypt at the same time.
const CONNECTIONS: usize = 8;
/// For all of them together: with a slow proxy there are fewer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What an encrypt answered, ready to be decrypted.
#[derive(Clone, Debug)]
pub struct Ciphertext {
    /// Index of the key id.
    pub key: usize,
    /// What decrypting must give back, in base64.
    pub plaintext: Vec<u8>,
    /// The members of the decrypt request after `requestMetadata`, with the comma before them.
    pub decrypt_members: Vec<u8>,
}

impl Ciphertext {
    /// From an encrypt request and its answer; `None` if the answer lacks a member.
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
        if let Some(metadata) = string_member(answer, "\"ciphertextMetadata\"") {
            append("\"ciphertextMetadata\"", metadata);
        }
        Some(Self { key, plaintext: plaintext.to_vec(), decrypt_members: members })
    }

    /// Random bytes in the place of a ciphertext: for servers that answer with a constant.
    #[must_use]
    pub fn synthetic(sizes: Sizes) -> Self {
        let random = |bytes| {
            let raw: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect();
            STANDARD.encode_to_string(raw)
        };
        let answer = format!(
            r#"{{"ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}"}}"#,
            random(sizes.plaintext_bytes),
            random(12),
            random(16)
        );
        let (plaintext, aad) = (random(sizes.plaintext_bytes), random(sizes.aad_bytes));
        Self::from_answer(0, plaintext.as_bytes(), aad.as_bytes(), answer.as_bytes())
            .unwrap_or(Self { key: 0, plaintext: Vec::new(), decrypt_members: Vec::new() })
    }
}

/// SHA-256(AAD || ciphertextMetadata || IV || ciphertext || tag) of an encrypt answer, in base64
/// (XKS specification, Appendix C); `None` if a member is missing or no base64.
#[must_use]
pub fn integrity_value(aad: &[u8], answer: &[u8]) -> Option<String> {
    let mut hash = Sha256::new();
    hash.update(STANDARD.decode_to_vec(aad).ok()?);
    if let Some(metadata) = string_member(answer, "\"ciphertextMetadata\"") {
        hash.update(STANDARD.decode_to_vec(metadata).ok()?);
    }
    for name in ["\"initializationVector\"", "\"ciphertext\"", "\"authenticationTag\""] {
        hash.update(STANDARD.decode_to_vec(string_member(answer, name)?).ok()?);
    }
    Some(STANDARD.encode_to_string(hash.finalize()))
}

/// Encrypts `count` plaintexts through the target, or as many as it does in [`TIMEOUT`].
///
/// # Errors
/// What went wrong, in words.
pub fn make(target: &Arc<Target>, sizes: Sizes, count: usize) -> Result<Vec<Ciphertext>, String> {
    let run_id = fastrand::u64(..);
    let deadline = Instant::now() + TIMEOUT;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS.min(count))
            .map(|thread| {
                let share = (count + CONNECTIONS - 1 - thread) / CONNECTIONS;
                scope.spawn(move || encrypt_some(target, sizes, run_id, thread, share, deadline))
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.append(&mut thread.join().map_err(|_| "a thread panicked".to_owned())??);
        }
        if all.is_empty() { Err("encrypting ahead took too long".to_owned()) } else { Ok(all) }
    })
}

fn encrypt_some(
    target: &Arc<Target>,
    sizes: Sizes,
    run_id: u64,
    thread: usize,
    count: usize,
    deadline: Instant,
) -> Result<Vec<Ciphertext>, String> {
    let mut client = Client::new(target);
    let mut requests = Requests::new(target, &Arc::from([]), sizes, run_id, thread);
    let mut ciphertexts = Vec::with_capacity(count);
    let mut request = Vec::new();
    while ciphertexts.len() < count && Instant::now() < deadline {
        let sent: Sent = requests.build(Operation::Encrypt, &mut request);
        let (status, answer) = client
            .call(&request)
            .map_err(|error| format!("encrypting ahead through {}: {error}", target.address))?;
        match status {
            200 => {}
            // Busy, or not quite up.
            429 | 500 | 503 => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            status => {
                let answer = String::from_utf8_lossy(&answer);
                return Err(format!("encrypting ahead: {status} {answer}"));
            }
        }
        let (plaintext, aad) = (&request[sent.plaintext], &request[sent.aad]);
        ciphertexts.push(Ciphertext::from_answer(sent.key, plaintext, aad, &answer).ok_or_else(
            || format!("not an encrypt answer: {}", String::from_utf8_lossy(&answer)),
        )?);
    }
    Ok(ciphertexts)
}

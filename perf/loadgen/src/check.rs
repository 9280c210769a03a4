//! Checks of answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64_simd::STANDARD;

use crate::ciphertext::{Ciphertext, integrity_value};
use crate::client::Client;
use crate::request::{Operation, Requests, Sent, Sizes, Source};
use crate::response::string_member;
use crate::target::Target;

/// Returns whether the body of a 200 answers the request. For an encrypt only the form is checked
/// here; [`verify`] checks the content by decrypting it.
#[must_use]
pub fn is_right(sent: &Sent, body: &[u8]) -> bool {
    let length = |name| string_member(body, name).map(<[u8]>::len);
    let base64 = |bytes| Some(STANDARD.encoded_length(bytes));
    match sent.operation {
        Operation::Decrypt => {
            let expected = sent.ciphertext.as_ref().map(|it| it.plaintext.as_slice());
            expected.is_some() && string_member(body, "\"plaintext\"") == expected
        }
        Operation::Encrypt | Operation::EncryptCdiv => {
            let iv = length("\"initializationVector\"");
            let cdiv = length("\"ciphertextDataIntegrityValue\"");
            let wanted_cdiv = base64(32).filter(|_| sent.operation == Operation::EncryptCdiv);
            length("\"ciphertext\"") == Some(sent.plaintext.len())
                && (iv == base64(12) || iv == base64(16))
                && length("\"authenticationTag\"") == base64(16)
                && cdiv == wanted_cdiv
        }
        Operation::Metadata => string_member(body, "\"keySpec\"") == Some(b"AES_256"),
        Operation::Health => memchr::memmem::find(body, b"\"ekmFleetDetails\"").is_some(),
    }
}

/// Returns whether the body of a 200 has the right CDIV, if the request asked for one. `aad` is that
/// of the request in base64.
#[must_use]
pub fn has_right_integrity_value(sent: &Sent, aad: &[u8], body: &[u8]) -> bool {
    sent.operation != Operation::EncryptCdiv || is_integrity_value_right(aad, body)
}

fn is_integrity_value_right(aad: &[u8], answer: &[u8]) -> bool {
    let given = string_member(answer, "\"ciphertextDataIntegrityValue\"");
    integrity_value(aad, answer).is_some_and(|expected| given == Some(expected.as_bytes()))
}

/// An encrypt request and its answer, kept to be decrypted after the run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Encrypt with or without a CDIV.
    pub operation: Operation,
    /// Index of the key id.
    pub key: usize,
    /// Plaintext in base64.
    pub plaintext: Vec<u8>,
    /// AAD in base64; empty if there was none.
    pub aad: Vec<u8>,
    /// The answer's body.
    pub answer: Vec<u8>,
}

/// A random sample of the encrypts, each equally likely (reservoir sampling).
pub struct Samples {
    /// Samples drawn.
    pub drawn: Vec<Sample>,
    limit: usize,
    seen: usize,
}

impl Samples {
    /// Makes a sample of at most `limit` encrypts.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { drawn: Vec::new(), limit, seen: 0 }
    }

    /// Offers an encrypt and its answer to the sample.
    pub fn offer(&mut self, sent: &Sent, request: &[u8], answer: &[u8]) {
        self.seen += 1;
        let place = fastrand::usize(..self.seen);
        if place >= self.limit {
            return;
        }
        let sample = Sample {
            operation: sent.operation,
            key: sent.key,
            plaintext: request[sent.plaintext.clone()].to_vec(),
            aad: request[sent.aad.clone()].to_vec(),
            answer: answer.to_vec(),
        };
        if self.drawn.len() < self.limit {
            self.drawn.push(sample);
        } else {
            self.drawn[place] = sample;
        }
    }
}

/// Time limit for all samples together: with a slow proxy some are left out.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Number of attempts at a sample for which the proxy is too busy.
const ATTEMPTS: usize = 50;

/// Decrypts the samples through the target and recomputes CDIVs. Returns the number of correct ones
/// and a description of each wrong one; a sample that the proxy did not decrypt in time is neither.
#[must_use]
pub fn verify(target: &Arc<Target>, samples: &[Sample]) -> (usize, Vec<String>) {
    let sizes = Sizes { plaintext_bytes: 0, aad_bytes: 0 };
    let mut requests = Requests::new(target, Source::none(), sizes, fastrand::u64(..), 0);
    let mut client = Client::new(target);
    let deadline = Instant::now() + TIMEOUT;
    let (mut verified, mut wrong) = (0, Vec::new());
    for sample in samples.iter().take_while(|_| Instant::now() < deadline) {
        match verify_one(&mut requests, &mut client, sample) {
            Ok(true) => verified += 1,
            Ok(false) => {}
            Err(reason) => wrong.push(reason),
        }
    }
    (verified, wrong)
}

fn verify_one(
    requests: &mut Requests,
    client: &mut Client,
    sample: &Sample,
) -> Result<bool, String> {
    let Sample { operation, key, plaintext, aad, answer } = sample;
    if *operation == Operation::EncryptCdiv && !is_integrity_value_right(aad, answer) {
        return Err("an encrypt's ciphertextDataIntegrityValue is wrong".into());
    }
    let ciphertext = Ciphertext::from_answer(*key, plaintext, aad, answer)
        .ok_or("an encrypt's answer lacks a member")?;
    let mut request = Vec::new();
    for _ in 0..ATTEMPTS {
        requests.build_decrypt(&ciphertext, &mut request);
        match client.call(&request) {
            Ok((200, body)) if string_member(&body, "\"plaintext\"") == Some(plaintext) => {
                return Ok(true);
            }
            Ok((200, _)) => return Err("an encrypt's answer decrypts to something else".into()),
            Ok((status @ 400..=499, body)) if status != 429 => {
                let body = String::from_utf8_lossy(&body);
                return Err(format!("decrypting an encrypt's answer: {status} {body}"));
            }
            // After an overload, the proxy may need a moment.
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use crate::sigv4::Credential;

    pub(crate) fn target() -> Target {
        Target {
            address: "127.0.0.1:1".parse().unwrap(),
            host: "localhost:1".into(),
            tls: None,
            uri_path_prefix: "/example/prefix".into(),
            credential: Credential {
                access_key_id: "BETAWBLKD3WJWZLLIF3F".into(),
                secret_access_key: "s".repeat(43),
                region: "us-east-1".into(),
                service: "kms-xks-proxy".into(),
            },
            key_ids: vec!["foo".into(), "bar".into()],
        }
    }

    pub(crate) fn unchecked_ciphertext() -> Ciphertext {
        Ciphertext::synthetic(32, 10)
    }

    fn sent(operation: Operation) -> Sent {
        let ciphertext = Some(Arc::new(unchecked_ciphertext()));
        Sent { operation, key: 0, ciphertext, plaintext: 10..18, aad: 0..0 }
    }

    /// A proxy that mixes up its callers must fail the check.
    #[test]
    fn a_decrypt_must_give_back_its_own_plaintext() {
        let sent = sent(Operation::Decrypt);
        let own = sent.ciphertext.as_ref().unwrap().plaintext.clone();
        let own = String::from_utf8(own).unwrap();
        let body = format!(r#"{{"plaintext":"{own}"}}"#);
        assert!(is_right(&sent, body.as_bytes()));
        for body in [r#"{"plaintext":"AAAA"}"#, r#"{"plaintext":""}"#, "{}", ""] {
            assert!(!is_right(&sent, body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn an_encrypt_must_be_of_the_right_shape() {
        let (iv, tag) = ("A".repeat(16), "A".repeat(24));
        let answer = |ciphertext: &str, iv: &str, tag: &str, cdiv: &str| {
            format!(
                r#"{{"authenticationTag":"{tag}","ciphertext":"{ciphertext}",{cdiv}
                "initializationVector":"{iv}"}}"#
            )
        };
        let cdiv = format!(r#""ciphertextDataIntegrityValue":"{}","#, "A".repeat(44));
        let right = |operation, body: String| is_right(&sent(operation), body.as_bytes());
        assert!(right(Operation::Encrypt, answer("AAAABBBB", &iv, &tag, "")));
        assert!(right(Operation::Encrypt, answer("AAAABBBB", &"A".repeat(24), &tag, "")));
        assert!(right(Operation::EncryptCdiv, answer("AAAABBBB", &iv, &tag, &cdiv)));
        assert!(!right(Operation::EncryptCdiv, answer("AAAABBBB", &iv, &tag, "")));
        assert!(!right(Operation::Encrypt, answer("AAAABBBB", &iv, &tag, &cdiv)));
        assert!(!right(Operation::Encrypt, answer("AAAA", &iv, &tag, "")));
        assert!(!right(Operation::Encrypt, answer("AAAABBBB", "AAAA", &tag, "")));
        assert!(!right(Operation::Encrypt, answer("AAAABBBB", &iv, "AAAA", "")));
    }

    /// Late requests are as likely to be drawn as early ones: otherwise a fault that begins later
    /// would go unnoticed.
    #[test]
    fn samples_come_from_the_whole_run() {
        let mut samples = Samples::new(50);
        for number in 0..5000 {
            let text = format!("{number:08}");
            let sent = Sent { plaintext: 0..8, ..sent(Operation::Encrypt) };
            samples.offer(&sent, text.as_bytes(), b"");
        }
        assert_eq!(samples.drawn.len(), 50);
        let late =
            samples.drawn.iter().filter(|s| s.plaintext.as_slice() >= b"00002500".as_slice());
        assert!(late.count() > 5);
    }

    /// The order of the hashed parts, written out by hand.
    #[test]
    fn integrity_value_is_over_aad_metadata_iv_ciphertext_tag() {
        let answer = br#"{"authenticationTag":"VEFH","ciphertext":"Q0lQSEVS",
            "ciphertextMetadata":"TUVUQQ==","initializationVector":"SVZJVg=="}"#;
        let expected = STANDARD
            .encode_to_string(<sha2::Sha256 as sha2::Digest>::digest(b"AADMETAIVIVCIPHERTAG"));
        assert_eq!(integrity_value(b"QUFE", answer), Some(expected));
    }
}

//! Requests like those of KMS, each with its own kmsRequestId and signature; encrypts also with
//! their own plaintext and AAD.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64_simd::{AsOut as _, STANDARD};

use crate::ciphertext::Ciphertext;
use crate::pool::Pool;
use crate::sigv4::Signer;
use crate::target::Target;

/// A call of the XKS API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Encrypt
    Encrypt,
    /// Encrypt with a ciphertext data integrity value
    EncryptCdiv,
    /// Decrypt
    Decrypt,
    /// GetKeyMetadata
    Metadata,
    /// GetHealthStatus
    Health,
}

impl Operation {
    /// All calls, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Encrypt, Self::EncryptCdiv, Self::Decrypt, Self::Metadata, Self::Health];

    /// The call's name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::EncryptCdiv => "encrypt-cdiv",
            Self::Decrypt => "decrypt",
            Self::Metadata => "metadata",
            Self::Health => "health",
        }
    }

    /// Returns whether the call's request has a plaintext.
    #[must_use]
    pub fn is_encrypt(self) -> bool {
        matches!(self, Self::Encrypt | Self::EncryptCdiv)
    }

    fn kms_operation(self) -> &'static str {
        match self {
            Self::Encrypt | Self::EncryptCdiv => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::Metadata => "DescribeKey",
            Self::Health => "KmsHealthCheck",
        }
    }

    fn last_segment(self) -> &'static str {
        match self {
            Self::Encrypt | Self::EncryptCdiv => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Metadata => "metadata",
            Self::Health => "health",
        }
    }
}

/// Sizes of the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of plaintext before base64.
    pub plaintext_bytes: usize,
    /// Bytes of AAD before base64; 0 leaves the member out.
    pub aad_bytes: usize,
}

/// Facts about a request that are needed to check its answer.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The call that was made.
    pub operation: Operation,
    /// Index of the key id.
    pub key: usize,
    /// For decrypt: the ciphertext.
    pub ciphertext: Option<Arc<Ciphertext>>,
    /// For encrypt: position of the plaintext's base64 in the request.
    pub plaintext: Range<usize>,
    /// For encrypt: position of the AAD's base64 in the request. Empty if there is none.
    pub aad: Range<usize>,
}

/// The ciphertexts of decrypts.
#[derive(Debug)]
pub enum Source {
    /// Those made before the run, in turn.
    Corpus(Arc<[Arc<Ciphertext>]>),
    /// Those of the run itself.
    Pool(Pool),
}

/// Builds requests for one thread.
pub struct Requests {
    target: Arc<Target>,
    source: Source,
    sizes: Sizes,
    signer: Signer,
    random: fastrand::Rng,
    /// First part of the kmsRequestId, unique to this run and thread.
    id_prefix: String,
    sequence: u64,
    /// Paths by operation and key.
    paths: Vec<Vec<String>>,
    body: Vec<u8>,
    raw: Vec<u8>,
}

impl Source {
    /// Returns a source without ciphertexts.
    #[must_use]
    pub fn none() -> Self {
        Self::Corpus(Arc::from([]))
    }
}

impl Requests {
    /// Makes the builder of one thread. `run_id` is the same for all threads of a run.
    #[must_use]
    pub fn new(
        target: &Arc<Target>,
        source: Source,
        sizes: Sizes,
        run_id: u64,
        thread: usize,
    ) -> Self {
        let id = format!("{run_id:016x}{:04x}", thread & 0xffff);
        let path = |operation: Operation, key: &String| {
            let base = format!("{}/kms/xks/v1", target.uri_path_prefix);
            match operation {
                Operation::Health => format!("{base}/health"),
                other => format!("{base}/keys/{key}/{}", other.last_segment()),
            }
        };
        Self {
            target: Arc::clone(target),
            source,
            sizes,
            signer: Signer::new(target.credential.clone(), &target.host),
            random: fastrand::Rng::new(),
            id_prefix: format!("{}-{}-{}-{}-", &id[..8], &id[8..12], &id[12..16], &id[16..]),
            sequence: 0,
            paths: Operation::ALL
                .iter()
                .map(|op| target.key_ids.iter().map(|key| path(*op, key)).collect())
                .collect(),
            body: Vec::new(),
            raw: Vec::new(),
        }
    }

    /// Replaces the contents of `out` with the next request.
    pub fn build(&mut self, operation: Operation, out: &mut Vec<u8>) -> Sent {
        let sequence = self.sequence;
        self.sequence += 1;
        let place = usize::try_from(sequence).unwrap_or(0);
        let mut sent = Sent {
            operation,
            key: place % self.target.key_ids.len(),
            ciphertext: None,
            plaintext: 0..0,
            aad: 0..0,
        };
        self.append_metadata(operation, sequence);
        match operation {
            Operation::Encrypt | Operation::EncryptCdiv => {
                if self.sizes.aad_bytes > 0 {
                    self.body.extend_from_slice(b",\"additionalAuthenticatedData\":\"");
                    sent.aad = self.append_random(self.sizes.aad_bytes);
                    self.body.push(b'"');
                }
                self.body.extend_from_slice(b",\"plaintext\":\"");
                sent.plaintext = self.append_random(self.sizes.plaintext_bytes);
                self.body.extend_from_slice(b"\",\"encryptionAlgorithm\":\"AES_GCM\"");
                if operation == Operation::EncryptCdiv {
                    self.body.extend_from_slice(
                        b",\"ciphertextDataIntegrityValueAlgorithm\":\"SHA_256\"",
                    );
                }
            }
            Operation::Decrypt => {
                sent.ciphertext = match &mut self.source {
                    Source::Corpus(all) => all.get(place % all.len().max(1)).cloned(),
                    Source::Pool(pool) => pool.next(&mut self.random),
                };
                if let Some(ciphertext) = &sent.ciphertext {
                    sent.key = ciphertext.key;
                    self.body.extend_from_slice(&ciphertext.decrypt_members);
                }
            }
            Operation::Metadata | Operation::Health => {}
        }
        self.body.push(b'}');
        let head_bytes = self.finish(operation, sent.key, out);
        for range in [&mut sent.plaintext, &mut sent.aad] {
            *range = range.start + head_bytes..range.end + head_bytes;
        }
        sent
    }

    /// Offers an encrypt's answer for decryption, if decrypts take those of the run itself.
    pub fn offer(&mut self, sent: &Sent, request: &[u8], answer: &[u8]) {
        let Source::Pool(pool) = &mut self.source else { return };
        let (plaintext, aad) = (&request[sent.plaintext.clone()], &request[sent.aad.clone()]);
        if let Some(ciphertext) = Ciphertext::from_answer(sent.key, plaintext, aad, answer) {
            pool.add(ciphertext, &mut self.random);
        }
    }

    /// Returns the number of ciphertexts of the run itself that were not decrypted.
    #[must_use]
    pub fn not_decrypted(&self) -> u64 {
        match &self.source {
            Source::Corpus(_) => 0,
            Source::Pool(pool) => pool.not_decrypted(),
        }
    }

    /// Builds a request to decrypt one ciphertext.
    pub fn build_decrypt(&mut self, ciphertext: &Ciphertext, out: &mut Vec<u8>) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.append_metadata(Operation::Decrypt, sequence);
        self.body.extend_from_slice(&ciphertext.decrypt_members);
        self.body.push(b'}');
        self.finish(Operation::Decrypt, ciphertext.key, out);
    }

    fn append_metadata(&mut self, operation: Operation, sequence: u64) {
        const METADATA: &[u8] = b"{\"requestMetadata\":{\
            \"awsPrincipalArn\":\"arn:aws:iam::123456789012:user/Alice\",\
            \"kmsKeyArn\":\"arn:aws:kms:us-east-2:123456789012:key/\
            1234abcd-12ab-34cd-56ef-1234567890ab\",\"kmsOperation\":\"";
        self.body.clear();
        if operation == Operation::Health {
            self.body.extend_from_slice(b"{\"requestMetadata\":{\"kmsOperation\":\"");
        } else {
            self.body.extend_from_slice(METADATA);
        }
        self.body.extend_from_slice(operation.kms_operation().as_bytes());
        self.body.extend_from_slice(b"\",\"kmsRequestId\":\"");
        self.body.extend_from_slice(self.id_prefix.as_bytes());
        self.body.extend((0..12).rev().map(|digit| {
            b"0123456789abcdef"[usize::try_from(sequence >> (4 * digit) & 15).unwrap_or(0)]
        }));
        self.body.extend_from_slice(b"\"}");
    }

    /// Appends the base64 of that many random bytes to the body.
    fn append_random(&mut self, bytes: usize) -> Range<usize> {
        self.raw.resize(bytes, 0);
        self.random.fill(&mut self.raw);
        let start = self.body.len();
        self.body.resize(start + STANDARD.encoded_length(bytes), 0);
        let _ = STANDARD.encode(&self.raw, self.body[start..].as_out());
        start..self.body.len()
    }

    /// Signs the request and joins head and body. Returns the head's length.
    fn finish(&mut self, operation: Operation, key: usize, out: &mut Vec<u8>) -> usize {
        let path = &self.paths[operation as usize][key];
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.signer.set_time(i64::try_from(since_1970.as_secs()).unwrap_or(0));
        out.clear();
        out.extend_from_slice(b"POST ");
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nContent-Type: application/json\r\n");
        self.signer.append_fields(path, &self.body, out);
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(self.body.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        let head_bytes = out.len();
        out.extend_from_slice(&self.body);
        head_bytes
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::check::tests::{target, unchecked_ciphertext};

    /// A request is JSON with the specification's members, and no two are the same.
    #[test]
    fn requests_are_well_formed_and_unique() {
        let target = Arc::new(target());
        let source = Source::Corpus([Arc::new(unchecked_ciphertext())].into());
        let sizes = Sizes { plaintext_bytes: 32, aad_bytes: 10 };
        let mut requests = Requests::new(&target, source, sizes, 7, 3);
        let mut ids = std::collections::HashSet::new();
        let mut plaintexts = std::collections::HashSet::new();
        for operation in Operation::ALL.into_iter().cycle().take(50) {
            let mut out = Vec::new();
            let sent = requests.build(operation, &mut out);
            let text = String::from_utf8(out.clone()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let id = body["requestMetadata"]["kmsRequestId"].as_str().unwrap();
            assert_eq!(id.len(), 36);
            assert!(ids.insert(id.to_owned()));
            if operation.is_encrypt() {
                let plaintext = body["plaintext"].as_str().unwrap();
                assert_eq!(&text[sent.plaintext], plaintext);
                assert_eq!(&text[sent.aad], body["additionalAuthenticatedData"].as_str().unwrap());
                assert!(plaintexts.insert(plaintext.to_owned()));
            }
            let wants_cdiv = body.get("ciphertextDataIntegrityValueAlgorithm").is_some();
            assert_eq!(wants_cdiv, operation == Operation::EncryptCdiv);
            assert_eq!(body.get("initializationVector").is_some(), operation == Operation::Decrypt);
        }
    }
}

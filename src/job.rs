//! What the protocol asks of the HSM, and what comes back: the only words `proto` and `hsm` share.
//!
//! A [`Request`] is read-only and shared: whoever works on it, first attempt, retry or hedge,
//! holds a reference, and the last one to let go wipes it. A [`Job`] is one attempt at a request:
//! it owns the buffer that the HSM writes into, so that an attempt that hangs holds nothing
//! that another one needs.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::{GCM_TAG_BYTES, MAX_CIPHERTEXT_METADATA_BYTES, MAX_GCM_IV_BYTES};

/// Which of the configured external key ids a job is about: an index into the list of labels
/// that the HSM side was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIndex(pub u32);

/// Which token served a job: an index into the fleet, in the order of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenIndex(pub u16);

/// Whom to answer: the event loop, its connection's slot, and the request's serial number.
///
/// The serial is never used twice within a loop, so an answer that comes late finds another
/// serial in the slot (or an empty slot) and is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Index of the event loop.
    pub event_loop: u16,
    /// The connection's place in that loop's slab.
    pub slot: u32,
    /// The request's number, unique within the loop.
    pub serial: u64,
}

/// The additional authenticated data that the HSM sees, at most 55 bytes:
/// 2-byte big-endian length of the request's AAD, its SHA-256 if the member was present,
/// 1-byte length of the ciphertext metadata, the ciphertext metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HsmAad {
    bytes: InlineBytes<{ 2 + 32 + 1 + MAX_CIPHERTEXT_METADATA_BYTES }>,
}

impl HsmAad {
    /// Builds the form that the reference proxy uses, so that ciphertexts are interchangeable.
    ///
    /// `aad` is the length and SHA-256 of the request's AAD if the member was present, even
    /// when it was empty. `metadata` longer than 20 bytes is cut: callers refuse it before.
    #[must_use]
    pub fn new(aad: Option<(u16, &[u8; 32])>, metadata: &[u8]) -> Self {
        let mut bytes = InlineBytes::default();
        let (length, digest): (u16, &[u8]) = aad.map_or((0, &[]), |(length, d)| (length, d));
        bytes.append(&length.to_be_bytes());
        bytes.append(digest);
        let metadata = &metadata[..metadata.len().min(MAX_CIPHERTEXT_METADATA_BYTES)];
        #[expect(clippy::cast_possible_truncation, reason = "at most 20")]
        bytes.append(&[metadata.len() as u8]);
        bytes.append(metadata);
        Self { bytes }
    }

    /// The bytes for `CK_GCM_PARAMS.pAAD`.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

/// An AES-GCM initialization vector of 12 or 16 bytes (XKS specification, Encrypt).
pub type Iv = InlineBytes<MAX_GCM_IV_BYTES>;

/// Up to `N` bytes held in place. `N` is at most 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineBytes<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Default for InlineBytes<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> InlineBytes<N> {
    /// Copies `bytes`, or `None` if there are more than `N`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= N).then(|| {
            let mut inline = Self::default();
            inline.append(bytes);
            inline
        })
    }

    /// Appends as much of `bytes` as there is room for.
    fn append(&mut self, bytes: &[u8]) {
        let start = usize::from(self.length);
        let taken = bytes.len().min(N - start);
        debug_assert_eq!(taken, bytes.len(), "InlineBytes overflow");
        self.bytes[start..start + taken].copy_from_slice(&bytes[..taken]);
        #[expect(clippy::cast_possible_truncation, reason = "start + taken <= N <= 255")]
        {
            self.length = (start + taken) as u8;
        }
    }

    /// The bytes held.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What the HSM is to do.
#[derive(Clone)]
pub enum Operation {
    /// Read the key's attributes.
    Describe,
    /// AES-256-GCM encryption of the input. With `Some(prefix)`, a CDIV is asked for: `prefix`
    /// has hashed the request's AAD and the ciphertext metadata already; the worker adds IV,
    /// ciphertext and tag, then has the HSM decrypt that same output and compares, in this order
    /// (XKS specification, Appendix C).
    Encrypt {
        /// The hash so far, if a CDIV is asked for.
        cdiv: Option<Sha256>,
    },
    /// AES-256-GCM decryption; the input is ciphertext and tag.
    Decrypt {
        /// As it came with the request: 12 or 16 bytes.
        iv: Iv,
    },
}

/// A request to the HSM, shared by all attempts at it. Wiped by the last holder.
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// With which key.
    pub key: KeyIndex,
    /// The AAD for the HSM; empty for [`Operation::Describe`].
    pub aad: HsmAad,
    /// Plaintext to encrypt, or ciphertext and tag to decrypt. Its capacity is the pool's.
    pub input: Vec<u8>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            operation: Operation::Describe,
            key: KeyIndex(0),
            aad: HsmAad::default(),
            input: Vec::new(),
        }
    }
}

impl Request {
    /// How many bytes an output buffer for this request needs at the most: the input, a tag, and
    /// an IV that the HSM may append.
    #[must_use]
    pub fn max_output_bytes(&self) -> usize {
        self.input.len() + GCM_TAG_BYTES + MAX_GCM_IV_BYTES
    }

    /// Wipes the input and keeps its memory.
    pub fn wipe(&mut self) {
        self.operation = Operation::Describe;
        self.input.zeroize();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.input.zeroize();
    }
}

/// One attempt at a [`Request`].
pub struct Job {
    /// What is asked.
    pub request: Arc<Request>,
    /// The buffer for the result, empty; at least [`Request::max_output_bytes`] of capacity,
    /// or the worker grows it.
    pub output: Zeroizing<Vec<u8>>,
    /// Whom to answer.
    pub reply_to: ReplyTo,
    /// When the job entered the queue.
    pub queued_at: Instant,
    /// When nobody waits for it any more.
    pub deadline: Instant,
}

/// A key's attributes as the token tells them (PKCS#11 v2.40, 4.2 and 4.9.2 `CKA_ENCRYPT` ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an attribute of the key")]
pub struct KeyAttributes {
    /// `CKA_VALUE_LEN` x 8: 128, 192 or 256 for an AES key; 0 if the token does not say, as
    /// SoftHSM2 does of imported keys.
    pub bits: u32,
    /// `CKA_ENCRYPT`
    pub encrypt: bool,
    /// `CKA_DECRYPT`
    pub decrypt: bool,
    /// `CKA_SIGN`
    pub sign: bool,
    /// `CKA_VERIFY`
    pub verify: bool,
    /// `CKA_WRAP`
    pub wrap: bool,
    /// `CKA_UNWRAP`
    pub unwrap: bool,
    /// `CKA_DERIVE`
    pub derive: bool,
}

impl KeyAttributes {
    /// The attributes of a key of which the token tells nothing: whether it encrypts and decrypts is
    /// left to the operation to fail.
    pub const UNTOLD: Self = Self {
        bits: 0,
        encrypt: true,
        decrypt: true,
        sign: false,
        verify: false,
        wrap: false,
        unwrap: false,
        derive: false,
    };
}

/// The answer to a job that succeeded. Bytes are in [`Completion::output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// The key's attributes.
    Described(KeyAttributes),
    /// `output` is the ciphertext (as long as the plaintext was) and nothing else.
    Encrypted {
        /// The IV that was used, 12 or 16 bytes.
        iv: Iv,
        /// The authentication tag.
        tag: [u8; GCM_TAG_BYTES],
        /// The ciphertext data integrity value if it was asked for; the verifying decrypt passed.
        cdiv: Option<[u8; 32]>,
    },
    /// `output` is the plaintext.
    Decrypted,
}

/// Why a job failed. `proto::xks::encode` maps each to the specification's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No token in use has an AES token key of that label.
    KeyNotFound,
    /// The label fits that many keys, and `allow_ambiguous_labels` is off.
    KeyAmbiguous(u32),
    /// `CKA_ENCRYPT` is false, or the token said `CKR_KEY_FUNCTION_NOT_PERMITTED`.
    MayNotEncrypt,
    /// `CKA_DECRYPT` is false, or the token said `CKR_KEY_FUNCTION_NOT_PERMITTED`.
    MayNotDecrypt,
    /// The tokens in use hold different keys under the label, or another key than its witness.
    KeysDiffer,
    /// The tag does not fit ciphertext, AAD and IV.
    InvalidCiphertext,
    /// More than any token takes in one operation.
    TooLarge,
    /// The queue is full, or the expected wait is past the deadline.
    Overloaded,
    /// The HSM did not answer before the job's deadline.
    TimedOut,
    /// No token is usable at present.
    NoToken,
    /// What was encrypted did not decrypt to the plaintext again.
    CdivMismatch,
    /// The HSM gave something PKCS#11 does not allow here (for instance an output of the wrong
    /// length).
    Malformed,
    /// The attempt panicked.
    Defect,
    /// Any other `CK_RV`.
    Pkcs11(ReturnCode),
}

/// The form for logs and the status page.
impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KeyNotFound => "no such key",
            Self::KeyAmbiguous(keys) => return write!(formatter, "{keys} keys of that label"),
            Self::KeysDiffer => "the tokens' keys of that label differ",
            Self::MayNotEncrypt => "the key may not encrypt",
            Self::MayNotDecrypt => "the key may not decrypt",
            Self::InvalidCiphertext => "bad ciphertext",
            Self::TooLarge => "larger than the HSM takes",
            Self::Overloaded => "too many calls wait",
            Self::TimedOut => "no answer in time",
            Self::NoToken => "no HSM token is usable",
            Self::CdivMismatch => "what was encrypted does not decrypt to the same again",
            Self::Malformed => "the output breaks PKCS#11: no IV, or a wrong length",
            Self::Defect => "a defect in the proxy",
            Self::Pkcs11(code) => return code.fmt(formatter),
        })
    }
}

/// A `CK_RV` that a module returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnCode {
    /// One that the PKCS#11 standard names.
    Standard(&'static NamedCode),
    /// One without a name, such as a vendor's own.
    Other(u64),
}

/// A return code of the PKCS#11 standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedCode {
    /// Its number.
    pub code: u64,
    /// Its name: `CKR_...`.
    pub name: &'static str,
}

impl ReturnCode {
    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Standard(named) => named.code,
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for ReturnCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(named) => write!(formatter, "{} (0x{:08x})", named.name, named.code),
            Self::Other(code) => write!(formatter, "code 0x{code:08x}"),
        }
    }
}

/// A job's answer on its way back.
pub struct Completion {
    /// Whom to answer.
    pub reply_to: ReplyTo,
    /// What came of it.
    pub outcome: Result<Success, Failure>,
    /// The job's buffer. Wiped when dropped.
    pub output: Zeroizing<Vec<u8>>,
    /// The token that gave the answer, if one was asked.
    pub token: Option<TokenIndex>,
    /// Microseconds between [`Job::queued_at`] and the start of the work.
    pub queue_micros: u32,
    /// Microseconds in the HSM, all attempts together.
    pub hsm_micros: u32,
}

/// An inbox for completions: an event loop's, or that of somebody who asks for one thing at a time.
pub struct CompletionQueue {
    is_event_loops: bool,
    completions: Mutex<Vec<Completion>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl CompletionQueue {
    /// An empty inbox; `wake` is called, from the worker's thread, when it stops being empty.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { is_event_loops: true, completions: Mutex::new(Vec::new()), wake: Box::new(wake) }
    }

    /// The same for one who is not at work all the time, as an event loop is under load.
    pub fn of_caller(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { is_event_loops: false, ..Self::new(wake) }
    }

    /// Whether it is an event loop's, which has a core to itself.
    #[must_use]
    pub fn is_event_loops(&self) -> bool {
        self.is_event_loops
    }

    /// Adds completions, emptying `batch`; wakes the loop if there were none before.
    pub fn push(&self, batch: &mut Vec<Completion>) {
        if batch.is_empty() {
            return;
        }
        let was_empty = {
            let mut completions = self.completions.lock();
            let was_empty = completions.is_empty();
            completions.append(batch);
            was_empty
        };
        if was_empty {
            (self.wake)();
        }
    }

    /// Moves all completions into `into`, which must be empty: the two buffers change places.
    pub fn take(&self, into: &mut Vec<Completion>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.completions.lock(), into);
    }
}

/// A token's state as GetHealthStatus reports it (XKS specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// Healthy.
    Active,
    /// Unhealthy but able to serve.
    Degraded,
    /// Unable to serve.
    Unavailable,
}

/// One entry of `ekmFleetDetails`. The strings are printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHealth {
    /// Serial number, or the label where there is none.
    pub id: String,
    /// `CK_TOKEN_INFO.label`, trimmed: what logs call the token.
    pub label: String,
    /// Model with firmware and hardware version.
    pub model: String,
    /// `CK_TOKEN_INFO.manufacturerID`, trimmed.
    pub manufacturer: String,
    /// By its latest probe and recent outcomes.
    pub status: HealthStatus,
}

/// All tokens' health, as cached by the last probes; at most 60 s old (XKS specification,
/// GetHealthStatus).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetHealth {
    /// In the order of [`TokenIndex`].
    pub tokens: Vec<TokenHealth>,
}

impl FleetHealth {
    /// Whether at least one token can serve: what `/readyz` asks.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.tokens.iter().any(|token| token.status != HealthStatus::Unavailable)
    }
}

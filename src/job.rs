//! The vocabulary that `proto` and `hsm` share: requests to the HSM and their results.
//!
//! A [`Request`] is read-only and shared: every attempt at it (first, retry or hedge) holds a
//! reference, and dropping the last one zeroes it. A [`Job`] is one attempt at a request: it owns
//! the buffer into which the HSM writes, so that an attempt that hangs holds nothing that another
//! attempt needs.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::{GCM_TAG_BYTES, MAX_CIPHERTEXT_METADATA_BYTES, MAX_GCM_IV_BYTES};
use crate::sync::Mutex;

/// The key of a job, as an index into the labels of external keys given to the HSM side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIndex(pub u32);

/// A token, as its index in the fleet in the order of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenIndex(pub u16);

/// The address of an answer: the event loop, the connection's slot, and the request's serial
/// number.
///
/// A serial number is used only once within a loop, so a late answer finds a different number in
/// the slot, or an empty slot, and is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Index of the event loop.
    pub event_loop: u16,
    /// Index of the connection in that loop's slab.
    pub slot: u32,
    /// Serial number of the request, unique within the loop.
    pub serial: u64,
}

/// The additional authenticated data that the HSM receives, at most 55 bytes: the 2-byte big-endian
/// length of the request's AAD, its SHA-256 if the member was present, the 1-byte length of the
/// ciphertext metadata, and the ciphertext metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HsmAad {
    bytes: InlineBytes<{ 2 + 32 + 1 + MAX_CIPHERTEXT_METADATA_BYTES }>,
}

impl HsmAad {
    /// Builds the form that the reference proxy uses, so that ciphertexts are interchangeable.
    ///
    /// `aad` is the length and SHA-256 of the request's AAD if the member was present, even if it
    /// was empty. `metadata` is truncated to 20 bytes; callers reject longer metadata earlier.
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

    /// Builds a form for the proxy's own use that no request can have: those of requests have at
    /// most 23 bytes without AAD, and at least 35 with it.
    #[must_use]
    pub fn of_no_request<const N: usize>(context: &[u8; N]) -> Self {
        const { assert!(N > 3 + MAX_CIPHERTEXT_METADATA_BYTES && N < 2 + 32 + 1) };
        let mut bytes = InlineBytes::default();
        bytes.append(context);
        Self { bytes }
    }

    /// Returns the bytes for `CK_GCM_PARAMS.pAAD`.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

/// An AES-GCM initialization vector of 12 or 16 bytes (XKS specification, Encrypt).
pub type Iv = InlineBytes<MAX_GCM_IV_BYTES>;

/// Up to `N` bytes stored inline. `N` is at most 255.
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
    /// Copies `bytes`. Returns `None` if there are more than `N`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= N).then(|| {
            let mut inline = Self::default();
            inline.append(bytes);
            inline
        })
    }

    /// Appends `bytes`, truncated to the space that is left.
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

    /// Returns the bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// An operation of the HSM.
#[derive(Clone)]
pub enum Operation {
    /// Reads the key's attributes.
    Describe,
    /// Encrypts the input with AES-256-GCM. If `cdiv` is set, a CDIV is requested: the hash already
    /// covers the request's AAD and the ciphertext metadata. The worker adds IV, ciphertext and
    /// tag, then makes the HSM decrypt its output, and then compares the plaintexts, in this order
    /// (XKS specification, Appendix C).
    Encrypt {
        /// The state of the hash so far, if a CDIV is requested.
        cdiv: Option<Sha256>,
    },
    /// Decrypts with AES-256-GCM; the input is ciphertext and tag.
    Decrypt {
        /// The IV from the request: 12 or 16 bytes.
        iv: Iv,
    },
}

/// A request to the HSM, shared by all attempts at it. Zeroed when the last reference is dropped.
pub struct Request {
    /// The operation.
    pub operation: Operation,
    /// The key.
    pub key: KeyIndex,
    /// The AAD for the HSM; empty for [`Operation::Describe`].
    pub aad: HsmAad,
    /// Plaintext to encrypt, or ciphertext and tag to decrypt. Its memory comes from a pool.
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
    /// Returns the maximum size of the output: the input, a tag, and an IV that the HSM may append.
    #[must_use]
    pub fn max_output_bytes(&self) -> usize {
        self.input.len() + GCM_TAG_BYTES + MAX_GCM_IV_BYTES
    }

    /// Zeroes the input but keeps its memory for reuse; nothing of the request is left.
    pub fn wipe(&mut self) {
        self.operation = Operation::Describe;
        self.aad = HsmAad::default();
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
    /// The request.
    pub request: Arc<Request>,
    /// Empty buffer for the result. The worker enlarges it if its capacity is less than
    /// [`Request::max_output_bytes`].
    pub output: Zeroizing<Vec<u8>>,
    /// Address of the answer.
    pub reply_to: ReplyTo,
    /// Time at which the job entered the queue.
    pub queued_at: Instant,
    /// Time after which the answer is useless.
    pub deadline: Instant,
}

/// A key's attributes as reported by the token (PKCS#11 v2.40, 4.2 and 4.9.2 `CKA_ENCRYPT` ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an attribute of the key")]
pub struct KeyAttributes {
    /// `CKA_VALUE_LEN` x 8: 128, 192 or 256 for an AES key; 0 if the token does not report it, as
    /// SoftHSM2 does for imported keys.
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
    /// The attributes assumed for a key whose attributes the token does not report: if the key
    /// cannot encrypt or decrypt, the operation itself will fail.
    pub const UNREPORTED: Self = Self {
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

/// The result of a job that succeeded. Its bytes are in [`Completion::output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// The key's attributes.
    Described(KeyAttributes),
    /// `output` holds the ciphertext only, which is as long as the plaintext.
    Encrypted {
        /// The IV, 12 or 16 bytes.
        iv: Iv,
        /// The authentication tag.
        tag: [u8; GCM_TAG_BYTES],
        /// The ciphertext data integrity value, if it was requested; the verifying decryption has
        /// then succeeded.
        cdiv: Option<[u8; 32]>,
    },
    /// `output` holds the plaintext.
    Decrypted,
}

/// The reason why a job failed. `proto::xks::error` maps each one to an error of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No token in use has an AES token key with that label.
    KeyNotFound,
    /// Several keys have the label, and `allow_ambiguous_labels` is off. Contains their number.
    KeyAmbiguous(u32),
    /// `CKA_ENCRYPT` is false, or the token returned `CKR_KEY_FUNCTION_NOT_PERMITTED`.
    MayNotEncrypt,
    /// `CKA_DECRYPT` is false, or the token returned `CKR_KEY_FUNCTION_NOT_PERMITTED`.
    MayNotDecrypt,
    /// The tokens in use hold different keys under the label, or a key that does not match its
    /// witness.
    KeysDiffer,
    /// The key has made this number of encryptions, its limit, and more are refused.
    LimitReached(u64),
    /// The tag does not match the ciphertext, AAD and IV.
    InvalidCiphertext,
    /// The input is larger than any token accepts in one operation.
    TooLarge,
    /// The queue is full, or the expected wait would exceed the deadline.
    Overloaded,
    /// The HSM did not answer before the job's deadline.
    TimedOut,
    /// No token is currently usable.
    NoToken,
    /// The decryption that verifies a CDIV did not return the plaintext.
    CdivMismatch,
    /// The HSM returned something that PKCS#11 does not allow, such as an output of the wrong
    /// length.
    Malformed,
    /// The attempt panicked.
    Defect,
    /// The module returned any other code.
    Pkcs11(ReturnCode),
}

/// The text shown in logs and on the status page.
impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KeyNotFound => "no such key",
            Self::KeyAmbiguous(keys) => return write!(formatter, "{keys} keys with that label"),
            Self::KeysDiffer => "the tokens' keys with that label differ",
            Self::MayNotEncrypt => "the key may not encrypt",
            Self::MayNotDecrypt => "the key may not decrypt",
            Self::LimitReached(limit) => {
                return write!(formatter, "the key has reached its limit of {limit} encryptions");
            }
            Self::InvalidCiphertext => "bad ciphertext",
            Self::TooLarge => "larger than the HSM accepts",
            Self::Overloaded => "too many calls are waiting",
            Self::TimedOut => "no answer in time",
            Self::NoToken => "no HSM token is usable",
            Self::CdivMismatch => "the ciphertext does not decrypt to the plaintext",
            Self::Malformed => "the output violates PKCS#11: no IV, or a wrong length",
            Self::Defect => "a defect in the proxy",
            Self::Pkcs11(code) => return code.fmt(formatter),
        })
    }
}

/// A `CK_RV` returned by a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnCode {
    /// A code that the PKCS#11 standard names.
    Standard(&'static NamedCode),
    /// A code that the standard does not name, such as a vendor-defined one.
    Other(u64),
}

/// A return code of the PKCS#11 standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedCode {
    /// The numeric code.
    pub code: u64,
    /// The name: `CKR_...`.
    pub name: &'static str,
}

impl ReturnCode {
    /// Returns the numeric code.
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

/// The answer to a job.
pub struct Completion {
    /// Address of the answer.
    pub reply_to: ReplyTo,
    /// The result.
    pub outcome: Result<Success, Failure>,
    /// The job's buffer. Zeroed when dropped.
    pub output: Zeroizing<Vec<u8>>,
    /// The token that gave the answer, if any token was asked.
    pub token: Option<TokenIndex>,
    /// Microseconds from [`Job::queued_at`] to the start of the call.
    pub queue_micros: u32,
    /// Microseconds in the HSM, summed over all attempts.
    pub hsm_micros: u32,
}

/// An inbox for completions, owned by an event loop or by a caller that makes one request at a
/// time.
pub struct CompletionQueue {
    is_event_loops: bool,
    completions: Mutex<Vec<Completion>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl CompletionQueue {
    /// Creates an event loop's empty inbox. `wake` is called, on the worker's thread, whenever the
    /// inbox becomes non-empty.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { is_event_loops: true, completions: Mutex::new(Vec::new()), wake: Box::new(wake) }
    }

    /// Creates the inbox of a caller that, unlike an event loop, does not need a dedicated core.
    pub fn of_caller(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { is_event_loops: false, ..Self::new(wake) }
    }

    /// Returns whether the inbox belongs to an event loop.
    #[must_use]
    pub fn is_event_loops(&self) -> bool {
        self.is_event_loops
    }

    /// Moves all completions out of `batch` into the inbox, and wakes the owner if it was empty.
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

    /// Moves all completions into `into`, which must be empty, by swapping the two buffers.
    pub fn take(&self, into: &mut Vec<Completion>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.completions.lock(), into);
    }
}

/// A token's state as reported by GetHealthStatus (XKS specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// The token is healthy.
    Active,
    /// The token is unhealthy but able to serve.
    Degraded,
    /// The token is unable to serve.
    Unavailable,
}

/// One entry of `ekmFleetDetails`. The strings are printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHealth {
    /// Serial number, or the label if there is none.
    pub id: String,
    /// `CK_TOKEN_INFO.label`, trimmed; the token's name in logs.
    pub label: String,
    /// Model with firmware and hardware version.
    pub model: String,
    /// `CK_TOKEN_INFO.manufacturerID`, trimmed.
    pub manufacturer: String,
    /// State according to the latest health check and recent calls.
    pub status: HealthStatus,
}

/// Health of all tokens according to the latest health checks, at most 60 s old (XKS specification,
/// GetHealthStatus).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetHealth {
    /// The tokens, in the order of [`TokenIndex`].
    pub tokens: Vec<TokenHealth>,
}

impl FleetHealth {
    /// Returns whether at least one token can serve requests, as reported by `/readyz`.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.tokens.iter().any(|token| token.status != HealthStatus::Unavailable)
    }
}

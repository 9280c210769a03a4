//! Checkpoints: lines with a seal made by the HSM, which covers all lines before it.
//!
//! The chain alone protects only against those who lack its first key. If the settings name a key
//! in the HSM, checkpoints contain a digest sealed with that key, of the chain's id, the
//! checkpoint's own number, and the code of the previous line. Changing an older line then requires
//! both the chain's first key and the HSM's key.

use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::chain::{Chain, from_hex, hex};
use super::line::string;
use crate::limits::AUDIT_CHECKPOINT_RETRY_INTERVAL;

/// The line's `event`.
pub(super) const EVENT: &str = "checkpoint";
/// Length of the digest that [`CheckpointKey::seal`] takes.
pub const DIGEST_BYTES: usize = 32;

/// A key in the HSM that seals digests. No key store may use it: anyone who can encrypt with it can
/// create a seal.
pub trait CheckpointKey: Send {
    /// Returns its `CKA_LABEL`.
    fn label(&self) -> &str;

    /// Encrypts and authenticates a digest. Waits for the HSM for at most
    /// [`crate::limits::MAX_AUDIT_CHECKPOINT_WAIT`].
    ///
    /// # Errors
    /// [`CheckpointError`]
    fn seal(&self, digest: &[u8; DIGEST_BYTES]) -> Result<Sealed, CheckpointError>;
}

/// The reason why a checkpoint was not sealed, or its seal was not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// The HSM cannot do it at present; contains the reason, for the operator.
    Hsm(String),
    /// The line names a key other than `[audit] hsm_key`.
    OtherKey(String),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hsm(reason) => formatter.write_str(reason),
            Self::OtherKey(label) => write!(
                formatter,
                "the checkpoint names the key {label:?}, which [audit] hsm_key in the settings \
                 does not"
            ),
        }
    }
}

/// A digest encrypted with AES-GCM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The initialization vector, 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// Ciphertext and tag, 48 bytes.
    pub bytes: Vec<u8>,
}

/// The HSM's answer about a checkpoint's seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It is genuine.
    Present,
    /// It is genuine, but has the form of former versions, which a request to the HSM can have, too.
    Former,
    /// The HSM has not made it.
    None,
}

/// A checkpoint in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `CKA_LABEL` of the key, according to the line.
    pub label: String,
    /// The digest that a genuine seal contains.
    pub digest: [u8; DIGEST_BYTES],
    /// The seal in the line.
    pub sealed: Sealed,
}

/// Returns the digest that a checkpoint seals if it is the next line of `chain`.
pub(super) fn digest(chain: &Chain) -> [u8; DIGEST_BYTES] {
    Sha256::new()
        .chain_update(chain.id())
        .chain_update(chain.seq().to_be_bytes())
        .chain_update(chain.previous())
        .finalize()
        .into()
}

/// Returns the members `iv` and `sealed` of a checkpoint, in hexadecimal digits.
pub(super) fn members(sealed: &Sealed) -> (String, String) {
    (hex(&sealed.iv), hex(&sealed.bytes))
}

/// Parses the checkpoint that is the next line of `chain`; `None` if the line is not a checkpoint.
pub(super) fn parse(line: &[u8], chain: &Chain) -> Option<Checkpoint> {
    let sealed =
        Sealed { iv: bytes_of(string(line, "iv")?)?, bytes: bytes_of(string(line, "sealed")?)? };
    let label = string(line, "key")?.to_owned();
    Some(Checkpoint { label, digest: digest(chain), sealed })
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().as_chunks::<2>();
    if !pairs.1.is_empty() {
        return None;
    }
    pairs.0.iter().map(|pair| from_hex::<1>(pair).map(|[byte]| byte)).collect()
}

/// The time at which the next checkpoint is due.
pub(super) struct Schedule {
    /// Number of the first line after the last checkpoint.
    next_seq: u64,
    due: Instant,
    /// True if it has been logged that the HSM does not seal.
    has_failed: bool,
}

impl Schedule {
    /// Creates a schedule whose first checkpoint is due at once.
    pub(super) fn new() -> Self {
        Self { next_seq: 0, due: Instant::now(), has_failed: false }
    }

    /// Returns whether a checkpoint is due and there are lines that no checkpoint covers.
    pub(super) fn is_due(&self, next_seq: u64, now: Instant) -> bool {
        next_seq > self.next_seq && now >= self.due
    }

    /// Returns whether, at the end of a file, there are lines that no checkpoint covers.
    pub(super) fn is_due_at_the_end(&self, next_seq: u64) -> bool {
        next_seq > self.next_seq && !self.has_failed
    }

    /// Records a checkpoint, which is the line before number `next_seq`.
    pub(super) fn done(&mut self, next_seq: u64, now: Instant, interval: Duration) {
        if self.has_failed {
            tracing::info!("the HSM seals checkpoints of the audit log again");
        }
        *self = Self { next_seq, due: now + interval, has_failed: false };
    }

    /// Records a failed attempt.
    pub(super) fn failed(&mut self, now: Instant, error: &CheckpointError) {
        self.due = now + AUDIT_CHECKPOINT_RETRY_INTERVAL;
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(
                reason = %error,
                "the HSM does not seal a checkpoint of the audit log; \
                this is retried until it does"
            );
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::observe::audit::chain::{CODE_BYTES, key_of};

    /// A seal binds the chain, the line's number and the previous line; a checkpoint reads back.
    #[test]
    fn what_a_checkpoint_binds() {
        let mut chain = Chain::begin(key_of(&[7; CODE_BYTES]));
        let at_begin = digest(&chain);
        let other = Chain::begin(key_of(&[8; CODE_BYTES]));
        assert_ne!(digest(&other), at_begin);
        let mut changed = chain.clone();
        chain.seal(b"a line");
        changed.seal(b"another");
        assert_ne!(digest(&chain), digest(&changed));

        let sealed = Sealed { iv: vec![1; 12], bytes: vec![0xa5; 48] };
        let (iv, bytes) = members(&sealed);
        let line = format!(r#"{{"seq":1,"key":"audit","iv":"{iv}","sealed":"{bytes}""#);
        let parsed = parse(line.as_bytes(), &chain).unwrap();
        assert_eq!(parsed, Checkpoint { label: "audit".into(), digest: digest(&chain), sealed });
        for (from, to) in [("\"iv\"", "\"no\""), ("01\"", "0\""), ("a5\"", "zz\"")] {
            assert_eq!(parse(line.replace(from, to).as_bytes(), &chain), None, "{to}");
        }
    }

    /// Checkpoints are due at once, then at intervals, and only if there are new lines. A failed
    /// one is retried, but does not delay the end of a file.
    #[test]
    fn when_one_is_due() {
        let now = Instant::now();
        let interval = Duration::from_secs(600);
        let mut schedule = Schedule::new();
        assert!(schedule.is_due(2, Instant::now()));
        schedule.done(3, now, interval);
        assert!(!schedule.is_due(3, now + interval) && !schedule.is_due_at_the_end(3));
        assert!(!schedule.is_due(4, now) && schedule.is_due(4, now + interval));
        assert!(schedule.is_due_at_the_end(4));
        schedule.failed(now, &CheckpointError::Hsm("it is away".to_owned()));
        assert!(!schedule.is_due_at_the_end(4));
        assert!(!schedule.is_due(4, now));
        assert!(schedule.is_due(4, now + AUDIT_CHECKPOINT_RETRY_INTERVAL));
    }
}

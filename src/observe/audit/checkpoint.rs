//! Checkpoints: lines that the HSM vouches for, and with each all lines before it.
//!
//! The chain alone protects against whoever lacks its first key. Where the settings name a key in
//! the HSM, a checkpoint holds what that key has sealed: a digest of the chain's name, the
//! checkpoint's own number, and the code of the line before. To change an older line, somebody
//! would need the chain's first key and the HSM's key as well.

use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::chain::{Chain, from_hex, hex};
use super::line::string;
use crate::limits::AUDIT_CHECKPOINT_RETRY_INTERVAL;

/// What the line's `event` says.
pub(super) const EVENT: &str = "checkpoint";
/// What [`CheckpointKey::seal`] is given.
pub const DIGEST_BYTES: usize = 32;

/// A key in the HSM that seals digests. No key store may use it: who can have it encrypt, can seal.
pub trait CheckpointKey: Send {
    /// Its `CKA_LABEL`.
    fn label(&self) -> &str;

    /// Encrypts and authenticates a digest. Waits for the HSM, for
    /// [`crate::limits::MAX_AUDIT_CHECKPOINT_WAIT`] at the most.
    ///
    /// # Errors
    /// Why the HSM did not, for the operator.
    fn seal(&self, digest: &[u8; DIGEST_BYTES]) -> Result<Sealed, CheckpointError>;
}

/// The reason why the HSM did not seal a checkpoint, or say whether it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// The HSM side did not do it, for this reason.
    Hsm(String),
    /// The line names a key that is not `[audit] hsm_key`.
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

/// A digest under AES-GCM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The initialization vector, 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// Ciphertext and tag, 48 bytes.
    pub bytes: Vec<u8>,
}

/// A checkpoint as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The key's `CKA_LABEL`, as the line has it.
    pub label: String,
    /// What the key has to have sealed for the line to be a true one.
    pub digest: [u8; DIGEST_BYTES],
    /// What the line says that it has.
    pub sealed: Sealed,
}

/// What a checkpoint seals that is the next line of `chain`.
pub(super) fn digest(chain: &Chain) -> [u8; DIGEST_BYTES] {
    Sha256::new()
        .chain_update(chain.id())
        .chain_update(chain.seq().to_be_bytes())
        .chain_update(chain.previous())
        .finalize()
        .into()
}

/// The members of a checkpoint, in hexadecimal digits where they are bytes.
pub(super) fn members(sealed: &Sealed) -> (String, String) {
    (hex(&sealed.iv), hex(&sealed.bytes))
}

/// The checkpoint that is the next line of `chain`. `None` if the line has not the form of one.
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

/// When the next checkpoint is due.
pub(super) struct Schedule {
    /// The number behind the last checkpoint.
    next_seq: u64,
    due: Instant,
    /// The log has said that the HSM does not seal.
    has_failed: bool,
}

impl Schedule {
    /// The first one is due at once.
    pub(super) fn new() -> Self {
        Self { next_seq: 0, due: Instant::now(), has_failed: false }
    }

    /// Whether there are lines that no checkpoint covers, and it is time for one.
    pub(super) fn is_due(&self, next_seq: u64, now: Instant) -> bool {
        next_seq > self.next_seq && now >= self.due
    }

    /// The same before a file ends, however long ago the last one is.
    pub(super) fn is_due_at_the_end(&self, next_seq: u64) -> bool {
        next_seq > self.next_seq && !self.has_failed
    }

    /// There is one, and `next_seq` is the number behind it.
    pub(super) fn done(&mut self, next_seq: u64, now: Instant, interval: Duration) {
        if self.has_failed {
            tracing::info!("the HSM vouches for the audit log again");
        }
        *self = Self { next_seq, due: now + interval, has_failed: false };
    }

    /// The HSM did not seal.
    pub(super) fn failed(&mut self, now: Instant, error: &CheckpointError) {
        self.due = now + AUDIT_CHECKPOINT_RETRY_INTERVAL;
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(
                reason = %error,
                "the HSM does not seal a checkpoint of the audit log; \
                it is asked again until it does"
            );
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::observe::audit::chain::{CODE_BYTES, key_of};

    /// What is sealed is of this chain, this place and the line before; what is written reads back.
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

    /// At once, then each interval, and not without a new line; an HSM that fails is asked again,
    /// but does not hold up the end of a file.
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

//! `[audit]`: where the audit log goes, and what happens when it cannot.

use std::path::PathBuf;

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where the files are. Made if it is missing.
    pub directory: PathBuf,
    /// What their names begin with.
    pub prefix: String,
    /// When a new file begins.
    pub rotation: AuditRotation,
    /// How long a file may become before a new one begins, in bytes.
    pub max_file_bytes: Option<u64>,
    /// How many files are kept beside the present one. `None` is all of them.
    pub retain_files: Option<usize>,
    /// What to do when a line cannot be kept.
    pub when_full: WhenFull,
    /// When lines are forced to the disk.
    pub sync: AuditSync,
    /// The first key of the chain. Read only where there is no state yet.
    pub key_file: PathBuf,
    /// `CKA_LABEL` of the key in the HSM that seals checkpoints, if any are to be.
    pub hsm_key: Option<String>,
}

impl AuditConfig {
    /// Where the chain's state is kept.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.directory.join(format!("{}.state", self.prefix))
    }
}

/// `[audit] rotation_kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditRotation {
    /// Each hour, UTC
    Hourly,
    /// Each day, UTC
    Daily,
    /// When it is moved away, or too large
    Never,
}

/// `[audit] when_full`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Calls are refused whose lines cannot be kept.
    #[default]
    Refuse,
    /// Lines are lost, and counted.
    Drop,
}

/// `[audit] sync`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditSync {
    /// After each batch of lines: fdatasync(2).
    Always,
    /// Each [`crate::limits::AUDIT_SYNC_INTERVAL`].
    #[default]
    Interval,
    /// When the system does.
    Never,
}

//! The configuration of the audit log.

use std::path::PathBuf;

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Directory of the files; created if it is missing.
    pub directory: PathBuf,
    /// Beginning of the file names.
    pub prefix: String,
    /// Interval at which a new file begins.
    pub rotation: AuditRotation,
    /// Length of a file, in bytes, at which a new one begins.
    pub max_file_bytes: Option<u64>,
    /// Number of older files to keep; all of them if `None`.
    pub retain_files: Option<usize>,
    /// The policy for calls whose lines cannot be kept.
    pub when_full: WhenFull,
    /// The policy for forcing lines to the disk.
    pub sync: AuditSync,
    /// File with the first key of the chain; read only if there is no state yet.
    pub key_file: PathBuf,
    /// `CKA_LABEL` of the key in the HSM that seals checkpoints; if `None`, there are no
    /// checkpoints.
    pub hsm_key: Option<String>,
}

impl AuditConfig {
    /// Returns the path of the file with the chain's state.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.directory.join(format!("{}.state", self.prefix))
    }
}

/// `[audit] rotation_kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditRotation {
    /// Every hour, UTC
    Hourly,
    /// Every day, UTC
    Daily,
    /// Never, unless the file is moved away or too large
    Never,
}

/// `[audit] when_full`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The calls are refused.
    #[default]
    Refuse,
    /// The lines are lost, and counted.
    Drop,
}

/// `[audit] sync`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditSync {
    /// After each batch of lines, by fdatasync(2)
    Always,
    /// Every [`crate::limits::AUDIT_SYNC_INTERVAL`]
    #[default]
    Interval,
    /// At times chosen by the system
    Never,
}

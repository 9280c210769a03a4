//! The counters of one key.

use super::counter::SharedCounter;

/// A key's counters.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct KeyMetrics {
    /// The external key id.
    pub key_id: Box<str>,
    /// Encryptions: what a limit on a key's use is measured against (NIST SP 800-38D, 8.3).
    pub encrypts: SharedCounter,
}

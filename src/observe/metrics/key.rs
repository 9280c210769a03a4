//! The counters of one key.

use super::counter::SharedCounter;

/// The counters of one key.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct KeyMetrics {
    /// External key id.
    pub key_id: Box<str>,
    /// Number of encryptions, which a key's use is limited by (NIST SP 800-38D, 8.3).
    pub encrypts: SharedCounter,
}

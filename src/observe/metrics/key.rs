//! The counters of one key.

use super::counter::SharedCounter;

/// The counters of one key.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct KeyMetrics {
    /// External key id.
    pub key_id: Box<str>,
    /// Number of encryptions, which limits the use of a key (NIST SP 800-38D, 8.3).
    pub encrypts: SharedCounter,
}

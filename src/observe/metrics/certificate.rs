//! The expiry of one certificate.

use super::labels::ListenerLabel;

/// A certificate that a listener presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateMetrics {
    /// Listener that presents it.
    pub listener: ListenerLabel,
    /// Subject distinguished name.
    pub subject: String,
    /// Time at which it expires, in seconds since 1970.
    pub not_after_unix_secs: i64,
}

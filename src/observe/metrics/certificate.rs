//! The expiry of one certificate.

use super::labels::ListenerLabel;

/// A certificate that we show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateMetrics {
    /// The listener that shows it.
    pub listener: ListenerLabel,
    /// Subject distinguished name.
    pub subject: String,
    /// Seconds since 1970 at which it expires.
    pub not_after_unix_secs: i64,
}

//! The words under which AWS KMS reports the violation of a check, where they do not depend on the
//! answer. docs/troubleshooting.md has their sources.

use super::kms_codes::{INVALID_KEY, INVALID_TLS, NOT_REACHABLE};

const FAILED_USE: &str = "KMSInvalidStateException";

/// Checks whose violation has the same code whatever the answer was.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("network.reachable", NOT_REACHABLE),
    ("network.ipv4", NOT_REACHABLE),
    ("health.usable", NOT_REACHABLE),
    ("tls.chain", INVALID_TLS),
    ("tls.kms-authority", INVALID_TLS),
    ("tls.name", INVALID_TLS),
    ("tls.subject", INVALID_TLS),
    ("metadata.usable", INVALID_KEY),
    ("metadata.usable-other", INVALID_KEY),
    ("encrypt.answer", FAILED_USE),
    ("encrypt.cdiv", FAILED_USE),
    ("decrypt.answer", FAILED_USE),
    ("decrypt.without-aad", FAILED_USE),
    ("decrypt.earlier", FAILED_USE),
    ("latency.new-connection", FAILED_USE),
    ("latency.one-at-a-time", FAILED_USE),
    ("latency.concurrent", FAILED_USE),
];

/// Returns the code of a check that always has the same.
#[must_use]
pub fn fixed(rule: &str) -> Option<&'static str> {
    FIXED.iter().find(|(name, _)| *name == rule).map(|(_, code)| *code)
}

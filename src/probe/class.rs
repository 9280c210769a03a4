//! Classes of failures, each with an exit code of its own.

use super::kms_codes as kms;
use super::report::{Check, Verdict};
use crate::exit::{
    EXIT_FAILED, EXIT_PROBE_AUTHENTICATION, EXIT_PROBE_CONFIGURATION, EXIT_PROBE_RESPONSE,
    EXIT_PROBE_SLOW, EXIT_PROBE_TLS, EXIT_UNAVAILABLE,
};

/// The kind of a failure: who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing answers, or no external key manager is available.
    Unreachable,
    /// Handshake or certificate.
    Tls,
    /// The credential, or what the proxy does with signatures.
    Authentication,
    /// The proxy does not know the path or the key, or KMS cannot use the key.
    Configuration,
    /// An answer that KMS cannot interpret.
    Response,
    /// Answers later than KMS waits.
    Slow,
    /// Other departures from the API.
    Api,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::Tls,
        Self::Authentication,
        Self::Configuration,
        Self::Response,
        Self::Slow,
        Self::Api,
    ];

    /// Returns the class of a failed check.
    #[must_use]
    pub fn of(check: &Check) -> Self {
        let by_code = check.kms.and_then(Self::of_code);
        by_code.unwrap_or_else(|| Self::of_rule(check.rule.name))
    }

    /// Returns the class of a connection error code or exception, if it determines the class.
    fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            kms::NOT_REACHABLE => Self::Unreachable,
            kms::INVALID_TLS => Self::Tls,
            kms::INVALID_CREDENTIALS | kms::ACCESS_DENIED => Self::Authentication,
            kms::INVALID_CONFIGURATION | kms::KEY_NOT_FOUND | kms::INVALID_KEY => {
                Self::Configuration
            }
            kms::INVALID_RESPONSE => Self::Response,
            kms::TIMED_OUT => Self::Slow,
            _ => return None,
        })
    }

    fn of_rule(name: &str) -> Self {
        match name {
            "health.answer"
            | "metadata.answer"
            | "encrypt.answer"
            | "encrypt.cdiv"
            | "encrypt.cdiv-without-aad"
            | "decrypt.answer"
            | "decrypt.without-aad"
            | "errors.form"
            | "http.content-type"
            | "http.version" => Self::Response,
            "health.time" | "http.in-time" => Self::Slow,
            "network.reachable" | "network.ipv4" | "health.usable" => Self::Unreachable,
            _ => match name.split('.').next() {
                Some("tls" | "mtls") => Self::Tls,
                Some("authentication") => Self::Authentication,
                Some("latency") => Self::Slow,
                _ => Self::Api,
            },
        }
    }

    /// Returns the name in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Authentication => "authentication",
            Self::Configuration => "configuration",
            Self::Response => "response",
            Self::Slow => "slow",
            Self::Api => "api",
        }
    }

    /// Returns the exit code if all failures are of this class.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Unreachable => EXIT_UNAVAILABLE,
            Self::Tls => EXIT_PROBE_TLS,
            Self::Authentication => EXIT_PROBE_AUTHENTICATION,
            Self::Configuration => EXIT_PROBE_CONFIGURATION,
            Self::Response => EXIT_PROBE_RESPONSE,
            Self::Slow => EXIT_PROBE_SLOW,
            Self::Api => EXIT_FAILED,
        }
    }
}

/// Returns the classes of the failed checks, each once.
#[must_use]
pub fn failed(checks: &[Check]) -> Vec<Class> {
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail);
    let mut classes: Vec<Class> = failed.map(Class::of).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// Returns the exit code: 0 without a failure, that of the class if there is one, else
/// [`EXIT_FAILED`].
#[must_use]
pub fn exit_code(checks: &[Check]) -> u8 {
    match failed(checks).as_slice() {
        [] => 0,
        [class] => class.exit_code(),
        _ => EXIT_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each class has its own name and code, and none has that of another outcome of the command.
    #[test]
    fn codes() {
        let mut codes = Class::ALL.map(Class::exit_code).to_vec();
        assert!(!codes.contains(&0) && !codes.contains(&2) && !codes.contains(&78));
        let mut names = Class::ALL.map(Class::name).to_vec();
        codes.sort_unstable();
        codes.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((codes.len(), names.len()), (Class::ALL.len(), Class::ALL.len()));
    }
}

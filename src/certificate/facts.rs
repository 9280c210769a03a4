//! Descriptions of certificates.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::host_name;
use crate::observe::timestamp::civil_from_days;

const SECS_PER_DAY: i64 = 86_400;
const MIN_RSA_BITS: usize = 2048;
const MIN_CURVE_BITS: usize = 256;

/// A description of a certificate. Its texts are the issuer's and may have any characters.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Distinguished name of the holder.
    pub subject: String,
    /// Common names (CN) in it.
    pub common_names: Vec<String>,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Values of the issuer's name in lower case, in order; empty if one is not text.
    pub issuer_values: Vec<String>,
    /// True if holder and issuer have the same name, as those of a root have.
    pub is_self_issued: bool,
    /// Subject alternative names.
    pub names: Vec<String>,
    /// Those of them that are DNS names.
    pub dns_names: Vec<String>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Beginning of the validity, in seconds since 1970.
    pub not_before_unix_secs: i64,
    /// End of the validity, in seconds since 1970.
    pub not_after_unix_secs: i64,
    /// Kind and size of the key, such as "RSA, 2048 bits".
    pub key: String,
    /// The key has at least 2048 bits of RSA, or is on a curve of at least 256 bits.
    pub is_key_strong: bool,
    /// The key is of RSA or on a NIST curve, as the cipher suites of KMS are.
    pub is_key_of_kms_suites: bool,
}

impl Certificate {
    /// Parses a certificate. Returns `None` if it is malformed.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let (key, is_key_strong, is_key_of_kms_suites) = key(&certificate);
        let (names, dns_names) = alternative_names(&certificate);
        let subject = certificate.subject();
        let common_names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        Some(Self {
            subject: subject.to_string(),
            common_names: common_names.map(str::to_owned).collect(),
            issuer: certificate.issuer().to_string(),
            issuer_values: values(certificate.issuer()),
            is_self_issued: certificate.issuer().as_raw() == subject.as_raw(),
            names,
            dns_names,
            fingerprint: Sha256::digest(der).into(),
            not_before_unix_secs: certificate.validity().not_before.timestamp(),
            not_after_unix_secs: certificate.validity().not_after.timestamp(),
            key,
            is_key_strong,
            is_key_of_kms_suites,
        })
    }

    /// Returns the days until it expires; a negative number if it has expired.
    #[must_use]
    pub fn days_left(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.not_after_unix_secs.saturating_sub(now).div_euclid(SECS_PER_DAY)
    }

    /// Returns the date on which it expires: `YYYY-MM-DD`.
    #[must_use]
    pub fn not_after(&self) -> String {
        date(self.not_after_unix_secs)
    }

    /// Returns whether one of its common names is for `host`. AWS's guide wants that.
    #[must_use]
    pub fn has_common_name_for(&self, host: &str) -> bool {
        self.common_names.iter().any(|name| host_name::is_for(name, host))
    }

    /// Returns whether one of its subject alternative names is for `host`, as TLS clients want.
    #[must_use]
    pub fn has_name_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| host_name::is_for(name, host))
    }
}

/// Returns a date in UTC: `YYYY-MM-DD`.
#[must_use]
pub fn date(unix_secs: i64) -> String {
    let (year, month, day) = civil_from_days(unix_secs.div_euclid(SECS_PER_DAY));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns the values of a distinguished name for comparisons: in lower case and in order.
fn values(name: &X509Name<'_>) -> Vec<String> {
    let texts: Option<Vec<String>> = name
        .iter_attributes()
        .map(|attribute| attribute.as_str().ok().map(str::to_lowercase))
        .collect();
    let mut values = texts.unwrap_or_default();
    values.sort_unstable();
    values
}

/// Returns all subject alternative names, and those that are DNS names.
fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Default::default();
    };
    let (mut names, mut dns_names) = (Vec::new(), Vec::new());
    for name in &extension.value.general_names {
        names.push(match name {
            GeneralName::DNSName(name) => {
                dns_names.push((*name).to_owned());
                (*name).to_owned()
            }
            GeneralName::IPAddress(bytes) => address(bytes),
            other => other.to_string(),
        });
    }
    (names, dns_names)
}

fn address(bytes: &[u8]) -> String {
    match bytes {
        [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
        _ => match <[u8; 16]>::try_from(bytes) {
            Ok(bytes) => std::net::Ipv6Addr::from(bytes).to_string(),
            Err(_) => "an address".to_owned(),
        },
    }
}

/// Returns the description of the key, whether it is strong, and whether KMS's suites have its kind.
fn key(certificate: &X509Certificate<'_>) -> (String, bool, bool) {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            (format!("RSA, {bits} bits"), bits >= MIN_RSA_BITS, true)
        }
        Ok(PublicKey::EC(point)) => {
            let bits = point.key_size();
            (format!("elliptic curve, {bits} bits"), bits >= MIN_CURVE_BITS, true)
        }
        _ => {
            let algorithm = certificate.public_key().algorithm.algorithm.to_id_string();
            // Ed25519 (RFC 8410) and Ed448.
            let is_edwards = ["1.3.101.112", "1.3.101.113"].contains(&algorithm.as_str());
            (format!("algorithm {algorithm}"), is_edwards, false)
        }
    }
}

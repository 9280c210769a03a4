//! Certificates in words.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::report::shown;
use crate::observe::timestamp::civil_from_days;

const SECS_PER_DAY: i64 = 86_400;
const MIN_RSA_BITS: usize = 2048;
const MIN_CURVE_BITS: usize = 256;

/// A certificate in words: printable ASCII.
#[derive(Debug)]
pub struct Certificate {
    /// Distinguished name.
    pub subject: String,
    /// Distinguished name.
    pub issuer: String,
    /// Subject alternative names.
    pub names: Vec<String>,
    /// Negative if it has expired.
    pub days_left: i64,
    /// `YYYY-MM-DD`
    pub not_after: String,
    /// Such as "RSA, 2048 bits".
    pub key: String,
    /// At least RSA 2048 or a curve of 256 bits.
    pub is_key_strong: bool,
}

impl Certificate {
    /// Returns the members of the JSON report.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "subject": self.subject,
            "issuer": self.issuer,
            "names": self.names,
            "days_left": self.days_left,
            "not_after": self.not_after,
            "key": self.key,
        })
    }
}

/// Parses a certificate. Returns `None` if it is malformed.
#[must_use]
pub fn read(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let not_after = certificate.validity().not_after.timestamp();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let left = not_after.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
    let (year, month, day) = civil_from_days(not_after.div_euclid(SECS_PER_DAY));
    let (key, is_key_strong) = key(&certificate);
    Some(Certificate {
        subject: shown(&certificate.subject().to_string()),
        issuer: shown(&certificate.issuer().to_string()),
        names: names(&certificate),
        days_left: left.div_euclid(SECS_PER_DAY),
        not_after: format!("{year:04}-{month:02}-{day:02}"),
        key,
        is_key_strong,
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => shown(name),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
            _ => match <[u8; 16]>::try_from(*bytes) {
                Ok(bytes) => std::net::Ipv6Addr::from(bytes).to_string(),
                Err(_) => "an address".to_owned(),
            },
        },
        other => shown(&other.to_string()),
    };
    extension.value.general_names.iter().map(name).collect()
}

fn key(certificate: &X509Certificate<'_>) -> (String, bool) {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            (format!("RSA, {bits} bits"), bits >= MIN_RSA_BITS)
        }
        Ok(PublicKey::EC(point)) => {
            let bits = point.key_size();
            (format!("elliptic curve, {bits} bits"), bits >= MIN_CURVE_BITS)
        }
        _ => {
            let algorithm = certificate.public_key().algorithm.algorithm.to_id_string();
            // Ed25519 (RFC 8410) and Ed448.
            let is_edwards = ["1.3.101.112", "1.3.101.113"].contains(&algorithm.as_str());
            (format!("algorithm {algorithm}"), is_edwards)
        }
    }
}

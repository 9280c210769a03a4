//! AWS Signature Version 4, verified (XKS specification, Authentication and Appendix A).
//!
//! A request is verified before its body is parsed: until then it is bytes that anybody may have
//! sent. The canonical request is written into memory that is kept, and hashed in one go.

pub mod authorization;
pub mod canonical;
pub mod date;
pub mod signing_key;

use hmac::Mac as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use self::authorization::{Authorization, KMS_SIGNED_HEADERS};
use self::signing_key::{SigningCredential, SigningKeys};
use super::http::request::{Head, Occurrence};
use crate::limits::MAX_CLOCK_SKEW;

/// Why a request is not authentic. For the answer an unknown access key and a wrong signature
/// are one and the same, or else a stranger could find out which access keys exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthentic {
    /// No Authorization header field.
    MissingAuthorization,
    /// More than one Authorization header field.
    SeveralAuthorizations,
    /// The Authorization header field cannot be read; the text says why.
    Malformed(&'static str),
    /// The scope does not end with `aws4_request`.
    WrongTerminator,
    /// The scope names another Region.
    WrongRegion,
    /// The scope names another service.
    WrongService,
    /// `host` or `x-amz-date` is not signed.
    NotSigned(&'static str),
    /// A signed header field is not in the request.
    MissingSignedHeader,
    /// `x-amz-date` is missing, doubled or no date and time.
    MalformedDate,
    /// The scope's date is not the day of `x-amz-date`.
    ScopeDateDiffers,
    /// `x-amz-date` is more than five minutes from our clock.
    Skewed,
    /// The store has no credential with that access key id.
    UnknownAccessKey,
    /// The signature does not fit.
    WrongSignature,
}

impl Unauthentic {
    /// For the answer: printable ASCII.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::MissingAuthorization => "the Authorization header field is missing",
            Self::SeveralAuthorizations => "there are several Authorization header fields",
            Self::Malformed(reason) => reason,
            Self::WrongTerminator => "the credential scope does not end with aws4_request",
            Self::WrongRegion => "the credential scope names another Region",
            Self::WrongService => "the credential scope names another service",
            Self::NotSigned("host") => "the host header field is not signed",
            Self::NotSigned(_) => "the x-amz-date header field is not signed",
            Self::MissingSignedHeader => "a signed header field is not in the request",
            Self::MalformedDate => "the X-Amz-Date header field is not one YYYYMMDDTHHMMSSZ",
            Self::ScopeDateDiffers => "the credential scope's date is not that of X-Amz-Date",
            Self::Skewed => "X-Amz-Date is more than 5 minutes from the proxy's clock",
            Self::UnknownAccessKey | Self::WrongSignature => {
                "the signature does not fit the request and the key store's credentials"
            }
        }
    }

    /// For the log, where the two that the answer hides are told apart.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownAccessKey => "the key store has no such access key id",
            Self::WrongSignature => "the signature does not fit",
            other => other.message(),
        }
    }
}

/// What a scope must name.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// AWS Region
    pub region: &'a str,
    /// `kms-xks-proxy`
    pub service: &'a str,
}

/// Verifies a request against a store's credentials.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify<'c>(
    head: &Head<'_, '_>,
    body: &[u8],
    credentials: &'c [SigningCredential],
    scope: Scope<'_>,
    keys: &mut SigningKeys,
    unix_secs: u64,
) -> Result<&'c SigningCredential, Unauthentic> {
    let field = match head.authorization {
        Occurrence::Once(value) => value,
        Occurrence::Never => return Err(Unauthentic::MissingAuthorization),
        Occurrence::Several => return Err(Unauthentic::SeveralAuthorizations),
    };
    let authorization = Authorization::parse(field)?;
    if authorization.terminator != b"aws4_request" {
        return Err(Unauthentic::WrongTerminator);
    }
    if authorization.region != scope.region.as_bytes() {
        return Err(Unauthentic::WrongRegion);
    }
    if authorization.service != scope.service.as_bytes() {
        return Err(Unauthentic::WrongService);
    }
    let date_time = signed_date(head, &authorization, unix_secs)?;

    // From here on all takes the same time, whether the access key is known or not.
    let credential = find(credentials, authorization.access_key_id);
    let mut mac = keys.keyed_mac(credential, authorization.date, scope);
    let text = keys.scratch();
    let payload_hash = Sha256::digest(body).into();
    canonical::write(text, head, authorization.signed_headers, &payload_hash)?;
    let hash = Sha256::digest(&*text).into();
    text.clear();
    for part in [
        b"AWS4-HMAC-SHA256\n",
        date_time,
        b"\n",
        authorization.scope,
        b"\n",
        &canonical::hex(&hash),
    ] {
        text.extend_from_slice(part);
    }
    mac.update(text);
    let expected: [u8; 32] = mac.finalize().into_bytes().into();
    let fits = bool::from(words(&expected).ct_eq(&words(&authorization.signature)));
    match credential {
        Some(credential) if fits => Ok(credential),
        Some(_) => Err(Unauthentic::WrongSignature),
        None => Err(Unauthentic::UnknownAccessKey),
    }
}

/// The credential of that access key id. All are looked at, so that the time says neither whether
/// there is one nor which it is.
fn find<'c>(
    credentials: &'c [SigningCredential],
    access_key_id: &[u8],
) -> Option<&'c SigningCredential> {
    let mut found = None;
    for credential in credentials {
        if credential.access_key_id().as_bytes() == access_key_id {
            found = Some(credential);
        }
    }
    found
}

/// Eight bytes at a time, for the comparison in constant time.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// The one signed `x-amz-date`, checked against our clock and the scope.
fn signed_date<'b>(
    head: &Head<'_, 'b>,
    authorization: &Authorization<'_>,
    unix_secs: u64,
) -> Result<&'b [u8], Unauthentic> {
    for name in ["host", "x-amz-date"] {
        let signed = authorization.signed_headers;
        if signed != KMS_SIGNED_HEADERS
            && !signed.split(|byte| *byte == b';').any(|signed| signed == name.as_bytes())
        {
            return Err(Unauthentic::NotSigned(name));
        }
    }
    let Occurrence::Once(date_time) = head.amz_date else {
        return Err(Unauthentic::MalformedDate);
    };
    let signed_at = date::parse(date_time).ok_or(Unauthentic::MalformedDate)?;
    if !date_time.starts_with(authorization.date) {
        return Err(Unauthentic::ScopeDateDiffers);
    }
    let now = i64::try_from(unix_secs).unwrap_or(i64::MAX);
    if signed_at.abs_diff(now) > MAX_CLOCK_SKEW.as_secs() {
        return Err(Unauthentic::Skewed);
    }
    Ok(date_time)
}

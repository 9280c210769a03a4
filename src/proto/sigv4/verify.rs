//! The verification of a request's signature.

use hmac::Mac as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::authorization::{Authorization, KMS_SIGNED_HEADERS};
use super::clock_sample::ClockSample;
use super::credential::SigningCredential;
use super::signing_key::{Scope, SigningKeys};
use super::unauthentic::Unauthentic;
use super::{canonical, date};
use crate::proto::http::request::{Head, Occurrence};

/// A request whose signature is right.
#[derive(Debug)]
pub struct Verified<'c> {
    /// The credential that it was signed with.
    pub credential: &'c SigningCredential,
    /// Difference of the clocks.
    pub clock: ClockSample,
}

/// Verifies a request against a store's credentials. The signature is verified before the date is
/// judged, within a limit per second: a right signature with a wrong date says that a clock is
/// wrong. A wrong one with a wrong date is refused for its date.
///
/// # Errors
/// The first reason found.
pub fn verify<'c>(
    head: &Head<'_, '_>,
    body: &[u8],
    credentials: &'c [SigningCredential],
    scope: Scope<'_>,
    keys: &mut SigningKeys,
    unix_secs: u64,
) -> Result<Verified<'c>, Unauthentic> {
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
    let (date_time, clock) = signed_date(head, &authorization, unix_secs)?;
    if clock.is_skewed() && !keys.may_verify_skewed(unix_secs) {
        return Err(Unauthentic::Skewed(None));
    }

    // From here on the duration is the same whether the access key is known or not.
    let credential = find(credentials, authorization.access_key_id);
    let mut mac = if clock.is_skewed() {
        keys.mac_of_other_day(credential, authorization.date, scope)
    } else {
        keys.keyed_mac(credential, authorization.date, scope)
    };
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
        Some(_) if fits && clock.is_skewed() => Err(Unauthentic::Skewed(Some(clock))),
        _ if clock.is_skewed() => Err(Unauthentic::Skewed(None)),
        Some(credential) if fits => Ok(Verified { credential, clock }),
        Some(_) => Err(Unauthentic::WrongSignature),
        None => Err(Unauthentic::UnknownAccessKey),
    }
}

/// Finds the credential with this access key id. All are compared, so that the duration reveals
/// neither whether one matches nor which.
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

/// Splits into words of eight bytes, for the comparison in constant time.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Finds the one signed `x-amz-date`, compares it with the scope, and measures its difference to our
/// clock.
fn signed_date<'b>(
    head: &Head<'_, 'b>,
    authorization: &Authorization<'_>,
    unix_secs: u64,
) -> Result<(&'b [u8], ClockSample), Unauthentic> {
    let signed = authorization.signed_headers;
    if signed != KMS_SIGNED_HEADERS {
        for name in ["host", "x-amz-date"] {
            if !signed.split(|byte| *byte == b';').any(|signed| signed == name.as_bytes()) {
                return Err(Unauthentic::NotSigned(name));
            }
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
    let ahead_secs = now.saturating_sub(signed_at);
    let tag = authorization.signature.first_chunk().map_or(0, |part| u64::from_ne_bytes(*part));
    Ok((date_time, ClockSample { ahead_secs, tag }))
}

//! Signing keys (XKS specification, Appendix A, Task 3), derived once per credential and day.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::credential::SigningCredential;
use crate::limits::{
    MAX_HEAD_BYTES, MAX_SKEWED_VERIFICATIONS_PER_SEC, MIN_SECRET_ACCESS_KEY_BYTES,
    SIGNING_KEYS_PER_CREDENTIAL,
};
use crate::observe::redaction::Secret;
use crate::rate::PerSecond;

/// The Region and the service that a signature's scope must name.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// AWS Region
    pub region: &'a str,
    /// `kms-xks-proxy`
    pub service: &'a str,
}

/// The signing keys of recent days, for one event loop, so that no lock is needed.
///
/// Each is kept as the HMAC state derived from it, so that the key's own two blocks are hashed once
/// a day instead of once a request.
pub struct SigningKeys {
    /// Keys by [`SigningCredential::index`] + 1; the first entry is the decoy's.
    keys: Vec<[Option<SigningKey>; SIGNING_KEYS_PER_CREDENTIAL]>,
    /// Used for an unknown credential, so that such a request takes the same time.
    decoy: Secret<String>,
    scratch: Vec<u8>,
    /// Verifications of requests whose date alone would refuse them.
    skewed: PerSecond<u64>,
}

#[derive(Clone)]
struct SigningKey {
    date: [u8; 8],
    /// `Hmac` wipes itself when dropped (feature `zeroize`).
    mac: Hmac<Sha256>,
}

impl SigningKeys {
    /// Makes space for the keys of `credentials` credentials.
    #[must_use]
    pub fn new(credentials: usize) -> Self {
        Self {
            keys: vec![[const { None }; SIGNING_KEYS_PER_CREDENTIAL]; credentials + 1],
            decoy: Secret::new("-".repeat(MIN_SECRET_ACCESS_KEY_BYTES)),
            scratch: Vec::with_capacity(MAX_HEAD_BYTES),
            skewed: PerSecond::new(MAX_SKEWED_VERIFICATIONS_PER_SEC),
        }
    }

    /// Empty memory for the texts to be signed.
    pub(super) fn scratch(&mut self) -> &mut Vec<u8> {
        self.scratch.clear();
        &mut self.scratch
    }

    /// Returns whether one more request may be verified although its date refuses it.
    pub(super) fn may_verify_skewed(&mut self, unix_secs: u64) -> bool {
        self.skewed.admit(unix_secs).is_some()
    }

    /// Returns the same as [`Self::keyed_mac`] for a date that is not valid at present. The key is
    /// neither looked up nor kept: strangers choose such a date, and could displace the keys in use
    /// or learn from the duration which credentials are.
    #[must_use]
    pub(super) fn mac_of_other_day(
        &self,
        credential: Option<&SigningCredential>,
        date: &[u8],
        scope: Scope<'_>,
    ) -> Hmac<Sha256> {
        let secret = credential.map_or(&self.decoy, |credential| &credential.secret_access_key);
        derive(secret.expose(), date, scope)
    }

    /// Returns an HMAC with the signing key of this credential (or of the decoy) for the scope and
    /// `date`, which is eight ASCII digits.
    #[must_use]
    pub fn keyed_mac(
        &mut self,
        credential: Option<&SigningCredential>,
        date: &[u8],
        scope: Scope<'_>,
    ) -> Hmac<Sha256> {
        let (index, secret) = credential.map_or((0, &self.decoy), |credential| {
            (credential.index + 1, &credential.secret_access_key)
        });
        let Some(kept) = self.keys.get_mut(index) else {
            debug_assert!(false, "a credential that was not counted");
            return derive(secret.expose(), date, scope);
        };
        if let Some(key) = kept.iter().flatten().find(|key| key.date == date) {
            return key.mac.clone();
        }
        let mac = derive(secret.expose(), date, scope);
        if let Ok(date) = date.try_into() {
            // The last one is the oldest.
            kept.rotate_right(1);
            kept[0] = Some(SigningKey { date, mac: mac.clone() });
        }
        mac
    }
}

fn derive(secret: &str, date: &[u8], scope: Scope<'_>) -> Hmac<Sha256> {
    let mut start = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
    start.extend_from_slice(b"AWS4");
    start.extend_from_slice(secret.as_bytes());
    let mut mac = keyed(&start);
    for part in [date, scope.region.as_bytes(), scope.service.as_bytes(), b"aws4_request"] {
        mac.update(part);
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        mac = keyed(key.as_slice());
    }
    mac
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104, 2)")]
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::proto::sigv4::credential::CredentialConfig;

    fn credential(secret: String, index: usize) -> SigningCredential {
        let config = CredentialConfig {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new(secret),
            created_unix_secs: None,
        };
        SigningCredential::new(&config, index, Arc::default())
    }

    const SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "iam" };

    /// The example of the AWS General Reference, "Deriving the signing key".
    #[test]
    fn the_aws_general_reference_s_example() {
        let credential = credential("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(), 0);
        let mut keys = SigningKeys::new(1);
        let mut expected = keyed(&[
            0xc4, 0xaf, 0xb1, 0xcc, 0x57, 0x71, 0xd8, 0x71, 0x76, 0x3a, 0x39, 0x3e, 0x44, 0xb7,
            0x03, 0x57, 0x1b, 0x55, 0xcc, 0x28, 0x42, 0x4d, 0x1a, 0x5e, 0x86, 0xda, 0x6e, 0xd3,
            0xc1, 0x54, 0xa4, 0xb9,
        ]);
        expected.update(b"text");
        let mut mac = keys.keyed_mac(Some(&credential), b"20150830", SCOPE);
        mac.update(b"text");
        assert_eq!(mac.finalize().into_bytes(), expected.finalize().into_bytes());
    }

    /// A key is used neither for another day nor for another credential.
    #[test]
    fn keys_are_kept_apart() {
        let credential = |index| credential(format!("{index}").repeat(43), index);
        let (first, second) = (credential(0), credential(1));
        let mut keys = SigningKeys::new(2);
        let mut tag = |credential: Option<&SigningCredential>, date: &[u8; 8]| {
            keys.keyed_mac(credential, date, SCOPE).finalize().into_bytes()
        };
        let mut tags = Vec::new();
        for date in [b"20240101", b"20240102", b"20240103", b"20240104", b"20240105"] {
            tags.extend([tag(Some(&first), date), tag(Some(&second), date), tag(None, date)]);
        }
        for (index, one) in tags.iter().enumerate() {
            assert!(!tags[..index].contains(one));
        }
        assert_eq!(tag(Some(&first), b"20240105"), tags[12]);
        assert_eq!(tag(Some(&first), b"20240101"), tags[0]);
    }
}

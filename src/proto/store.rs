//! One external key store.

use std::sync::Arc;

use super::quota::Quota;
use super::sigv4::credential::{CredentialConfig, SigningCredential};
use crate::job::KeyIndex;
use crate::observe::metrics::StoreMetrics;

/// The settings of one external key store.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// The path before `/kms/xks/v1`; may be empty.
    pub uri_path_prefix: String,
    /// Credentials that KMS may sign with.
    pub credentials: Vec<CredentialConfig>,
    /// External key ids that the store may use and that have no versions: each is a key's name.
    pub key_ids: Vec<String>,
    /// External key ids with versions; none of them is in `key_ids`.
    pub versioned_keys: Vec<VersionedKey>,
    /// Limit on requests per second; see [`Quota::new`].
    pub max_requests_per_sec: Option<u32>,
    /// Limit on requests in flight; see [`Quota::new`].
    pub max_in_flight: Option<u32>,
    /// The whole store is disabled.
    pub is_disabled: bool,
    /// External key ids that are disabled; those that the store does not have are
    /// ignored.
    pub disabled_key_ids: Vec<String>,
}

/// One external key store: a path prefix, the credentials for it, and the keys it may use.
#[derive(Debug)]
pub struct Store {
    pub(super) uri_path_prefix: Box<str>,
    pub(super) credentials: Vec<SigningCredential>,
    /// Sorted by external key id.
    pub(super) keys: Vec<(Box<str>, StoreKey)>,
    pub(super) is_disabled: bool,
    pub(super) quota: Quota,
    pub(super) metrics: Arc<StoreMetrics>,
}

/// An external key id with versions, each of which is a key in the HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedKey {
    /// The external key id.
    pub id: String,
    /// Its versions.
    pub versions: Vec<Version>,
    /// Number of the version that encrypts; one of `versions`.
    pub encrypt_with: u32,
}

impl VersionedKey {
    /// Name of the key that encrypts.
    #[must_use]
    pub fn encrypting_key(&self) -> Option<&str> {
        let encrypts = |version: &&Version| version.number == self.encrypt_with;
        self.versions.iter().find(encrypts).map(|version| version.key_name.as_str())
    }
}

/// One version of an external key id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number; 1 is the original, whose ciphertexts have no tag.
    pub number: u32,
    /// Name of the key in the HSM, as in [`super::ServiceConfig::labels`].
    pub key_name: String,
    /// It no longer decrypts.
    pub is_retired: bool,
}

/// An external key id that a store may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreKey {
    /// The version that encrypts.
    pub encrypts: KeyVersion,
    /// All versions, sorted by number. Empty if the settings have none for it: then all its
    /// ciphertexts are of `encrypts`, and no tag has a meaning.
    pub versions: Box<[KeyVersion]>,
    /// The external key id, or its whole store, is disabled.
    pub is_disabled: bool,
}

/// One version of an external key id, as requests use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// Its number; 1 is the original.
    pub number: u32,
    /// The key's index in jobs.
    pub key: KeyIndex,
    /// It no longer decrypts.
    pub is_retired: bool,
}

impl StoreKey {
    /// The version with this number.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&KeyVersion> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// Returns whether the settings have versions for it.
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        !self.versions.is_empty()
    }

    /// Its keys in the HSM.
    pub fn keys(&self) -> impl Iterator<Item = KeyIndex> {
        let others = self.versions.iter().map(|version| version.key);
        others.chain((!self.is_versioned()).then_some(self.encrypts.key))
    }
}

impl Store {
    /// The path before `/kms/xks/v1`; may be empty.
    #[must_use]
    pub fn uri_path_prefix(&self) -> &str {
        &self.uri_path_prefix
    }

    /// Credentials that KMS may sign with.
    #[must_use]
    pub fn credentials(&self) -> &[SigningCredential] {
        &self.credentials
    }

    /// The key with this external key id, if the store may use it.
    #[must_use]
    pub fn key(&self, key_id: &str) -> Option<&StoreKey> {
        let at = self.keys.binary_search_by(|(known, _)| (**known).cmp(key_id)).ok()?;
        self.keys.get(at).map(|(_, key)| key)
    }

    /// All external key ids, sorted, with their keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &StoreKey)> {
        self.keys.iter().map(|(id, key)| (&**id, key))
    }

    /// Returns whether the whole store is disabled.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// The store's quota.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Counters of the store's requests.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }
}

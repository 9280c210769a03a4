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
    /// External key ids that the store may use.
    pub key_ids: Vec<String>,
    /// Limit on requests per second; see [`Quota::new`].
    pub max_requests_per_sec: Option<u32>,
    /// Limit on requests in flight; see [`Quota::new`].
    pub max_in_flight: Option<u32>,
    /// The whole store is switched off.
    pub is_disabled: bool,
    /// External key ids that are switched off; those that are not in `key_ids` have no effect.
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

/// A key that a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreKey {
    /// The key's index in jobs.
    pub index: KeyIndex,
    /// The key, or its whole store, is switched off.
    pub is_disabled: bool,
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

    /// The key with that external key id, if the store may use it.
    #[must_use]
    pub fn key(&self, key_id: &str) -> Option<StoreKey> {
        let at = self.keys.binary_search_by(|(known, _)| (**known).cmp(key_id)).ok()?;
        Some(self.keys[at].1)
    }

    /// Returns whether the whole store is switched off.
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

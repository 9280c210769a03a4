//! Credentials that KMS signs with.

use std::sync::Arc;

use crate::observe::metrics::CredentialMetrics;
use crate::observe::redaction::Secret;

/// The settings of one credential.
#[derive(Clone, Debug)]
pub struct CredentialConfig {
    /// Access key id, which is not secret.
    pub access_key_id: String,
    /// Secret access key, shared with KMS.
    pub secret_access_key: Secret<String>,
    /// Time of creation in seconds since 1970, if known.
    pub created_unix_secs: Option<u64>,
}

/// A credential that KMS may sign with.
#[derive(Clone, Debug)]
pub struct SigningCredential {
    access_key_id: Box<str>,
    pub(super) secret_access_key: Secret<String>,
    /// Index into [`super::signing_key::SigningKeys`].
    pub(super) index: usize,
    metrics: Arc<CredentialMetrics>,
}

impl SigningCredential {
    /// `index` counts the credentials of the whole service from 0; uses are counted in `metrics`.
    #[must_use]
    pub fn new(config: &CredentialConfig, index: usize, metrics: Arc<CredentialMetrics>) -> Self {
        metrics.set_created(config.created_unix_secs);
        Self {
            access_key_id: config.access_key_id.as_str().into(),
            secret_access_key: config.secret_access_key.clone(),
            index,
            metrics,
        }
    }

    /// Access key id, which is not secret.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// Record of the credential's use.
    #[must_use]
    pub fn metrics(&self) -> &CredentialMetrics {
        &self.metrics
    }
}

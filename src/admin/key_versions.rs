//! Versions of the external key ids in use, for the operator to compare between replicas.

use serde::Serialize;

use crate::limits::MAX_KEYS_IN_METRICS;
use crate::proto::VersionedKey;
use crate::settings::Settings;

/// The external key ids with versions, in the order of the settings, up to
/// [`MAX_KEYS_IN_METRICS`].
#[derive(Clone, Debug, Serialize)]
pub(super) struct KeyVersions {
    #[serde(rename = "keyVersions")]
    pub(super) keys: Vec<VersionedKeyStatus>,
    /// Number of further external key ids.
    #[serde(rename = "keyVersionsLeftOut")]
    pub(super) left_out: usize,
}

/// One external key id with its versions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionedKeyStatus {
    /// The store's path prefix.
    pub(super) store: String,
    pub(super) external_key_id: String,
    pub(super) encrypt_with: u32,
    pub(super) versions: Vec<VersionStatus>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionStatus {
    pub(super) version: u32,
    /// Name of the key in the HSM.
    pub(super) key: String,
    pub(super) state: VersionState,
}

/// The use of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum VersionState {
    /// It encrypts, and decrypts.
    Encrypts,
    /// It only decrypts.
    Decrypts,
    /// It does neither.
    Retired,
}

impl KeyVersions {
    pub(super) fn of(settings: &Settings) -> Self {
        let all = || {
            let stores = settings.stores.iter();
            stores.flat_map(|store| store.versioned_keys().iter().map(move |key| (store, key)))
        };
        let shown = all().take(MAX_KEYS_IN_METRICS);
        let keys = shown.map(|(store, key)| status(&store.uri_path_prefix, key)).collect();
        Self { keys, left_out: all().count().saturating_sub(MAX_KEYS_IN_METRICS) }
    }
}

fn status(store: &str, key: &VersionedKey) -> VersionedKeyStatus {
    let versions = key.versions.iter().map(|version| VersionStatus {
        version: version.number,
        key: version.key_name.clone(),
        state: match version.is_retired {
            true => VersionState::Retired,
            false if version.number == key.encrypt_with => VersionState::Encrypts,
            false => VersionState::Decrypts,
        },
    });
    VersionedKeyStatus {
        store: store.to_owned(),
        external_key_id: key.id.clone(),
        encrypt_with: key.encrypt_with,
        versions: versions.collect(),
    }
}

//! Versions of external keys that the settings list, compared with those that they listed before.

use std::time::SystemTime;

use crate::observe::redaction::shown_path;
use crate::observe::timestamp::unix_secs;
use crate::proto::xks::version_tag::ORIGINAL;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::versions_file::{self, Listed, ListedVersion};

/// Returns the versions that encrypt and that were not listed before, in the order of the settings.
/// The original version need not have been listed.
pub(crate) fn never_listed(settings: &Settings, before: &Listed) -> Vec<ListedVersion> {
    let encrypting = settings.stores.iter().flat_map(|store| {
        store.versioned_keys().iter().map(|key| ListedVersion {
            store: store.uri_path_prefix.clone(),
            external_key_id: key.id.clone(),
            version: key.encrypt_with,
        })
    });
    encrypting.filter(|it| it.version != ORIGINAL && !before.contains_key(it)).collect()
}

/// Records the versions that the settings list, and logs those that already encrypt although they
/// were never listed. Nothing is logged about a state directory without such a record.
pub(super) fn record(directory: &Directory, settings: &Settings) {
    let listed: Vec<ListedVersion> = settings
        .stores
        .iter()
        .flat_map(|store| store.versioned_keys().iter().map(move |key| (store, key)))
        .flat_map(|(store, key)| {
            key.versions.iter().map(|version| ListedVersion {
                store: store.uri_path_prefix.clone(),
                external_key_id: key.id.clone(),
                version: version.number,
            })
        })
        .collect();
    match versions_file::record(directory, &listed, unix_secs(SystemTime::now())) {
        Ok(before) => {
            let new = before.map(|before| never_listed(settings, &before)).unwrap_or_default();
            for ListedVersion { store, external_key_id, version } in new {
                tracing::warn!(
                    uri_path_prefix = store,
                    externalKeyId = external_key_id,
                    keyVersion = version,
                    "this version encrypts without having been listed first: a proxy that does not \
                     list it yet cannot decrypt what it encrypts"
                );
            }
        }
        Err(reason) => tracing::warn!(
            directory = %shown_path(directory.path()),
            %reason,
            "[state] directory: the listed versions of keys cannot be recorded"
        ),
    }
}

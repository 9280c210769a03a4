//! Checks of external key ids against those of other stores, and against other sections.

use std::collections::HashMap;

use super::section::{Section, shown};
use super::server::Server;
use super::stores::Store;
use crate::limits::MAX_METADATA_BESIDE_TAG_BYTES;
use crate::proto::xks::version_tag::ORIGINAL;

/// Reports keys of the HSM that several external key ids share: each of the ids decrypts what the
/// others encrypt.
pub(super) fn report_shared(root: &Section<'_>, stores: &[Store]) {
    let plain = stores.iter().flat_map(|store| &store.xks_key_id_set);
    let mut ids: HashMap<&str, &str> = plain.map(|id| (id.as_str(), id.as_str())).collect();
    for key in stores.iter().flat_map(|store| &store.keys) {
        for version in &key.versions {
            let first = *ids.entry(&version.key_name).or_insert(&key.id);
            if first != key.id {
                let name = shown(&version.key_name);
                let problem = format!(
                    "the key \"{name}\" belongs to the external key ids \"{first}\" and \"{}\": each \
                     decrypts what the other encrypts with it",
                    key.id
                );
                let remedy = "give each external key id its own keys, unless this is intended";
                root.report().warning(&root.location_of("external_key_stores"), problem, remedy);
            }
        }
    }
}

/// Checks that configured metadata leaves room for the tag of a version.
pub(super) fn check_metadata(root: &Section<'_>, server: &Server, stores: &[Store]) {
    let length = server.ciphertext_metadata.as_ref().map_or(0, Vec::len);
    let keys = || stores.iter().flat_map(|store| &store.keys);
    let tagged = keys().find(|key| key.versions.iter().any(|version| version.number > ORIGINAL));
    let (Some(key), true) = (tagged, length > MAX_METADATA_BESIDE_TAG_BYTES) else { return };
    if let Some(member) = root.member_of("server", "ciphertext_metadata_b64") {
        let problem = format!(
            "it has {length} bytes once decoded, which leaves no room for the version's tag of the \
             key \"{}\"",
            key.id
        );
        let remedy = format!("shorten it to {MAX_METADATA_BESIDE_TAG_BYTES} bytes");
        member.mistake(problem, remedy);
    }
}

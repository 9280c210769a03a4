//! Metrics of the versions of external key ids.

use super::store_label::store_label;
use crate::admin::key_versions::{KeyVersions, VersionState, VersionStatus, VersionedKeyStatus};
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::Gauge;

pub(super) fn key_versions(text: &mut Exposition, versions: &KeyVersions) {
    text.family(
        "xks_proxy_key_version_encrypts",
        Gauge,
        "1 for the version with which the external key id encrypts, 0 for its other versions; only \
         for ids of [[external_key_stores.keys]], and of those for the first 1,000.",
    );
    each(text, versions, |version| version.state == VersionState::Encrypts);
    text.family(
        "xks_proxy_key_version_decrypts",
        Gauge,
        "1 for each version of the external key id that decrypts, 0 for retired ones.",
    );
    each(text, versions, |version| version.state != VersionState::Retired);
}

fn each(text: &mut Exposition, versions: &KeyVersions, is_so: impl Fn(&VersionStatus) -> bool) {
    for VersionedKeyStatus { store, external_key_id, versions, .. } in &versions.keys {
        for version in versions {
            let number = version.version.to_string();
            let labels = [
                ("store", store_label(store)),
                ("external_key_id", external_key_id),
                ("version", &number),
            ];
            text.sample(&labels, u8::from(is_so(version)));
        }
    }
}

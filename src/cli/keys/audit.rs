//! The keys of a token as an auditor asks for them: who may use each, and what is wrong with it.

use crate::hsm::inventory::{KeyDetails, KeyInventory, TokenInventory};
use crate::hsm::key_date::Date;
use crate::limits::END_DATE_NOTICE_DAYS;
use crate::proto::VersionedKey;
use crate::settings::Settings;

/// A use of a key by a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoreUse {
    /// `uri_path_prefix`
    pub(super) store: String,
    /// The external key id.
    pub(super) key_id: String,
    /// The key's version of that id; `None` if the settings have no versions for the id.
    pub(super) version: Option<u32>,
    /// It is the version that encrypts.
    pub(super) encrypts: bool,
    /// It is a version that no longer decrypts.
    pub(super) is_retired: bool,
}

/// Something about a key that an operator should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    /// Name for machines, which stays the same.
    pub(super) code: &'static str,
    /// Text for the operator.
    pub(super) text: String,
}

/// A key, and all that is known about its use.
pub(super) struct KeyAudit<'t> {
    pub(super) key: &'t KeyInventory,
    pub(super) details: KeyDetails,
    pub(super) stores: Vec<StoreUse>,
    /// Uses by the proxy itself.
    pub(super) others: Vec<&'static str>,
    /// Empty for a key that the settings do not name.
    pub(super) warnings: Vec<Warning>,
}

impl KeyAudit<'_> {
    /// Returns whether the settings name the key.
    pub(super) fn is_named(&self) -> bool {
        !self.key.names.is_empty()
    }

    /// Returns the uses of the key in one line.
    pub(super) fn served(&self) -> String {
        let of_store = |it: &StoreUse| {
            let version = match (it.version, it.encrypts, it.is_retired) {
                (None, ..) => String::new(),
                (Some(version), _, true) => format!(" version {version}, retired"),
                (Some(version), true, false) => format!(" version {version}, encrypts"),
                (Some(version), false, false) => format!(" version {version}, decrypts"),
            };
            let store = if it.store.is_empty() { "(no prefix)" } else { &it.store };
            format!("{}{version} (store {store})", it.key_id)
        };
        let mut served: Vec<String> = self.stores.iter().map(of_store).collect();
        served.extend(self.others.iter().map(|other| (*other).to_owned()));
        if served.is_empty() { "nothing in the settings".to_owned() } else { served.join("; ") }
    }
}

/// Returns the keys of a token, in the order in which the token lists them.
pub(super) fn audits<'t>(
    token: &'t TokenInventory,
    settings: &Settings,
    today: Date,
) -> Vec<KeyAudit<'t>> {
    let audit = |key: &'t KeyInventory| {
        let details = key.details.unwrap_or_default();
        let is_named = !key.names.is_empty();
        KeyAudit {
            key,
            details,
            stores: uses_by_stores(key, settings),
            others: other_uses(key, settings),
            warnings: if is_named { warnings(key, &details, today) } else { Vec::new() },
        }
    };
    token.keys.iter().map(audit).collect()
}

/// Returns the uses of a key by stores.
fn uses_by_stores(key: &KeyInventory, settings: &Settings) -> Vec<StoreUse> {
    let has_name = |name: &str| key.names.iter().any(|known| **known == *name);
    let mut uses = Vec::new();
    for store in &settings.stores {
        let versioned = store.versioned_keys();
        let is_plain = |id: &&str| !versioned.iter().any(|key| key.id == *id);
        for key_id in store.key_ids().filter(is_plain).filter(|id| has_name(id)) {
            uses.push(StoreUse {
                store: store.uri_path_prefix.clone(),
                key_id: key_id.to_owned(),
                version: None,
                encrypts: true,
                is_retired: false,
            });
        }
        for VersionedKey { id, versions, encrypt_with } in versioned {
            for version in versions.iter().filter(|version| has_name(&version.key_name)) {
                uses.push(StoreUse {
                    store: store.uri_path_prefix.clone(),
                    key_id: id.clone(),
                    version: Some(version.number),
                    encrypts: version.number == *encrypt_with,
                    is_retired: version.is_retired,
                });
            }
        }
    }
    uses
}

/// Returns the other uses of a key that the settings name: for health checks and the audit log.
fn other_uses(key: &KeyInventory, settings: &Settings) -> Vec<&'static str> {
    let has = |name: Option<&str>| {
        name.is_some_and(|name| key.names.iter().any(|known| **known == *name))
    };
    let audit_key = settings.audit.as_ref().and_then(|audit| audit.hsm_key.as_deref());
    [
        (has(settings.pkcs11.health_key.as_deref()), "health checks"),
        (has(audit_key), "the audit log's checkpoints"),
    ]
    .into_iter()
    .filter(|(is_used, _)| *is_used)
    .map(|(_, text)| text)
    .collect()
}

/// Returns what is wrong with a key that the settings name. Attributes that the token does not
/// report are not held against it.
fn warnings(key: &KeyInventory, details: &KeyDetails, today: Date) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, text: String| warnings.push(Warning { code, text });
    if details.extractable == Some(true) {
        let text = "it is extractable: keys that may wrap can take it out of the HSM";
        warn("extractable", text.to_owned());
    }
    if details.sensitive == Some(false) {
        let text = "it is not sensitive: its value can be read as soon as it is extractable too";
        warn("not_sensitive", text.to_owned());
    }
    if details.private == Some(false) {
        let text =
            "it is a public object: anybody who reaches the token can replace it without a PIN";
        warn("public", text.to_owned());
    }
    let surplus = details.surplus_uses();
    if !surplus.is_empty() {
        let text = format!("it may do more than the proxy needs: {}", surplus.join(", "));
        warn("surplus_uses", text);
    }
    if let Some(date) = details.end_date.date() {
        let days = today.days_until(date);
        if days < 0 {
            warn("end_date_past", format!("its end date has passed: {date}"));
        } else if days <= END_DATE_NOTICE_DAYS {
            warn("end_date_near", format!("its end date is in {days} days: {date}"));
        }
    }
    if key.keys_of_label > 1 {
        let text = format!("{} keys of the token have its label", key.keys_of_label);
        warn("ambiguous_label", text);
    }
    if let [first, second, ..] = key.names.as_slice() {
        let text = format!(
            "the settings name it twice, as {first} and {second}: its encryptions are counted under \
             each name separately"
        );
        warn("two_names", text);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::key_date::KeyDate;
    use crate::job::KeyAttributes;

    /// The date that is this many days after 1970-01-01.
    fn day(days: u64) -> Date {
        Date::of_unix_secs(days * 86_400)
    }

    /// Each fault has its warning, and attributes that are fine or unknown have none.
    #[test]
    fn faults() {
        let key = KeyInventory {
            handle: 1,
            label: "foo".into(),
            id: Vec::new(),
            names: vec!["foo".into()],
            attributes: KeyAttributes::UNREPORTED,
            is_private: None,
            keys_of_label: 1,
            details: None,
        };
        let good = KeyDetails {
            private: Some(true),
            sensitive: Some(true),
            extractable: Some(false),
            encrypt: Some(true),
            decrypt: Some(true),
            sign: Some(false),
            end_date: KeyDate::On(day(1031)),
            ..KeyDetails::default()
        };
        let codes = |key: &KeyInventory, details: &KeyDetails| -> Vec<&str> {
            warnings(key, details, day(1000)).iter().map(|warning| warning.code).collect()
        };
        assert_eq!(codes(&key, &good), [""; 0]);
        assert_eq!(codes(&key, &KeyDetails::default()), [""; 0], "nothing is known");
        for (details, code) in [
            (KeyDetails { extractable: Some(true), ..good }, "extractable"),
            (KeyDetails { sensitive: Some(false), ..good }, "not_sensitive"),
            (KeyDetails { private: Some(false), ..good }, "public"),
            (KeyDetails { wrap: Some(true), ..good }, "surplus_uses"),
            (KeyDetails { end_date: KeyDate::On(day(1030)), ..good }, "end_date_near"),
            (KeyDetails { end_date: KeyDate::On(day(1000)), ..good }, "end_date_near"),
            (KeyDetails { end_date: KeyDate::On(day(999)), ..good }, "end_date_past"),
        ] {
            assert_eq!(codes(&key, &details), [code]);
        }
        let twins = KeyInventory { keys_of_label: 2, ..key.clone() };
        assert_eq!(codes(&twins, &good), ["ambiguous_label"]);
        let names = vec!["foo".into(), "id:0a".into()];
        assert_eq!(codes(&KeyInventory { names, ..key }, &good), ["two_names"]);
    }
}

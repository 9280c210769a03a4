//! `[[external_key_stores]]`

use std::collections::{BTreeSet, HashMap};

use super::credentials::{self, Credential};
use super::external_keys::{self, problem_of_id};
use super::report::Location;
use super::section::{Member, Section, shown};
use crate::limits::{MAX_RATE_PER_SEC, MAX_URI_PATH_PREFIX_BYTES, MIN_URI_PATH_PREFIX_BYTES};
use crate::proto::VersionedKey;

/// Path of the API after the prefix.
const API_PATH: &str = "/kms/xks/v1";

const PREFIX_REMEDY: &str = "write \"\", or '/' and then letters, digits, '/', '-' or '_', \
                             9 to 117 characters in all, such as \"/example/uri/path/prefix\"";
const KEY_ID_REMEDY: &str = "write a list of key labels (CKA_LABEL), each 1 to 128 of a-z, A-Z, \
                             0-9, '-', '.' and '_', such as [\"my-key\"]";

/// One of `[[external_key_stores]]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Path prefix, without `/kms/xks/v1`: empty, or "/...".
    pub uri_path_prefix: String,
    /// Credentials in the order of the file, so that the last is the newest; all are valid. Empty
    /// if `sigv4_access_key_id` and `sigv4_secret_access_key` are empty, as in the reference
    /// proxy's sample files: then every call is refused with AuthenticationFailedException.
    pub credentials: Vec<Credential>,
    /// External key ids without versions, each a `CKA_LABEL`, sorted and without duplicates.
    pub(super) xks_key_id_set: Vec<String>,
    /// `[[external_key_stores.keys]]`, sorted by id and without duplicates.
    pub(super) keys: Vec<VersionedKey>,
    /// Calls to the HSM in a second, all of which may come at once; unlimited if `None`.
    pub max_requests_per_sec: Option<u32>,
    /// Unanswered calls to the HSM; unlimited if `None`.
    pub max_in_flight: Option<u32>,
    /// Kill switch: the store neither encrypts nor decrypts.
    pub disabled: bool,
    /// Kill switch for single external key ids.
    pub disabled_keys: Vec<String>,
}

impl Store {
    /// Returns all external key ids: those of `xks_key_id_set`, then those with versions.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        let versioned = self.keys.iter().map(|key| key.id.as_str());
        self.xks_key_id_set.iter().map(String::as_str).chain(versioned)
    }

    /// Returns the external key ids that have versions.
    #[must_use]
    pub fn versioned_keys(&self) -> &[VersionedKey] {
        &self.keys
    }

    /// Returns the names of all keys in the HSM that the store uses; one may appear twice.
    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        let versions = self.keys.iter().flat_map(|key| &key.versions);
        let names = versions.map(|version| version.key_name.as_str());
        self.xks_key_id_set.iter().map(String::as_str).chain(names)
    }

    /// Returns the name of the key with which an external key id encrypts.
    #[must_use]
    pub fn encrypting_key(&self, key_id: &str) -> Option<&str> {
        let plain = self.xks_key_id_set.iter().find(|id| *id == key_id).map(String::as_str);
        let versioned = || self.keys.iter().find(|key| key.id == key_id)?.encrypting_key();
        plain.or_else(versioned)
    }

    /// Returns whether the store uses the key with this name.
    #[must_use]
    pub fn has_key_name(&self, name: &str) -> bool {
        self.key_names().any(|known| known == name)
    }
}

pub(super) fn read(root: &Section<'_>, is_sigv4_auth_enabled: bool) -> Option<Vec<Store>> {
    let sections = match root.sections("external_key_stores") {
        Some(sections) => sections,
        None if root.get("external_key_stores").is_some() => return None,
        None => Vec::new(),
    };
    if sections.is_empty() {
        let mut location = root.location_of("external_key_stores");
        if root.get("external_key_stores").is_none() {
            location.offset = None;
        }
        let problem = "there is no external key store";
        let remedy = "add [[external_key_stores]] with uri_path_prefix, sigv4_access_key_id, \
                      sigv4_secret_access_key and xks_key_id_set";
        root.report().mistake(&location, problem, remedy);
        return None;
    }
    let mut prefixes = HashMap::new();
    let stores: Vec<Option<Store>> = sections
        .iter()
        .map(|section| {
            let uri_path_prefix = prefix(section, &mut prefixes);
            let credentials = match is_sigv4_auth_enabled {
                true => credentials::read(section),
                false => Some(Vec::new()),
            };
            let has_tables = section.get("keys").is_some();
            let remedy = KEY_ID_REMEDY;
            let key_ids = |member: &Member<'_>| key_ids(member, has_tables);
            let xks_key_id_set = section
                .required_if(!has_tables, "xks_key_id_set", remedy, key_ids)
                .map(Option::unwrap_or_default);
            let keys = external_keys::read(section, xks_key_id_set.as_deref());
            let bound = |name, what: &str| {
                let range = 1..=u64::from(MAX_RATE_PER_SEC);
                section.optional(name, |member| member.integer(range, what))
            };
            let max_requests_per_sec = bound("max_requests_per_sec", "a number of calls a second");
            let max_in_flight = bound("max_in_flight", "a number of calls");
            let disabled = section.switch("disabled");
            let known = xks_key_id_set.as_ref().zip(keys.as_ref());
            let disabled_keys = disabled_keys(section, known);
            if disabled == Some(true) {
                let problem = "the store is disabled: it neither encrypts nor decrypts";
                let remedy = "set it to false, or remove it, to enable the store again";
                section.report().notice(&section.location_of("disabled"), problem, remedy);
            }
            Some(Store {
                uri_path_prefix: uri_path_prefix?,
                credentials: credentials?,
                xks_key_id_set: xks_key_id_set?,
                keys: keys?,
                max_requests_per_sec: max_requests_per_sec?,
                max_in_flight: max_in_flight?,
                disabled: disabled?,
                disabled_keys: disabled_keys?,
            })
        })
        .collect();
    stores.into_iter().collect()
}

fn prefix(section: &Section<'_>, seen: &mut HashMap<String, Location>) -> Option<String> {
    let member = section.require("uri_path_prefix", PREFIX_REMEDY)?;
    let text = member.string(PREFIX_REMEDY)?;
    if let Some(first) = seen.get(text) {
        let problem = format!("\"{}\" is already the prefix of {}", shown(text), first.member);
        member.mistake(problem, "give each store its own prefix");
        return None;
    }
    seen.insert(text.to_owned(), section.location());
    if text.is_empty() {
        return Some(String::new());
    }
    let allowed = MIN_URI_PATH_PREFIX_BYTES..=MAX_URI_PATH_PREFIX_BYTES;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
    let problem = if !text.bytes().all(is_allowed) {
        Some("has a character that is not allowed".to_owned())
    } else if !text.starts_with('/') {
        Some("does not begin with '/'".to_owned())
    } else if text.ends_with('/') {
        Some("ends with '/'".to_owned())
    } else if !allowed.contains(&text.len()) {
        Some(format!("has {} characters", text.len()))
    } else {
        None
    };
    if let Some(problem) = problem {
        member.mistake(format!("\"{}\" {problem}", shown(text)), PREFIX_REMEDY);
        return None;
    }
    if text.ends_with(API_PATH) {
        let problem = format!("{API_PATH} is appended to it, so it would be there twice");
        member.warning(problem, format!("leave {API_PATH} out"));
    }
    Some(text.to_owned())
}

/// Reads `disabled_keys`, all of which must be external key ids of the store: a misspelt kill switch
/// would have no effect.
fn disabled_keys(
    section: &Section<'_>,
    known: Option<(&Vec<String>, &Vec<VersionedKey>)>,
) -> Option<Vec<String>> {
    let Some(member) = section.get("disabled_keys") else {
        return Some(Vec::new());
    };
    let remedy = "write a list of the store's external key ids, such as [\"my-key\"]";
    let is_known = |id: &str| {
        known.is_none_or(|(set, keys)| {
            set.iter().any(|known| known == id) || keys.iter().any(|key| key.id == id)
        })
    };
    let mut ids = Vec::new();
    let mut is_right = true;
    for (location, id) in member.strings(remedy)? {
        // Mistakes in the ids have already been reported.
        if !is_known(id) {
            let problem = format!("\"{}\" is not an external key id of the store", shown(id));
            member.report().mistake(&location, problem, remedy);
            is_right = false;
        }
        ids.push(id.to_owned());
    }
    if is_right && !ids.is_empty() {
        let problem = format!("{} of the store's keys neither encrypt nor decrypt", ids.len());
        member.report().notice(member.location(), problem, "remove those to enable again");
    }
    is_right.then_some(ids)
}

fn key_ids(member: &Member<'_>, has_tables: bool) -> Option<Vec<String>> {
    let items = member.strings(KEY_ID_REMEDY)?;
    if items.is_empty() && !has_tables {
        member.warning("it is empty, so the store cannot serve any call", KEY_ID_REMEDY);
    }
    let mut ids = BTreeSet::new();
    let mut is_right = true;
    for (location, id) in items {
        if let Some(problem) = problem_of_id(id) {
            member.report().mistake(&location, problem, KEY_ID_REMEDY);
            is_right = false;
        } else if !ids.insert(id.to_owned()) {
            let problem = format!("\"{id}\" is already in the list");
            member.report().warning(&location, problem, "remove it");
        }
    }
    is_right.then(|| ids.into_iter().collect())
}

//! `[[external_key_stores.keys]]`: external key ids with versions.

use std::collections::HashMap;

use super::report::Location;
use super::section::{Member, Section, shown};
use crate::key_name::{ID_PREFIX, from_hex, name_of_id};
use crate::limits::{
    MAX_CKA_ID_BYTES, MAX_KEY_ID_BYTES, MAX_KEY_VERSIONS, MAX_VERSION_LABEL_BYTES,
};
use crate::proto::xks::version_tag::ORIGINAL;
use crate::proto::{Version, VersionedKey};

const ID_REMEDY: &str = "write the external key id that KMS names: 1 to 128 of a-z, A-Z, 0-9, \
                         '-', '.' and '_', such as \"my-key\"";
const VERSIONS_REMEDY: &str = "write the key's versions, such as versions = [{ label = \"my-key\" }, { version = 2, label = \
     \"my-key-2\" }]";
const LABEL_REMEDY: &str = "write the key's CKA_LABEL, 1 to 128 characters of printable ASCII, or \
                            its CKA_ID as cka_id";
const CKA_ID_REMEDY: &str = "write the key's CKA_ID, 1 to 64 bytes, in hexadecimal digits, such as \
                             \"0a1b\"";

/// Reads the keys of a store, sorted by id. `key_id_set` is the store's `xks_key_id_set`.
pub(super) fn read(
    store: &Section<'_>,
    key_id_set: Option<&[String]>,
) -> Option<Vec<VersionedKey>> {
    if store.get("keys").is_none() {
        return Some(Vec::new());
    }
    let mut seen = HashMap::new();
    let sections = store.sections("external_key_stores.keys")?;
    let keys: Vec<Option<VersionedKey>> =
        sections.iter().map(|section| key(section, key_id_set, &mut seen)).collect();
    let mut keys: Vec<VersionedKey> = keys.into_iter().collect::<Option<_>>()?;
    keys.sort_by(|one, other| one.id.cmp(&other.id));
    Some(keys)
}

fn key(
    section: &Section<'_>,
    key_id_set: Option<&[String]>,
    seen: &mut HashMap<String, Location>,
) -> Option<VersionedKey> {
    let id = section
        .require("id", ID_REMEDY)
        .and_then(|member| id(section, &member, key_id_set.unwrap_or_default(), seen));
    let versions = match section.get("versions") {
        Some(member) => versions(section, &member),
        None => {
            let location = section.location_of("versions");
            section.report().mistake(&location, "it is missing", VERSIONS_REMEDY);
            None
        }
    };
    let range = u64::from(ORIGINAL)..=u64::from(u32::MAX);
    let encrypt_with = section.integer_or("encrypt_with", range, "a version's number", ORIGINAL);
    let (id, versions, encrypt_with) = (id?, versions?, encrypt_with?);
    let location = section.location_of("encrypt_with");
    let known: Vec<String> = versions.iter().map(|it| it.number.to_string()).collect();
    let known = known.join(", ");
    match versions.iter().find(|version| version.number == encrypt_with) {
        Some(version) if !version.is_retired => {}
        Some(_) => {
            let problem = format!("version {encrypt_with} is retired, so it cannot encrypt");
            let remedy = "write the number of a version that is not retired";
            section.report().mistake(&location, problem, remedy);
            return None;
        }
        None => {
            let problem = format!("there is no version {encrypt_with}; the versions are {known}");
            let remedy = format!("write encrypt_with = one of {known}");
            section.report().mistake(&location, problem, remedy);
            return None;
        }
    }
    Some(VersionedKey { id, versions, encrypt_with })
}

fn id(
    section: &Section<'_>,
    member: &Member<'_>,
    key_id_set: &[String],
    seen: &mut HashMap<String, Location>,
) -> Option<String> {
    let id = member.string(ID_REMEDY)?;
    if let Some(problem) = problem_of_id(id) {
        member.mistake(problem, ID_REMEDY);
        return None;
    }
    if key_id_set.iter().any(|known| known == id) {
        let problem = format!("\"{id}\" is in the store's xks_key_id_set too");
        member.mistake(problem, "remove it from xks_key_id_set: its first version takes its place");
        return None;
    }
    if let Some(first) = seen.insert(id.to_owned(), section.location()) {
        member.mistake(
            format!("\"{id}\" is already the id of {}", first.member),
            "write all its versions in one [[external_key_stores.keys]]",
        );
        return None;
    }
    Some(id.to_owned())
}

fn versions(section: &Section<'_>, member: &Member<'_>) -> Option<Vec<Version>> {
    let sections = section.sections("external_key_stores.keys.versions")?;
    if sections.is_empty() {
        member.mistake("it is empty", VERSIONS_REMEDY);
        return None;
    }
    if sections.len() > MAX_KEY_VERSIONS {
        let remedy = format!("keep at most {MAX_KEY_VERSIONS}: remove those retired longest");
        member.mistake(format!("it has {} versions", sections.len()), remedy);
        return None;
    }
    let read: Vec<Option<Version>> = sections.iter().map(version).collect();
    let mut is_right = true;
    let mut versions: Vec<Version> = Vec::new();
    for (version, section) in read.into_iter().zip(&sections) {
        let Some(version) = version else {
            is_right = false;
            continue;
        };
        if let Some(other) = versions.iter().find(|other| other.number == version.number) {
            let problem = format!("there is another version {}", other.number);
            let remedy = "give each version its own number; the original one is 1, or has none";
            section.report().mistake(&section.location_of("version"), problem, remedy);
            is_right = false;
        }
        if let Some(other) = versions.iter().find(|other| other.key_name == version.key_name) {
            let name = shown(&other.key_name);
            let problem = format!("\"{name}\" is already the key of version {}", other.number);
            let remedy = "name another key of the HSM, or remove one of the two versions";
            let member = if section.get("label").is_some() { "label" } else { "cka_id" };
            section.report().mistake(&section.location_of(member), problem, remedy);
            is_right = false;
        }
        versions.push(version);
    }
    versions.sort_by_key(|version| version.number);
    is_right.then_some(versions)
}

fn version(section: &Section<'_>) -> Option<Version> {
    let range = u64::from(ORIGINAL)..=u64::from(u32::MAX);
    let number = section.integer_or("version", range, "a version's number", ORIGINAL);
    let is_retired = section.switch("retired");
    let key_name = match (section.get("label"), section.get("cka_id")) {
        (Some(label), None) => self::label(&label),
        (None, Some(cka_id)) => self::cka_id(&cka_id),
        (None, None) => {
            section.report().mistake(&section.location_of("label"), "it is missing", LABEL_REMEDY);
            None
        }
        (Some(_), Some(cka_id)) => {
            cka_id.mistake("there is a label too", "keep one of the two");
            None
        }
    };
    Some(Version { number: number?, key_name: key_name?, is_retired: is_retired? })
}

fn label(member: &Member<'_>) -> Option<String> {
    let label = member.string(LABEL_REMEDY)?;
    let problem = if label.is_empty() {
        "it is empty".to_owned()
    } else if label.len() > MAX_VERSION_LABEL_BYTES {
        format!("it has {} bytes", label.len())
    } else if !label.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        format!("\"{}\" has a character that is not allowed", shown(label))
    } else if label.starts_with(ID_PREFIX) {
        format!("\"{}\" begins like the name of a key by its CKA_ID", shown(label))
    } else {
        return Some(label.to_owned());
    };
    member.mistake(problem, LABEL_REMEDY);
    None
}

fn cka_id(member: &Member<'_>) -> Option<String> {
    let text = member.string(CKA_ID_REMEDY)?;
    let id = from_hex(text).filter(|id| (1..=MAX_CKA_ID_BYTES).contains(&id.len()));
    if id.is_none() {
        member.mistake(format!("\"{}\" is not a CKA_ID", shown(text)), CKA_ID_REMEDY);
    }
    id.map(|id| name_of_id(&id))
}

/// Returns why this cannot be an external key id, if so.
pub(super) fn problem_of_id(id: &str) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if id.is_empty() {
        Some("it is empty".to_owned())
    } else if id.len() > MAX_KEY_ID_BYTES {
        Some(format!("it has {} bytes", id.len()))
    } else if !id.bytes().all(is_allowed) {
        Some(format!("\"{}\" has a character that is not allowed", shown(id)))
    } else if matches!(id, "." | "..") {
        Some(format!("\"{id}\" cannot be part of a URI's path"))
    } else {
        None
    }
}

//! `[audit]`: the audit log, which is optional.

use std::path::{Path, PathBuf};

use super::file;
use super::section::{Member, Section, shown, shown_path};
use super::stores::Store;
use crate::limits::{
    MAX_AUDIT_FILE_BYTES, MAX_AUDIT_RETAINED_FILES, MAX_SECRET_FILE_BYTES, MIN_AUDIT_FILE_BYTES,
};
use crate::observe::audit::{AuditConfig, AuditRotation, AuditSync, WhenFull, key};

const DEFAULT_PREFIX: &str = "audit";
const ROTATIONS: [(&str, AuditRotation); 3] = [
    ("HOURLY", AuditRotation::Hourly),
    ("DAILY", AuditRotation::Daily),
    ("NEVER", AuditRotation::Never),
];
const WHEN_FULL: [(&str, WhenFull); 2] = [("refuse", WhenFull::Refuse), ("drop", WhenFull::Drop)];
const SYNCS: [(&str, AuditSync); 3] =
    [("always", AuditSync::Always), ("interval", AuditSync::Interval), ("never", AuditSync::Never)];

/// Reads the section; returns `Some(None)` if it is missing.
pub(super) fn read(root: &Section<'_>, stores: Option<&[Store]>) -> Option<Option<AuditConfig>> {
    if root.get("audit").is_none() {
        return Some(None);
    }
    let section = root.section("audit")?;
    let directory_remedy = "write the directory for the audit log's files, such as \
                            \"/var/log/xks-proxy/audit\"";
    let directory = section.require("directory", directory_remedy).and_then(|member| {
        let text = member.string(directory_remedy)?;
        if text.is_empty() {
            member.mistake("it is empty", directory_remedy);
            return None;
        }
        Some(PathBuf::from(text))
    });
    let prefix = prefix(&section);
    let rotation = section.choice("rotation_kind", &ROTATIONS, AuditRotation::Daily);
    let when_full = section.choice("when_full", &WHEN_FULL, WhenFull::default());
    let sync = section.choice("sync", &SYNCS, AuditSync::default());
    let max_file_bytes = section.optional("max_file_bytes", |member| {
        member.integer(MIN_AUDIT_FILE_BYTES..=MAX_AUDIT_FILE_BYTES, "a number of bytes")
    });
    let retain_files = section.optional("retain_files", |member| {
        member.integer(1..=MAX_AUDIT_RETAINED_FILES, "a number of files")
    });
    let hsm_key = hsm_key(&section, stores);
    let key_remedy =
        "write the path of the chain's first key, which `xks-proxy audit new-key` creates";
    let key_file = section.require("key_file", key_remedy);
    let key_path =
        key_file.as_ref().and_then(|member| member.string(key_remedy)).map(PathBuf::from);
    let config = AuditConfig {
        directory: directory?,
        prefix: prefix?,
        rotation: rotation?,
        max_file_bytes: max_file_bytes?,
        retain_files: retain_files?,
        when_full: when_full?,
        sync: sync?,
        key_file: key_path?,
        hsm_key: hsm_key?,
    };
    check_key(&key_file?, &config)?;
    Some(Some(config))
}

/// Checks the key file, which is needed for the first start and should be kept elsewhere
/// afterwards.
fn check_key(member: &Member<'_>, config: &AuditConfig) -> Option<()> {
    let state = config.state_file();
    let has_state = state.metadata().is_ok_and(|metadata| metadata.len() > 0);
    let path: &Path = &config.key_file;
    let name = shown_path(path);
    if has_state {
        if path.exists() {
            let problem =
                format!("{name} is still on this machine: anyone who reads it can forge the log");
            let remedy = "move it to where the log is verified; this machine no longer needs it";
            member.warning(problem, remedy);
        }
        return Some(());
    }
    let remedy = "create one with `xks-proxy audit new-key FILE`";
    match file::read(path, MAX_SECRET_FILE_BYTES) {
        Ok((_, ownership)) => {
            // Not a file that reloads read again.
            file::check(&ownership, path, true, member.location(), member.report());
        }
        Err(error) => {
            member.mistake(format!("{name} cannot be read: {error}"), remedy);
            return None;
        }
    }
    if let Err(error) = key::read(path) {
        member.mistake(format!("{name}: {error}"), remedy);
        return None;
    }
    Some(())
}

/// Reads the label of the HSM key for checkpoints.
fn hsm_key(section: &Section<'_>, stores: Option<&[Store]>) -> Option<Option<String>> {
    let Some(member) = section.get("hsm_key") else { return Some(None) };
    let remedy = "write the CKA_LABEL of an AES-256 key that no key store uses";
    let label = member.string(remedy)?;
    if label.is_empty() {
        member.mistake("it is empty", remedy);
        return None;
    }
    let has_key = |store: &&Store| store.has_key_name(label);
    if let Some(store) = stores.into_iter().flatten().find(has_key) {
        let (key, prefix) = (shown(label), shown(&store.uri_path_prefix));
        let problem = format!(
            "\"{key}\" is a key of the store \"{prefix}\": anyone who may call that store could forge \
             checkpoints"
        );
        member.mistake(problem, remedy);
        return None;
    }
    Some(Some(label.to_owned()))
}

fn prefix(section: &Section<'_>) -> Option<String> {
    let Some(member) = section.get("file_prefix") else {
        return Some(DEFAULT_PREFIX.to_owned());
    };
    let remedy = "write the beginning of the files' names, such as \"audit\"";
    let text = member.string(remedy)?;
    if text.is_empty() || text.contains(['/', '\0']) {
        member.mistake("it cannot be the beginning of a file name", remedy);
        return None;
    }
    Some(text.to_owned())
}

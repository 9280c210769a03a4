//! `xks-proxy keys`: lists the keys of the tokens, and the stores that may use them.

use std::path::Path;

use serde::Deserialize;

use super::super::{admin_client, settings_file};
use crate::client::Trust;
use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::hsm::inventory::{KeyInventory, TokenInventory};
use crate::output::outln;
use crate::process::standalone_hsm::StandaloneHsm;
use crate::settings::Settings;

/// Lists the AES keys of each token, with the stores that name them.
///
/// # Errors
/// [`Failed`]: the settings are wrong, or a token cannot be used.
pub fn run(file: Option<&Path>) -> Result<(), Failed> {
    let (settings, _) = settings_file::load(file, false)?;
    let standalone = StandaloneHsm::start(&settings, &settings.service())?;
    let tokens = standalone.hsm().inventory();
    for token in &tokens {
        print_token(token);
        print_keys(token, &settings);
    }
    print_out_of_use(&settings);
    match tokens.iter().find_map(|token| token.trouble.as_ref()) {
        Some(trouble) => Err(Failed::new(EXIT_UNAVAILABLE, trouble.clone())),
        None => Ok(()),
    }
}

/// Prints a module and its tokens, and marks the one in use.
pub(in crate::cli) fn print_token(token: &TokenInventory) {
    outln!("\nmodule {}", token.module.display());
    if let Some(library) = &token.library {
        outln!("  {library}");
    }
    for slot in &token.slots {
        let is_used = token.slot.as_ref().is_some_and(|used| used.id == slot.id);
        outln!(
            "  slot {}: token {:?}, serial {:?}, {} {}, firmware {}{}{}{}",
            slot.id,
            slot.label,
            slot.serial,
            slot.manufacturer,
            slot.model,
            slot.firmware,
            if slot.is_initialized { "" } else { ", not initialised" },
            if slot.is_pin_locked { ", PIN LOCKED" } else { "" },
            if is_used { "  <- used" } else { "" },
        );
    }
    if let Some(trouble) = &token.trouble {
        outln!("  TROUBLE: {trouble}");
    }
}

fn print_keys(token: &TokenInventory, settings: &Settings) {
    outln!("\n{:<40} {:<8} {:<42} stores", "CKA_LABEL", "key", "may");
    for key in &token.keys {
        let stores: Vec<&str> = settings
            .stores
            .iter()
            .filter(|store| store.has_key_name(&key.label))
            .map(|store| match store.uri_path_prefix.as_str() {
                "" => "(no prefix)",
                prefix => prefix,
            })
            .collect();
        let mut remark = if key.keys_of_label > 1 {
            format!("  ({} keys have this label)", key.keys_of_label)
        } else {
            String::new()
        };
        if key.is_private == Some(false) {
            remark.push_str("  (a public object: CKA_PRIVATE is false)");
        }
        outln!(
            "{:<40} {:<8} {:<42} {}{remark}",
            key.label,
            spec(key.attributes.bits),
            uses(key),
            if stores.is_empty() { "-".to_owned() } else { stores.join(" ") },
        );
    }
    for label in &token.missing {
        outln!("{label:<40} MISSING: the settings name it, and no AES token key has this name");
    }
}

/// The members of `/status.json` that are read here.
#[derive(Deserialize)]
struct Status {
    tokens: Vec<TokenStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    label: String,
    keys_out_of_use: Vec<KeyStatus>,
    differing_keys: Vec<String>,
}

#[derive(Deserialize)]
struct KeyStatus {
    label: String,
    direction: String,
    reason: String,
}

/// Prints the keys that the running proxy cannot use, if it can be reached.
fn print_out_of_use(settings: &Settings) {
    let status = admin_client::of_settings(settings.admin.as_ref())
        .and_then(|endpoint| admin_client::status::<Status>(&endpoint, &Trust::default()));
    let status = match status {
        Ok(status) => status,
        Err(why) => return outln!("\nkeys that the running proxy cannot use: unknown: {why}"),
    };
    let lines: Vec<String> = status.tokens.iter().flat_map(lines_of).collect();
    if lines.is_empty() {
        outln!("\nkeys that the running proxy cannot use: none");
    } else {
        outln!("\nkeys that the running proxy cannot use:\n{}", lines.join("\n"));
    }
}

fn lines_of(token: &TokenStatus) -> impl Iterator<Item = String> {
    let differing = token.differing_keys.iter().map(|label| {
        format!(
            "{} on token {}: it differs from its witness, or from the key on the other tokens",
            label.escape_debug(),
            token.label.escape_debug()
        )
    });
    differing.chain(token.keys_out_of_use.iter().map(|key| {
        // The text comes from a peer.
        let KeyStatus { label, direction, reason } = key;
        format!(
            "{} {} on token {}: {}",
            label.escape_debug(),
            direction.escape_debug(),
            token.label.escape_debug(),
            reason.escape_debug()
        )
    }))
}

/// Returns "AES-256", or "AES-?" where the token does not report `CKA_VALUE_LEN`.
pub(in crate::cli) fn spec(bits: u32) -> String {
    if bits == 0 { "AES-?".to_owned() } else { format!("AES-{bits}") }
}

fn uses(key: &KeyInventory) -> String {
    let attributes = &key.attributes;
    [
        (attributes.encrypt, "encrypt"),
        (attributes.decrypt, "decrypt"),
        (attributes.sign, "sign"),
        (attributes.verify, "verify"),
        (attributes.wrap, "wrap"),
        (attributes.unwrap, "unwrap"),
        (attributes.derive, "derive"),
    ]
    .iter()
    .filter(|(may, _)| *may)
    .map(|(_, name)| *name)
    .collect::<Vec<_>>()
    .join(",")
}

//! `xks-proxy keys`: lists the keys of the tokens, their attributes, and the stores that use them.

use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use super::super::{admin_client, settings_file};
use super::audit::{KeyAudit, audits};
use super::counts::Counts;
use super::json;
use crate::client::Trust;
use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::hsm::inventory::{KeyDetails, TokenInventory};
use crate::hsm::key_date::{Date, KeyDate};
use crate::key_name::hex;
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::process::standalone_hsm::StandaloneHsm;
use crate::settings::Settings;

/// Width of the lines about a key.
const COLUMNS: usize = 100;
/// Column at which the text of such a line begins.
const INDENT: usize = 14;

/// Lists the AES keys of each token with their attributes and uses: as text, or as JSON.
///
/// # Errors
/// [`Failed`]: the settings are wrong, or a token cannot be used.
pub fn run(file: Option<&Path>, is_json: bool) -> Result<(), Failed> {
    let (settings, _) = settings_file::load(file, false)?;
    let standalone = StandaloneHsm::start(&settings, &settings.service())?;
    let tokens = standalone.hsm().detailed_inventory();
    let today = Date::of_unix_secs(unix_secs(SystemTime::now()));
    let counts = Counts::read(&settings);
    if is_json {
        outln!("{}", json::document(&tokens, &settings, &counts, today)?);
    } else {
        for token in &tokens {
            print_token(token);
            print_keys(&audits(token, &settings, today), &counts, token);
        }
        print_out_of_use(&settings);
    }
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

/// Prints a block for each key: first those that the settings name.
fn print_keys(audits: &[KeyAudit<'_>], counts: &Counts, token: &TokenInventory) {
    let (named, others): (Vec<_>, Vec<_>) = audits.iter().partition(|it| it.is_named());
    for audit in named.into_iter().chain(others) {
        outln!("\n{}", block(audit, counts));
    }
    for name in &token.missing {
        outln!("\n{name}\n  MISSING: the settings name it, and no AES token key has this name");
    }
}

/// Returns the lines about one key.
fn block(audit: &KeyAudit<'_>, counts: &Counts) -> String {
    let KeyAudit { key, details, .. } = audit;
    let label = if key.label.is_empty() { "(no label)" } else { &*key.label };
    let id = if key.id.is_empty() { "none".to_owned() } else { hex(&key.id) };
    let mut lines = vec![label.to_owned()];
    let mut line = |name: &str, text: String| lines.push(wrapped(name, &text));
    line("key", format!("{}, handle {}, CKA_ID {id}", spec(key.attributes.bits), key.handle));
    line("serves", audit.served());
    line(
        "protection",
        format!(
            "private {}, sensitive {}, always sensitive {}, extractable {}, never extractable {}, \
             local {}",
            told(details.private),
            told(details.sensitive),
            told(details.always_sensitive),
            told(details.extractable),
            told(details.never_extractable),
            told(details.local),
        ),
    );
    line("may", may(details));
    line("dates", format!("start {}, end {}", date(details.start_date), date(details.end_date)));
    if audit.is_named() {
        line("used", counts.told(key));
    }
    for warning in &audit.warnings {
        line("WARNING", warning.text.clone());
    }
    lines.join("\n")
}

/// Returns a line with its name, broken so that it fits into [`COLUMNS`].
fn wrapped(name: &str, text: &str) -> String {
    let mut lines = vec![format!("  {name:<11}")];
    for word in text.split(' ') {
        let is_full = |line: &String| line.len() + 1 + word.len() > COLUMNS && line.len() > INDENT;
        if lines.last().is_some_and(is_full) {
            lines.push(" ".repeat(INDENT - 1));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

fn told(is_set: Option<bool>) -> &'static str {
    match is_set {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn date(date: KeyDate) -> String {
    match date {
        KeyDate::On(date) => date.to_string(),
        KeyDate::None => "none".to_owned(),
        KeyDate::Unreported => "unknown".to_owned(),
    }
}

fn may(details: &KeyDetails) -> String {
    let uses = details.uses();
    let which = |wanted: Option<bool>| {
        let names = uses.iter().filter(|(_, is_permitted)| *is_permitted == wanted);
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (permitted, unknown) = (which(Some(true)), which(None));
    let permitted = if permitted.is_empty() { "nothing".to_owned() } else { permitted };
    if unknown.is_empty() { permitted } else { format!("{permitted}; unknown: {unknown}") }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Long lines are broken between words, and the text of each begins in the same column.
    #[test]
    fn long_lines() {
        assert_eq!(wrapped("may", "encrypt, decrypt"), "  may         encrypt, decrypt");
        let text = ["word"; 60].join(" ");
        let lines = wrapped("protection", &text);
        assert_eq!(lines.split_whitespace().filter(|word| *word == "word").count(), 60);
        for line in lines.lines() {
            assert!(line.len() <= COLUMNS && line.find("word") == Some(INDENT), "{line:?}");
        }
        // A word that fits into no line is not lost.
        assert!(wrapped("key", &"x".repeat(200)).contains(&"x".repeat(200)));
    }
}

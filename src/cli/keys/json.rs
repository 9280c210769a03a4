//! `xks-proxy keys --json`: the list of keys for machines. Members may be added, but none is removed
//! or changes its meaning while the version stays the same.

use serde::Serialize;

use super::audit::{KeyAudit, StoreUse, Warning, audits};
use super::counts::Counts;
use super::usage_sums::Sum;
use crate::exit::Failed;
use crate::hsm::inventory::{KeyDetails, TokenInventory};
use crate::hsm::key_date::{Date, KeyDate};
use crate::key_name::hex;
use crate::settings::Settings;

const FORMAT: &str = "xks-proxy keys";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'t> {
    format: &'static str,
    version: u32,
    tokens: Vec<TokenEntry<'t>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenEntry<'t> {
    module: String,
    label: &'t str,
    serial: &'t str,
    manufacturer: &'t str,
    model: &'t str,
    firmware: &'t str,
    slot: Option<u64>,
    /// Reason why the token cannot be used.
    trouble: Option<&'t str>,
    /// Names that the settings have and no key of the token.
    missing: &'t [Box<str>],
    keys: Vec<KeyEntry<'t>>,
}

/// A key. Attributes that the token does not report are null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyEntry<'t> {
    label: &'t str,
    cka_id: Option<String>,
    handle: u64,
    names: &'t [Box<str>],
    key_type: &'static str,
    bits: Option<u32>,
    private: Option<bool>,
    sensitive: Option<bool>,
    always_sensitive: Option<bool>,
    extractable: Option<bool>,
    never_extractable: Option<bool>,
    local: Option<bool>,
    uses: Uses,
    /// "2026-11-30", or "none" if the key has none.
    start_date: Option<String>,
    end_date: Option<String>,
    external_key_ids: Vec<ExternalKeyId<'t>>,
    other_uses: &'t [&'static str],
    /// Null if nothing is recorded.
    usage: Option<UsageEntry>,
    warnings: Vec<WarningEntry<'t>>,
}

#[derive(Serialize)]
struct Uses {
    encrypt: Option<bool>,
    decrypt: Option<bool>,
    sign: Option<bool>,
    verify: Option<bool>,
    wrap: Option<bool>,
    unwrap: Option<bool>,
    derive: Option<bool>,
}

#[derive(Serialize)]
struct ExternalKeyId<'t> {
    store: &'t str,
    id: &'t str,
    /// Null if the settings have no versions for the id.
    version: Option<u32>,
    encrypts: bool,
    retired: bool,
}

/// The use of a key as this proxy's state directory records it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageEntry {
    encryptions: u64,
    decryptions: u64,
    /// Seconds since 1970; null if never.
    last_encryption: Option<u64>,
    last_decryption: Option<u64>,
    /// False if there may have been more encryptions.
    complete: bool,
}

#[derive(Serialize)]
struct WarningEntry<'t> {
    code: &'t str,
    text: &'t str,
}

/// Returns the document.
///
/// # Errors
/// [`Failed`]: the document cannot be made.
pub(super) fn document(
    tokens: &[TokenInventory],
    settings: &Settings,
    counts: &Counts,
    today: Date,
) -> Result<String, Failed> {
    let audits: Vec<_> = tokens.iter().map(|token| audits(token, settings, today)).collect();
    let tokens =
        tokens.iter().zip(&audits).map(|(token, audits)| of_token(token, audits, counts)).collect();
    serde_json::to_string_pretty(&Document { format: FORMAT, version: VERSION, tokens })
        .map_err(|error| Failed::unavailable(error.to_string()))
}

fn of_token<'t>(
    token: &'t TokenInventory,
    audits: &'t [KeyAudit<'t>],
    counts: &Counts,
) -> TokenEntry<'t> {
    let slot = token.slot.as_ref();
    TokenEntry {
        module: token.module.display().to_string(),
        label: slot.map_or("", |slot| &slot.label),
        serial: slot.map_or("", |slot| &slot.serial),
        manufacturer: slot.map_or("", |slot| &slot.manufacturer),
        model: slot.map_or("", |slot| &slot.model),
        firmware: slot.map_or("", |slot| &slot.firmware),
        slot: slot.map(|slot| slot.id),
        trouble: token.trouble.as_deref(),
        missing: &token.missing,
        keys: audits.iter().map(|audit| of_key(audit, counts)).collect(),
    }
}

fn of_key<'t>(audit: &'t KeyAudit<'t>, counts: &Counts) -> KeyEntry<'t> {
    let KeyAudit { key, details, stores, others, warnings } = audit;
    let KeyDetails { encrypt, decrypt, sign, verify, wrap, unwrap, derive, .. } = *details;
    KeyEntry {
        label: &key.label,
        cka_id: (!key.id.is_empty()).then(|| hex(&key.id)),
        handle: key.handle,
        names: &key.names,
        key_type: "AES",
        bits: (key.attributes.bits != 0).then_some(key.attributes.bits),
        private: details.private,
        sensitive: details.sensitive,
        always_sensitive: details.always_sensitive,
        extractable: details.extractable,
        never_extractable: details.never_extractable,
        local: details.local,
        uses: Uses { encrypt, decrypt, sign, verify, wrap, unwrap, derive },
        start_date: date(details.start_date),
        end_date: date(details.end_date),
        external_key_ids: stores.iter().map(of_store).collect(),
        other_uses: others,
        usage: counts.of(key).map(|sum| of_sum(&sum)),
        warnings: warnings.iter().map(of_warning).collect(),
    }
}

fn of_store(it: &StoreUse) -> ExternalKeyId<'_> {
    let StoreUse { store, key_id, version, encrypts, is_retired } = it;
    ExternalKeyId {
        store,
        id: key_id,
        version: *version,
        encrypts: *encrypts,
        retired: *is_retired,
    }
}

fn of_sum(sum: &Sum) -> UsageEntry {
    let time = |unix_secs: u64| (unix_secs != 0).then_some(unix_secs);
    UsageEntry {
        encryptions: sum.encrypts,
        decryptions: sum.decrypts,
        last_encryption: time(sum.last_encrypt),
        last_decryption: time(sum.last_decrypt),
        complete: sum.incomplete.is_none(),
    }
}

fn of_warning(warning: &Warning) -> WarningEntry<'_> {
    WarningEntry { code: warning.code, text: &warning.text }
}

fn date(date: KeyDate) -> Option<String> {
    match date {
        KeyDate::On(date) => Some(date.to_string()),
        KeyDate::None => Some("none".to_owned()),
        KeyDate::Unreported => None,
    }
}

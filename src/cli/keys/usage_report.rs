//! The output of `keys usage`: a table, or JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::usage_sums::Sum;
use crate::exit::{EXIT_SOFTWARE, Failed};
use crate::observe::timestamp::civil_from_days;
use crate::output::outln;
use crate::settings::Settings;

const SECS_PER_DAY: u64 = 86_400;
/// Days until the limit beyond which no date is shown: a thousand years.
const MAX_DAYS: f64 = 365_000.0;

/// The uses of all keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    limit: u64,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    key: Box<str>,
    external_keys: Vec<ExternalKey>,
    encryptions: u64,
    encryptions_at_least: u64,
    is_complete: bool,
    incomplete_since: Option<String>,
    incomplete_reason: Option<String>,
    encryptions_per_sec: Option<f64>,
    limit_reached_on: Option<String>,
    decryptions: u64,
    last_encryption: Option<String>,
    last_decryption: Option<String>,
}

/// An external key id, and the version of it that the HSM key is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalKey {
    store: String,
    id: String,
    version: u32,
    use_of_it: &'static str,
}

impl Report {
    pub(super) fn new(
        sums: BTreeMap<Box<str>, Sum>,
        settings: Option<&Settings>,
        limit: u64,
        now: u64,
    ) -> Self {
        let mut external = external_keys(settings);
        let keys = sums.into_iter().map(|(key, sum)| {
            let external_keys = external.remove(&*key).unwrap_or_default();
            one(key, sum, external_keys, limit, now)
        });
        let mut keys: Vec<Key> = keys.collect();
        // The versions of one external key id beside each other; keys that no store names last.
        keys.sort_by_cached_key(|key| {
            let first = key.external_keys.first();
            let first = first.map(|it| (it.store.clone(), it.id.clone(), it.version));
            (first.is_none(), first, key.key.clone())
        });
        Self { limit, keys }
    }
}

/// Returns the external key ids and versions of each HSM key of the settings.
fn external_keys(settings: Option<&Settings>) -> BTreeMap<String, Vec<ExternalKey>> {
    let mut found: BTreeMap<String, Vec<ExternalKey>> = BTreeMap::new();
    for store in settings.into_iter().flat_map(|settings| &settings.stores) {
        let mut add = |key: &str, id: &str, version, use_of_it| {
            let (store, id) = (store.uri_path_prefix.clone(), id.to_owned());
            let external = ExternalKey { store, id, version, use_of_it };
            found.entry(key.to_owned()).or_default().push(external);
        };
        let plain = store.key_ids().count() - store.versioned_keys().len();
        for id in store.key_ids().take(plain) {
            add(id, id, 1, "encrypts");
        }
        for key in store.versioned_keys() {
            for version in &key.versions {
                let use_of_it = match version.is_retired {
                    true => "retired",
                    false if version.number == key.encrypt_with => "encrypts",
                    false => "decrypts",
                };
                add(&version.key_name, &key.id, version.number, use_of_it);
            }
        }
    }
    found
}

fn one(key: Box<str>, sum: Sum, external_keys: Vec<ExternalKey>, limit: u64, now: u64) -> Key {
    let (since, reason) = sum.incomplete.unzip();
    Key {
        key,
        external_keys,
        encryptions: sum.encrypts,
        encryptions_at_least: sum.at_least,
        is_complete: since.is_none(),
        incomplete_since: since.map(time),
        incomplete_reason: reason,
        encryptions_per_sec: sum.rate.map(|rate| (rate * 1e3).round() / 1e3),
        limit_reached_on: reached_on(sum.encrypts, limit, sum.rate, now),
        decryptions: sum.decrypts,
        last_encryption: (sum.last_encrypt > 0).then(|| time(sum.last_encrypt)),
        last_decryption: (sum.last_decrypt > 0).then(|| time(sum.last_decrypt)),
    }
}

/// Returns the day on which the limit will be reached at the present rate.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most MAX_DAYS")]
fn reached_on(encrypts: u64, limit: u64, rate: Option<f64>, now: u64) -> Option<String> {
    if encrypts >= limit {
        return Some("reached".to_owned());
    }
    let rate = rate.filter(|rate| *rate > 0.0)?;
    let days = (limit - encrypts) as f64 / rate / SECS_PER_DAY as f64;
    (days < MAX_DAYS).then(|| day(now + days as u64 * SECS_PER_DAY))
}

fn day(unix_secs: u64) -> String {
    let days = i64::try_from(unix_secs / SECS_PER_DAY).unwrap_or(0);
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns a time to the minute, in UTC.
fn time(unix_secs: u64) -> String {
    let minutes = unix_secs % SECS_PER_DAY / 60;
    format!("{}T{:02}:{:02}Z", day(unix_secs), minutes / 60, minutes % 60)
}

/// Prints the report.
///
/// # Errors
/// Never in practice: all names are valid texts.
pub(super) fn print(report: &Report, as_json: bool) -> Result<(), Failed> {
    if as_json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Failed::new(EXIT_SOFTWARE, error.to_string()))?;
        outln!("{text}");
        return Ok(());
    }
    outln!(
        "{:<32} {:>13} {:>9} {:<11} {:>13} {:<17} external key ids",
        "HSM key",
        "encryptions",
        "a second",
        "limit on",
        "decryptions",
        "last decryption",
    );
    for key in &report.keys {
        let dash = || "-".to_owned();
        outln!(
            "{:<32} {:>13} {:>9} {:<11} {:>13} {:<17} {}",
            // Names come from files.
            key.key.escape_debug().to_string(),
            format!("{}{}", if key.is_complete { "" } else { ">= " }, key.encryptions),
            key.encryptions_per_sec.map_or_else(dash, |rate| format!("{rate:.1}")),
            key.limit_reached_on.clone().unwrap_or_else(dash),
            key.decryptions,
            key.last_decryption.clone().unwrap_or_else(dash),
            external(&key.external_keys),
        );
    }
    let incomplete: Vec<&Key> = report.keys.iter().filter(|key| !key.is_complete).collect();
    if !incomplete.is_empty() {
        outln!("\nincomplete counts; state a number with `xks-proxy keys usage --set KEY COUNT`:");
    }
    for key in incomplete {
        let since = key.incomplete_since.as_deref().unwrap_or_default();
        let reason = key.incomplete_reason.as_deref().unwrap_or_default();
        outln!("  {}: since {since}: {}", key.key.escape_debug(), reason.escape_debug());
    }
    outln!("\nlimit: {} encryptions under one key", report.limit);
    Ok(())
}

fn external(keys: &[ExternalKey]) -> String {
    if keys.is_empty() {
        return "-".to_owned();
    }
    let one = |key: &ExternalKey| {
        let ExternalKey { id, version, use_of_it, .. } = key;
        format!("{id} version {version} ({use_of_it})")
    };
    keys.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The day on which the limit is reached: at KMS's default quota, after 27.6 days.
    #[test]
    fn days_and_times() {
        let start = 1_767_225_600;
        assert_eq!(time(start + 3660), "2026-01-01T01:01Z");
        let on = |encrypts, rate| reached_on(encrypts, 1 << 32, rate, start);
        assert_eq!(on(0, Some(1800.0)).as_deref(), Some("2026-01-28"));
        assert_eq!(on(1 << 31, Some(1800.0)).as_deref(), Some("2026-01-14"));
        assert_eq!(on(1 << 32, None).as_deref(), Some("reached"));
        assert_eq!(on(5, None), None);
        assert_eq!(on(5, Some(0.0)), None);
        assert_eq!(on(5, Some(0.000_1)), None);
    }
}

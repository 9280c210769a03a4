//! The use of the HSM keys by all processes that share the state directory.

use serde::Serialize;

use crate::hsm::usage::{KeyTotals, Usage};
use crate::limits::MAX_KEYS_IN_METRICS;

/// The keys with the most uses, up to [`MAX_KEYS_IN_METRICS`], and the state of the record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyUsage {
    /// False without a state directory: counts then begin at the start of the process.
    pub(super) is_kept: bool,
    /// True if the counts cannot be written.
    pub(super) is_failing: bool,
    pub(super) saved_unix_secs: u64,
    /// Encryptions that one key may make.
    pub(super) limit: u64,
    pub(super) refuses_at_limit: bool,
    /// Number of keys, of all, whose counts are incomplete.
    pub(super) incomplete_keys: usize,
    pub(super) keys: Vec<OneKey>,
    /// Number of keys that are left out here.
    pub(super) keys_left_out: usize,
    /// Encryptions and decryptions with the keys that are left out.
    #[serde(skip)]
    pub(super) rest: (u64, u64),
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OneKey {
    /// Name of the key in the HSM.
    pub(super) key: Box<str>,
    pub(super) encryptions: u64,
    pub(super) decryptions: u64,
    /// 0 if there was none.
    pub(super) last_encryption_unix_secs: u64,
    pub(super) last_decryption_unix_secs: u64,
    /// `null` if the count is complete.
    pub(super) incomplete_since_unix_secs: Option<u64>,
}

impl KeyUsage {
    pub(super) fn of(usage: &Usage) -> Self {
        let (record, limit) = (usage.record(), usage.limit());
        let mut keys: Vec<OneKey> = usage.totals().into_iter().map(one).collect();
        let incomplete = keys.iter().filter(|key| key.incomplete_since_unix_secs.is_some());
        let incomplete_keys = incomplete.count();
        let uses = |key: &OneKey| key.encryptions.max(key.decryptions);
        keys.sort_by(|one, other| {
            uses(other).cmp(&uses(one)).then_with(|| one.key.cmp(&other.key))
        });
        let rest = keys.split_off(keys.len().min(MAX_KEYS_IN_METRICS));
        let sum = |count: fn(&OneKey) -> u64| rest.iter().map(count).fold(0, u64::saturating_add);
        Self {
            is_kept: record.is_kept,
            is_failing: record.is_failing,
            saved_unix_secs: record.saved_unix_secs,
            limit: limit.encrypts,
            refuses_at_limit: limit.refuses,
            incomplete_keys,
            keys_left_out: rest.len(),
            rest: (sum(|key| key.encryptions), sum(|key| key.decryptions)),
            keys,
        }
    }
}

fn one(KeyTotals { name, totals }: KeyTotals) -> OneKey {
    OneKey {
        key: name,
        encryptions: totals.encrypts,
        decryptions: totals.decrypts,
        last_encryption_unix_secs: totals.last_encrypt,
        last_decryption_unix_secs: totals.last_decrypt,
        incomplete_since_unix_secs: totals.incomplete_since,
    }
}

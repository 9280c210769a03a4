//! Metrics of the HSM keys' use.

use crate::admin::key_usage::{KeyUsage, OneKey};
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::Gauge;

/// A metric of a key: name, help, and value.
type OfKey = (&'static str, &'static str, fn(&OneKey) -> u64);

const OF_KEY: &[OfKey] = &[
    (
        "xks_proxy_hsm_key_encryptions",
        "Encryptions with the HSM key by all processes that have used this state directory, those \
         for checks and proofs included. After a crash, what was reserved counts as used. Keys \
         beyond the 1,000 most used are summed as \"other\".",
        |key| key.encryptions,
    ),
    (
        "xks_proxy_hsm_key_decryptions",
        "Decryptions with the HSM key for clients, by the same processes.",
        |key| key.decryptions,
    ),
    (
        "xks_proxy_hsm_key_last_encryption_timestamp_seconds",
        "Time of the last encryption with the HSM key, in seconds since 1970; 0 if none.",
        |key| key.last_encryption_unix_secs,
    ),
    (
        "xks_proxy_hsm_key_last_decryption_timestamp_seconds",
        "Time of the last decryption with the HSM key for a client, in seconds since 1970; 0 if \
         none.",
        |key| key.last_decryption_unix_secs,
    ),
    (
        "xks_proxy_hsm_key_count_incomplete",
        "1 if the HSM key may have made more encryptions than are counted.",
        |key| u64::from(key.incomplete_since_unix_secs.is_some()),
    ),
];

pub(super) fn key_usage(text: &mut Exposition, usage: &KeyUsage) {
    for (name, help, value) in OF_KEY {
        text.family(name, Gauge, help);
        for key in &usage.keys {
            text.sample(&[("key", &key.key)], value(key));
        }
        let rest = match *name {
            "xks_proxy_hsm_key_encryptions" => usage.rest.0,
            "xks_proxy_hsm_key_decryptions" => usage.rest.1,
            _ => 0,
        };
        if rest > 0 {
            text.sample(&[("key", "other")], rest);
        }
    }
    text.family(
        "xks_proxy_hsm_key_encryptions_limit",
        Gauge,
        "Encryptions that one HSM key may make: [encryption_count] limit.",
    )
    .sample(&[], usage.limit);
    text.family(
        "xks_proxy_hsm_keys_with_incomplete_counts",
        Gauge,
        "HSM keys that may have made more encryptions than are counted.",
    )
    .sample(&[], usage.incomplete_keys);
    text.family(
        "xks_proxy_key_usage_kept",
        Gauge,
        "1 if the counts outlive the process: [state] directory.",
    )
    .sample(&[], u8::from(usage.is_kept));
    text.family(
        "xks_proxy_key_usage_failing",
        Gauge,
        "1 while the counts cannot be written to [state] directory.",
    )
    .sample(&[], u8::from(usage.is_failing));
    text.family(
        "xks_proxy_key_usage_saved_timestamp_seconds",
        Gauge,
        "Time at which the counts were last written, in seconds since 1970; 0 if never.",
    )
    .sample(&[], usage.saved_unix_secs);
}

//! Settings of the simulated service, as the model knows them and as the protocol core does.

use std::sync::Arc;
use std::time::Duration;

use xks_proxy::limits::{BODY_OVERHEAD_BYTES, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES};
use xks_proxy::observe::metrics::Metrics;
use xks_proxy::proto::service_config::Timeouts;
use xks_proxy::proto::{ServiceConfig, ServiceOptions, StoreConfig, Version, VersionedKey};

use crate::choices::byte;
use crate::requests::CREDENTIALS;
use crate::rig::{self, OTHER_PREFIX, PREFIX};

/// Path prefixes of the stores.
pub const PREFIXES: [&str; 2] = [PREFIX, OTHER_PREFIX];

/// A key id with versions 1 to 3, whose keys in the HSM are `v-1` to `v-3`.
pub const VERSIONED: &str = "key-v";

/// A store.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Numbers of its [`CREDENTIALS`].
    pub credentials: Vec<usize>,
    pub key_ids: Vec<&'static str>,
    /// Number of the version of [`VERSIONED`] that encrypts; none if the store does not have it.
    pub encrypt_with: Option<u32>,
    pub retired: Option<u32>,
    pub is_disabled: bool,
    pub disabled_key: Option<&'static str>,
    pub max_in_flight: Option<u32>,
    /// Number of its count of requests in flight.
    pub quota: usize,
}

/// The settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub stores: [Option<Store>; 2],
    pub is_signed: bool,
    pub timeouts: Timeouts,
    pub max_plaintext: usize,
    pub max_aad: usize,
    pub max_requests: u64,
    pub ciphertext_metadata: Option<&'static [u8]>,
}

fn pick<T: Copy>(choices: &[T], byte: u8) -> T {
    choices[usize::from(byte) % choices.len()]
}

impl Settings {
    /// The settings that `word` chooses, in place of `former`. Each of its bytes is 0 in most
    /// cases, so that most settings serve most requests. `quotas` gets a count for each store that
    /// `former` does not have.
    pub fn new(word: u64, former: Option<&Self>, quotas: &mut Vec<u32>) -> Self {
        let at = |place| if byte(word, place) < 160 { 0 } else { byte(word, place) };
        let millis = Duration::from_millis;
        let timeouts = Timeouts {
            request: millis(pick(&[180, 50, 1_000], at(0))),
            head: millis(pick(&[10_000, 1_000], at(0) / 3)),
            body: millis(pick(&[11_000, 2_000], at(0) / 3)),
            idle: millis(pick(&[75_000, 5_000], at(0) / 6)),
            write: millis(pick(&[12_000, 1_000], at(0) / 12)),
            ..rig::options().timeouts
        };
        let mut quota_of = |store: usize| {
            let former = former.and_then(|former| former.stores[store].as_ref());
            former.map_or_else(
                || {
                    quotas.push(0);
                    quotas.len() - 1
                },
                |store| store.quota,
            )
        };
        let first = Store {
            credentials: pick::<&[usize]>(&[&[0], &[0, 2], &[2], &[1, 2], &[1]], at(1)).to_vec(),
            key_ids: pick::<&[&str]>(&[&["key-1", "key-2"], &["key-1"]], at(2)).to_vec(),
            encrypt_with: pick(&[Some(1), Some(2), Some(3), None], byte(word, 2) >> 6),
            retired: pick(&[None, Some(1), Some(2)], at(3)),
            is_disabled: at(4).is_multiple_of(8) && at(4) > 0,
            disabled_key: pick(&[None, Some("key-1"), Some(VERSIONED)], at(4)),
            max_in_flight: pick(&[None, Some(3), Some(1)], at(5)),
            quota: quota_of(0),
        };
        let second = Store {
            credentials: vec![3],
            key_ids: vec!["key-3"],
            encrypt_with: None,
            retired: None,
            is_disabled: false,
            disabled_key: None,
            max_in_flight: pick(&[Some(2), None], at(5)),
            quota: 0,
        };
        let has_second = !at(6).is_multiple_of(4) || at(6) == 0;
        let second = has_second.then(|| Store { quota: quota_of(1), ..second });
        Self {
            stores: [Some(first), second],
            is_signed: byte(word, 7) < 240,
            timeouts,
            max_plaintext: pick(
                &[DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES, 4_096, 200_000],
                at(6) / 4,
            ),
            max_aad: ServiceOptions::new("", "", timeouts).max_aad_in_base64,
            max_requests: pick(&[1_000_000, 0, 5, 1], at(7)),
            ciphertext_metadata: pick::<Option<&[u8]>>(&[None, Some(b"v1")], byte(word, 7)),
        }
    }

    /// Longest body of a request.
    pub fn max_body(&self) -> usize {
        self.max_plaintext + self.max_aad + BODY_OVERHEAD_BYTES
    }

    /// Whether a store names the key of this name in the HSM.
    pub fn names(&self, key: &str) -> bool {
        let names = |store: &Store| {
            store.key_ids.contains(&key) || (store.encrypt_with.is_some() && key.starts_with("v-"))
        };
        self.stores.iter().flatten().any(names)
    }

    /// The form that the protocol core takes.
    pub fn service(&self, former: Option<&ServiceConfig>, metrics: &Metrics) -> Arc<ServiceConfig> {
        let options = ServiceOptions {
            is_sigv4_auth_enabled: self.is_signed,
            timeouts: self.timeouts,
            max_plaintext_in_base64: self.max_plaintext,
            max_requests_per_connection: self.max_requests,
            ciphertext_metadata: self.ciphertext_metadata.map(<[u8]>::to_vec),
            ..rig::options()
        };
        let stores = self.stores.iter().zip(PREFIXES);
        let stores = stores.filter_map(|(store, prefix)| Some(store.as_ref()?.config(prefix)));
        Arc::new(ServiceConfig::new(options, stores.collect(), former, Some(metrics)))
    }
}

impl Store {
    fn config(&self, prefix: &str) -> StoreConfig {
        let credentials: Vec<_> = self.credentials.iter().map(|at| CREDENTIALS[*at]).collect();
        let version = |number: u32| Version {
            number,
            key_name: format!("v-{number}"),
            is_retired: self.retired == Some(number) && self.encrypt_with != Some(number),
        };
        StoreConfig {
            versioned_keys: self.encrypt_with.map_or_else(Vec::new, |encrypt_with| {
                let versions = (1..=3).map(version).collect();
                vec![VersionedKey { id: VERSIONED.to_owned(), versions, encrypt_with }]
            }),
            is_disabled: self.is_disabled,
            disabled_key_ids: self.disabled_key.iter().map(|id| (*id).to_owned()).collect(),
            max_in_flight: self.max_in_flight,
            ..rig::store(prefix, &credentials, &self.key_ids)
        }
    }

    /// Whether a version of [`VERSIONED`] decrypts.
    pub fn decrypts(&self, version: u32) -> bool {
        self.retired != Some(version) || self.encrypt_with == Some(version)
    }

    /// Whether calls with the key are refused.
    pub fn has_disabled(&self, key: &str) -> bool {
        self.is_disabled || self.disabled_key == Some(key)
    }

    /// Whether the store may use the key.
    pub fn has(&self, key: &str) -> bool {
        self.key_ids.contains(&key) || (key == VERSIONED && self.encrypt_with.is_some())
    }
}

//! The configuration that all connections share: stores, credentials, limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::quota::Quota;
use super::sigv4::Scope;
use super::sigv4::credential::SigningCredential;
use super::store::{KeyVersion, Store, StoreConfig, StoreKey, VersionedKey};
use super::xks::version_tag;
use crate::job::KeyIndex;
use crate::limits::{
    BODY_OVERHEAD_BYTES, DEFAULT_MAX_AAD_IN_BASE64_BYTES, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
    DEFAULT_MAX_REQUESTS_PER_CONNECTION, MAX_CONGESTED_WAIT, MAX_HEAD_BYTES,
};
use crate::observe::metrics::{KeyMetrics, Metrics};
use crate::policy::Policy;

/// The settings that hold for all stores.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Region that a signature's scope must name.
    pub region: String,
    /// Service that a signature's scope must name.
    pub service: String,
    /// Requests must be signed.
    pub is_sigv4_auth_enabled: bool,
    /// Metadata of each new ciphertext, at most 20 bytes.
    pub ciphertext_metadata: Option<Vec<u8>>,
    /// Policy that each call except health is subject to.
    pub policy: Option<Arc<Policy>>,
    /// Limit on plaintext and ciphertext, in bytes of base64.
    pub max_plaintext_in_base64: usize,
    /// Limit on AAD, in bytes of base64.
    pub max_aad_in_base64: usize,
    /// Number of requests after which a connection is closed; 0 means no limit.
    pub max_requests_per_connection: u64,
    /// `xksProxyFleetSize`
    pub fleet_size: u32,
    /// Limits on waiting times.
    pub timeouts: Timeouts,
    /// Labels of keys that the proxy itself uses and that belong to no store.
    pub storeless_labels: Vec<String>,
}

impl ServiceOptions {
    /// Makes options with these values, and defaults for all others.
    #[must_use]
    pub fn new(region: &str, service: &str, timeouts: Timeouts) -> Self {
        Self {
            region: region.to_owned(),
            service: service.to_owned(),
            is_sigv4_auth_enabled: true,
            ciphertext_metadata: None,
            policy: None,
            max_plaintext_in_base64: DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
            max_aad_in_base64: DEFAULT_MAX_AAD_IN_BASE64_BYTES,
            max_requests_per_connection: DEFAULT_MAX_REQUESTS_PER_CONNECTION,
            fleet_size: 1,
            timeouts,
            storeless_labels: Vec::new(),
        }
    }
}

/// The configuration of the protocol core.
#[derive(Debug)]
pub struct ServiceConfig {
    /// Settings that hold for all stores.
    pub options: ServiceOptions,
    stores: Vec<Store>,
    /// Indices into `stores`, sorted by prefix.
    by_prefix: Vec<(Box<str>, usize)>,
    labels: Vec<Box<str>>,
    /// Counters by [`KeyIndex`]; `None` for a key that only former configurations name. Empty if
    /// nothing is counted.
    key_metrics: Vec<Option<Arc<KeyMetrics>>>,
    credentials: usize,
}

/// Limits on the duration of each wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A whole call, from its first byte.
    pub request: Duration,
    /// From the first byte to the end of the head.
    pub head: Duration,
    /// From the end of the head to the end of the body.
    pub body: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Until the peer has taken an answer.
    pub write: Duration,
    /// A TLS handshake.
    pub handshake: Duration,
}

impl ServiceConfig {
    /// Builds the configuration. If it replaces `former`, keys keep the [`KeyIndex`] that jobs and
    /// the HSM side know, even keys that no store names any longer, and quotas keep their current
    /// use. Without `metrics`, nothing is counted.
    ///
    /// An external key id whose `encrypt_with` is not one of its versions is left out; settings
    /// refuse such a file. Of two stores with the same prefix, the later one is served; settings refuse such a file.
    #[must_use]
    pub fn new(
        options: ServiceOptions,
        stores: Vec<StoreConfig>,
        former: Option<&Self>,
        metrics: Option<&Metrics>,
    ) -> Self {
        let mut builder = Builder::new(former, metrics);
        let mut named: Vec<KeyIndex> =
            options.storeless_labels.iter().map(|label| builder.key(label)).collect();
        let stores: Vec<Store> = stores.into_iter().map(|store| builder.store(store)).collect();
        named.extend(stores.iter().flat_map(|store| &store.keys).flat_map(|(_, key)| key.keys()));
        let key_metrics = builder.key_metrics(&named);
        let prefixes = stores.iter().map(|store| store.uri_path_prefix.clone());
        let by_prefix: HashMap<Box<str>, usize> = prefixes.zip(0..).collect();
        let mut by_prefix: Vec<(Box<str>, usize)> = by_prefix.into_iter().collect();
        by_prefix.sort_unstable();
        let Builder { labels, credentials, .. } = builder;
        Self { options, stores, by_prefix, labels, key_metrics, credentials }
    }

    /// The longest time that a request may wait for an event loop before that is taken for a sign of
    /// congestion: half of its deadline, which leaves the other half to the HSM.
    #[must_use]
    pub fn max_wait_in_loop(&self) -> Duration {
        self.options.timeouts.request / 2
    }

    /// The longest time that a request may wait for a congested event loop.
    #[must_use]
    pub fn max_congested_wait(&self) -> Duration {
        MAX_CONGESTED_WAIT.min(self.max_wait_in_loop())
    }

    /// The index of the key with this label, if the HSM side knows it.
    #[must_use]
    pub fn key_of(&self, label: &str) -> Option<KeyIndex> {
        let place = self.labels.iter().position(|known| **known == *label)?;
        u32::try_from(place).ok().map(KeyIndex)
    }

    /// Counters of the key's use, if it is counted.
    #[must_use]
    pub fn key_metrics(&self, key: KeyIndex) -> Option<&KeyMetrics> {
        self.key_metrics.get(usize::try_from(key.0).ok()?)?.as_deref()
    }

    /// The store with this prefix.
    #[must_use]
    pub fn store(&self, uri_path_prefix: &str) -> Option<&Store> {
        let at = self.place_of(uri_path_prefix).ok()?;
        self.stores.get(self.by_prefix[at].1)
    }

    fn place_of(&self, uri_path_prefix: &str) -> Result<usize, usize> {
        self.by_prefix.binary_search_by(|(known, _)| (**known).cmp(uri_path_prefix))
    }

    /// All stores, in the order of the settings.
    #[must_use]
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// The distinct names of the keys of all stores, including former ones, in the order of
    /// [`KeyIndex`]. A name is a `CKA_LABEL`, or `id:` and a `CKA_ID` in hexadecimal digits.
    #[must_use]
    pub fn labels(&self) -> &[Box<str>] {
        &self.labels
    }

    /// Number of credentials.
    #[must_use]
    pub fn credentials(&self) -> usize {
        self.credentials
    }

    /// The scope that signatures must have.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope { region: &self.options.region, service: &self.options.service }
    }

    /// The longest body that the limits allow.
    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.options.max_plaintext_in_base64 + self.options.max_aad_in_base64 + BODY_OVERHEAD_BYTES
    }

    /// The longest request that the limits allow, without chunk framing.
    #[must_use]
    pub fn max_request_bytes(&self) -> usize {
        MAX_HEAD_BYTES + self.max_body_bytes()
    }
}

/// Numbers keys and credentials while a configuration is built.
struct Builder<'a> {
    former: Option<&'a ServiceConfig>,
    metrics: Option<&'a Metrics>,
    labels: Vec<Box<str>>,
    known: HashMap<Box<str>, KeyIndex>,
    credentials: usize,
}

impl<'a> Builder<'a> {
    fn new(former: Option<&'a ServiceConfig>, metrics: Option<&'a Metrics>) -> Self {
        let labels: Vec<Box<str>> = former.map(|former| former.labels.clone()).unwrap_or_default();
        let known = labels.iter().cloned().zip((0..).map(KeyIndex)).collect();
        Self { former, metrics, labels, known, credentials: 0 }
    }

    /// The index of the key with this label; a new label gets a new index.
    fn key(&mut self, label: &str) -> KeyIndex {
        let labels = &mut self.labels;
        *self.known.entry(label.into()).or_insert_with(|| {
            labels.push(label.into());
            KeyIndex(u32::try_from(labels.len() - 1).unwrap_or(u32::MAX))
        })
    }

    fn store(&mut self, config: StoreConfig) -> Store {
        let prefix = config.uri_path_prefix.as_str();
        let metrics = self.metrics.map(|metrics| metrics.store(prefix)).unwrap_or_default();
        let credentials = config
            .credentials
            .iter()
            .map(|credential| {
                let of_credential =
                    |metrics: &Metrics| metrics.credential(prefix, &credential.access_key_id);
                let metrics = self.metrics.map(of_credential).unwrap_or_default();
                self.credentials += 1;
                SigningCredential::new(credential, self.credentials - 1, metrics)
            })
            .collect();
        let keys = self.keys(&config);
        let quota = Quota::new(config.max_requests_per_sec, config.max_in_flight);
        let quota = match self.former.and_then(|former| former.store(prefix)) {
            Some(former) => quota.succeeding(former.quota()),
            None => quota,
        };
        Store {
            credentials,
            keys,
            is_disabled: config.is_disabled,
            quota,
            metrics,
            uri_path_prefix: config.uri_path_prefix.into(),
        }
    }

    /// The store's keys, sorted by external key id.
    fn keys(&mut self, config: &StoreConfig) -> Vec<(Box<str>, StoreKey)> {
        let plain = config.key_ids.iter().map(|id| (id.as_str().into(), self.plain_key(id)));
        let mut keys: Vec<(Box<str>, StoreKey)> = plain.collect();
        let versioned = config.versioned_keys.iter();
        keys.extend(
            versioned.filter_map(|key| Some((key.id.as_str().into(), self.versioned_key(key)?))),
        );
        keys.sort_by(|one, other| one.0.cmp(&other.0));
        keys.dedup_by(|one, other| one.0 == other.0);
        for (_, key) in &mut keys {
            key.is_disabled = config.is_disabled;
        }
        for id in &config.disabled_key_ids {
            let place = keys.binary_search_by(|(known, _)| (**known).cmp(id.as_str()));
            if let Some((_, key)) = place.ok().and_then(|place| keys.get_mut(place)) {
                key.is_disabled = true;
            }
        }
        keys
    }

    /// An external key id that is the name of its only key.
    fn plain_key(&mut self, id: &str) -> StoreKey {
        let number = version_tag::ORIGINAL;
        StoreKey {
            encrypts: KeyVersion { number, key: self.key(id), is_retired: false },
            versions: Box::default(),
            is_disabled: false,
        }
    }

    /// An external key id with versions; `None` if none of them encrypts.
    fn versioned_key(&mut self, config: &VersionedKey) -> Option<StoreKey> {
        let mut versions: Vec<KeyVersion> = config
            .versions
            .iter()
            .map(|version| KeyVersion {
                number: version.number,
                key: self.key(&version.key_name),
                is_retired: version.is_retired,
            })
            .collect();
        versions.sort_by_key(|version| version.number);
        let number = config.encrypt_with;
        let encrypts = *versions.iter().find(|version| version.number == number)?;
        Some(StoreKey { encrypts, versions: versions.into(), is_disabled: false })
    }

    /// Counters of the keys in `named`. A key that is no longer named keeps its index but has no
    /// counter: otherwise it would be reported forever.
    fn key_metrics(&self, named: &[KeyIndex]) -> Vec<Option<Arc<KeyMetrics>>> {
        let Some(metrics) = self.metrics else { return Vec::new() };
        let mut is_named = vec![false; self.labels.len()];
        for index in named {
            let place = usize::try_from(index.0).ok().and_then(|place| is_named.get_mut(place));
            place.into_iter().for_each(|is_named| *is_named = true);
        }
        let labels = self.labels.iter().zip(&is_named).filter(|(_, is_named)| **is_named);
        let mut counters = metrics.keys(labels.map(|(label, _)| label.as_ref())).into_iter();
        let counter = |is_named| if is_named { counters.next() } else { None };
        is_named.into_iter().map(counter).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn service(
        former: Option<&ServiceConfig>,
        key_ids: &[&str],
        metrics: &Metrics,
    ) -> ServiceConfig {
        let long = Duration::from_secs(60);
        let timeouts = Timeouts {
            request: long,
            head: long,
            body: long,
            idle: long,
            write: long,
            handshake: long,
        };
        let options = ServiceOptions {
            storeless_labels: vec!["of_the_audit_log".to_owned()],
            ..ServiceOptions::new("us-east-1", "kms-xks-proxy", timeouts)
        };
        let store = StoreConfig {
            uri_path_prefix: "/of/the/test".to_owned(),
            key_ids: key_ids.iter().map(|key_id| (*key_id).to_owned()).collect(),
            ..StoreConfig::default()
        };
        ServiceConfig::new(options, vec![store], former, Some(metrics))
    }

    /// A key that leaves all stores keeps its index for jobs in flight, but is no longer counted or
    /// reported; the other keys keep their counts.
    #[test]
    fn a_key_that_leaves_is_not_counted() {
        let metrics = Metrics::new(1, Arc::default());
        let former = service(None, &["leaves", "stays"], &metrics);
        let (leaves, stays) = (former.key_of("leaves").unwrap(), former.key_of("stays").unwrap());
        former.key_metrics(leaves).unwrap().encrypts.add(1);
        former.key_metrics(stays).unwrap().encrypts.add(7);
        let service = service(Some(&former), &["comes", "stays"], &metrics);
        drop(former);
        assert_eq!(
            (service.key_of("leaves"), service.key_of("stays")),
            (Some(leaves), Some(stays))
        );
        assert!(service.key_metrics(leaves).is_none());
        assert_eq!(service.key_metrics(stays).unwrap().encrypts.get(), 7);
        let comes = service.key_of("comes").unwrap();
        assert_eq!(&*service.key_metrics(comes).unwrap().key_id, "comes");
        let mut shown: Vec<_> = metrics.used_keys().iter().map(|key| key.key_id.clone()).collect();
        shown.sort();
        assert_eq!(
            shown.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
            ["comes", "of_the_audit_log", "stays"]
        );
    }
}

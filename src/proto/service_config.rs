//! What is the same for all connections: stores, credentials, limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::sigv4::Scope;
use super::sigv4::signing_key::SigningCredential;
use super::xks::quota::Quota;
use crate::job::KeyIndex;
use crate::limits::{
    BODY_OVERHEAD_BYTES, DEFAULT_MAX_AAD_IN_BASE64_BYTES, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
    DEFAULT_MAX_REQUESTS_PER_CONNECTION, MAX_HEAD_BYTES,
};
use crate::observe::metrics::{KeyMetrics, Metrics, StoreMetrics};
use crate::observe::redaction::Secret;
use crate::policy::Policy;

/// One external key store: a path prefix, who may call it, and the keys it may use.
#[derive(Debug)]
pub struct Store {
    uri_path_prefix: Box<str>,
    credentials: Vec<SigningCredential>,
    /// Sorted by external key id.
    keys: Vec<(Box<str>, StoreKey)>,
    is_disabled: bool,
    quota: Quota,
    metrics: Arc<StoreMetrics>,
}

/// A key of a store's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreKey {
    /// What jobs call it.
    pub index: KeyIndex,
    /// It, or the whole store, is switched off.
    pub is_disabled: bool,
}

impl Store {
    /// What precedes `/kms/xks/v1`; may be empty.
    #[must_use]
    pub fn uri_path_prefix(&self) -> &str {
        &self.uri_path_prefix
    }

    /// Those who may call it.
    #[must_use]
    pub fn credentials(&self) -> &[SigningCredential] {
        &self.credentials
    }

    /// The key of that external key id, if it is in the store's set.
    #[must_use]
    pub fn key(&self, key_id: &str) -> Option<StoreKey> {
        self.place_of(key_id).map(|at| self.keys[at].1)
    }

    fn place_of(&self, key_id: &str) -> Option<usize> {
        self.keys.binary_search_by(|(known, _)| (**known).cmp(key_id)).ok()
    }

    /// Whether all of it is switched off.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// What it may ask for.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Where its requests are counted.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }
}

/// All that the protocol is configured with.
#[derive(Debug)]
pub struct ServiceConfig {
    /// Scope that signatures must have.
    pub region: String,
    /// Scope that signatures must have.
    pub service: String,
    /// Whether signatures are required at all.
    pub is_sigv4_auth_enabled: bool,
    /// Put into each new ciphertext, at most 20 bytes.
    pub ciphertext_metadata: Option<Vec<u8>>,
    /// What each call but health is subject to, if anything.
    pub policy: Option<Arc<Policy>>,
    /// Base64 bytes of plaintext and ciphertext.
    pub max_plaintext_in_base64: usize,
    /// Base64 bytes of AAD.
    pub max_aad_in_base64: usize,
    /// Requests on one connection; the last one's answer ends it. 0 is no bound.
    pub max_requests_per_connection: u64,
    /// `xksProxyFleetSize`
    pub fleet_size: u32,
    /// Times allowed.
    pub timeouts: Timeouts,
    stores: Vec<Store>,
    /// Places in `stores`, sorted by prefix.
    by_prefix: Vec<(Box<str>, usize)>,
    labels: Vec<Box<str>>,
    /// Keys that belong to no store.
    storeless_keys: Vec<KeyIndex>,
    /// By [`KeyIndex`]; none of a key that only former services name. Empty where nothing is
    /// counted.
    key_metrics: Vec<Option<Arc<KeyMetrics>>>,
    credentials: usize,
}

/// How long each wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A whole call, from its first byte.
    pub request: Duration,
    /// First byte to end of head.
    pub head: Duration,
    /// End of head to end of body.
    pub body: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the peer to take an answer.
    pub write: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
}

impl ServiceConfig {
    /// How long a request may wait for its event loop where others wait as well: half of the time
    /// that there is for it leaves the other half to the HSM.
    #[must_use]
    pub fn max_wait_in_loop(&self) -> Duration {
        self.timeouts.request / 2
    }

    /// A service without stores.
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
            stores: Vec::new(),
            by_prefix: Vec::new(),
            labels: Vec::new(),
            storeless_keys: Vec::new(),
            key_metrics: Vec::new(),
            credentials: 0,
        }
    }

    /// Has external key ids keep the [`KeyIndex`] that they have in `former`, whose place this
    /// service, still without stores, is to take: jobs and the HSM side know them by it. An id that
    /// no store names any more keeps its index too.
    pub fn keep_labels(&mut self, former: &Self) {
        debug_assert!(self.labels.is_empty());
        self.labels.clone_from(&former.labels);
    }

    /// Has the HSM side know a key that belongs to no store.
    pub fn add_label(&mut self, label: &str) {
        if self.key_of(label).is_none() {
            self.labels.push(label.into());
        }
        self.storeless_keys.extend(self.key_of(label));
    }

    /// What jobs call the key of that label, if the HSM side knows it.
    #[must_use]
    pub fn key_of(&self, label: &str) -> Option<KeyIndex> {
        let place = self.labels.iter().position(|known| **known == *label)?;
        u32::try_from(place).ok().map(KeyIndex)
    }

    /// Adds a store. A prefix that is there already is replaced (settings refuse that before).
    pub fn add_store<'a>(
        &mut self,
        uri_path_prefix: &str,
        credentials: impl IntoIterator<Item = (&'a str, Secret<String>)>,
        key_ids: impl IntoIterator<Item = &'a str>,
    ) {
        let credentials = credentials
            .into_iter()
            .map(|(access_key_id, secret)| {
                self.credentials += 1;
                SigningCredential::new(access_key_id, secret, self.credentials - 1)
            })
            .collect();
        let mut known: HashMap<Box<str>, KeyIndex> = self
            .labels
            .iter()
            .zip(0..)
            .map(|(label, index)| (label.clone(), KeyIndex(index)))
            .collect();
        let mut keys = Vec::new();
        for key_id in key_ids {
            let index = *known.entry(key_id.into()).or_insert_with(|| {
                self.labels.push(key_id.into());
                KeyIndex(u32::try_from(self.labels.len() - 1).unwrap_or(u32::MAX))
            });
            keys.push((key_id.into(), StoreKey { index, is_disabled: false }));
        }
        keys.sort_by(|one: &(Box<str>, StoreKey), other| one.0.cmp(&other.0));
        keys.dedup();
        let (prefix, quota) = (uri_path_prefix.into(), Quota::default());
        let metrics = Arc::default();
        let is_disabled = false;
        let store =
            Store { uri_path_prefix: prefix, credentials, keys, is_disabled, quota, metrics };
        let place = self.stores.len();
        match self.place_of(uri_path_prefix) {
            Ok(at) => self.by_prefix[at].1 = place,
            Err(at) => self.by_prefix.insert(at, (uri_path_prefix.into(), place)),
        }
        self.stores.push(store);
    }

    /// Bounds what the store of that prefix may ask for; see [`Quota::new`].
    pub fn set_quota(&mut self, uri_path_prefix: &str, quota: Quota) {
        if let Some(store) = self.store_mut(uri_path_prefix) {
            store.quota = quota;
        }
    }

    /// Switches off the store of that prefix, with all its keys.
    pub fn disable_store(&mut self, uri_path_prefix: &str) {
        if let Some(store) = self.store_mut(uri_path_prefix) {
            store.is_disabled = true;
            store.keys.iter_mut().for_each(|(_, key)| key.is_disabled = true);
        }
    }

    /// Switches off one key of the store of that prefix.
    pub fn disable_key(&mut self, uri_path_prefix: &str, key_id: &str) {
        if let Some(store) = self.store_mut(uri_path_prefix)
            && let Some(at) = store.place_of(key_id)
        {
            store.keys[at].1.is_disabled = true;
        }
    }

    /// Says when a credential was made, in seconds since 1970, if that is known.
    pub fn set_created(
        &mut self,
        uri_path_prefix: &str,
        access_key_id: &str,
        unix_secs: Option<u64>,
    ) {
        let Some(store) = self.store_mut(uri_path_prefix) else { return };
        let mut credentials = store.credentials.iter_mut();
        if let Some(credential) = credentials.find(|it| it.access_key_id() == access_key_id) {
            credential.set_created(unix_secs);
        }
    }

    /// Has what the stores, keys and credentials do be counted there, and not nowhere. A key that
    /// nothing names any more has an index still, but no counter: it is not to be shown for ever.
    pub fn count_in(&mut self, metrics: &Metrics) {
        for store in &mut self.stores {
            store.metrics = metrics.store(&store.uri_path_prefix);
            for credential in &mut store.credentials {
                let access_key_id = credential.access_key_id();
                credential.set_metrics(metrics.credential(&store.uri_path_prefix, access_key_id));
            }
        }
        let mut is_named = vec![false; self.labels.len()];
        let of_stores = self.stores.iter().flat_map(|store| &store.keys).map(|(_, key)| key.index);
        for index in of_stores.chain(self.storeless_keys.iter().copied()) {
            let place = usize::try_from(index.0).ok().and_then(|place| is_named.get_mut(place));
            place.into_iter().for_each(|is_named| *is_named = true);
        }
        let named = self.labels.iter().zip(&is_named).filter(|(_, is_named)| **is_named);
        let mut counters = metrics.keys(named.map(|(label, _)| label.as_ref())).into_iter();
        let counter = |is_named| if is_named { counters.next() } else { None };
        self.key_metrics = is_named.into_iter().map(counter).collect();
    }

    /// Where the key's use is counted, if anywhere.
    #[must_use]
    pub fn key_metrics(&self, key: KeyIndex) -> Option<&KeyMetrics> {
        self.key_metrics.get(usize::try_from(key.0).ok()?)?.as_deref()
    }

    /// The store of that prefix.
    #[must_use]
    pub fn store(&self, uri_path_prefix: &str) -> Option<&Store> {
        let at = self.place_of(uri_path_prefix).ok()?;
        self.stores.get(self.by_prefix[at].1)
    }

    fn store_mut(&mut self, uri_path_prefix: &str) -> Option<&mut Store> {
        let at = self.place_of(uri_path_prefix).ok()?;
        self.stores.get_mut(self.by_prefix[at].1)
    }

    fn place_of(&self, uri_path_prefix: &str) -> Result<usize, usize> {
        self.by_prefix.binary_search_by(|(known, _)| (**known).cmp(uri_path_prefix))
    }

    /// All stores, in the order of the settings.
    #[must_use]
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// The distinct external key ids of all stores, of former ones too, in the order of
    /// [`KeyIndex`].
    #[must_use]
    pub fn labels(&self) -> &[Box<str>] {
        &self.labels
    }

    /// How many credentials there are.
    #[must_use]
    pub fn credentials(&self) -> usize {
        self.credentials
    }

    /// The scope that signatures must have.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope { region: &self.region, service: &self.service }
    }

    /// The longest body that the limits can need.
    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.max_plaintext_in_base64 + self.max_aad_in_base64 + BODY_OVERHEAD_BYTES
    }

    /// The longest request, chunk framing not counted.
    #[must_use]
    pub fn max_request_bytes(&self) -> usize {
        MAX_HEAD_BYTES + self.max_body_bytes()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn service(former: Option<&ServiceConfig>, key_ids: &[&str]) -> ServiceConfig {
        let long = Duration::from_secs(60);
        let timeouts = Timeouts {
            request: long,
            head: long,
            body: long,
            idle: long,
            write: long,
            handshake: long,
        };
        let mut service = ServiceConfig::new("us-east-1", "kms-xks-proxy", timeouts);
        former.into_iter().for_each(|former| service.keep_labels(former));
        service.add_label("of_the_audit_log");
        service.add_store("/of/the/test", [], key_ids.iter().copied());
        service
    }

    /// A key that leaves all stores keeps its index, for jobs that are under way, and is not
    /// counted and not shown any more; the others go on counting where they were.
    #[test]
    fn a_key_that_leaves_is_not_counted() {
        let metrics = Metrics::new(1, Arc::default());
        let mut former = service(None, &["leaves", "stays"]);
        former.count_in(&metrics);
        let (leaves, stays) = (former.key_of("leaves").unwrap(), former.key_of("stays").unwrap());
        former.key_metrics(leaves).unwrap().encrypts.add(1);
        former.key_metrics(stays).unwrap().encrypts.add(7);
        let mut service = service(Some(&former), &["comes", "stays"]);
        service.count_in(&metrics);
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

//! Counters. Counting takes no lock and allocates nothing: each event loop has its own counters
//! ([`LoopMetrics`], a shard of each [`StoreMetrics`]), and readers add them up.
//!
//! Stores, keys and credentials are looked up here by name when settings are loaded, never on the
//! request path. A store that is loaded again under the same name keeps its counters.

mod certificate;
mod clock_skew;
pub mod counter;
mod credential;
mod event_loop;
pub mod exposition;
pub mod histogram;
mod key;
pub mod labels;
mod outcomes;
pub mod process;
pub mod reloads;
mod signing_delay;
mod store;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

pub use self::certificate::CertificateMetrics;
pub use self::clock_skew::{ClockSkew, SignedAt};
use self::counter::SharedCounter;
pub use self::credential::CredentialMetrics;
pub use self::event_loop::{Durations, LoopMetrics};
pub use self::key::KeyMetrics;
pub use self::outcomes::{OutcomeCounts, Outcomes};
pub use self::store::StoreMetrics;

/// All counters of the process, except those of the HSM side and the log.
#[derive(Debug)]
pub struct Metrics {
    /// Time at which the process started, by both clocks.
    pub started: (Instant, SystemTime),
    /// Number of panics; each is a defect.
    pub panics: Arc<SharedCounter>,
    /// Reloads of the settings.
    pub reloads: reloads::Reloads,
    /// The difference between the clocks, which all event loops measure.
    pub clock_skew: Arc<ClockSkew>,
    loops: Box<[Arc<LoopMetrics>]>,
    stores: Mutex<Vec<Arc<StoreMetrics>>>,
    keys: Mutex<Vec<Arc<KeyMetrics>>>,
    credentials: Mutex<Vec<Arc<CredentialMetrics>>>,
    certificates: Mutex<Vec<CertificateMetrics>>,
}

impl Metrics {
    /// Creates the counters for `event_loops` event loops. Panics are counted in `panics`.
    #[must_use]
    pub fn new(event_loops: usize, panics: Arc<SharedCounter>) -> Self {
        let clock_skew = Arc::<ClockSkew>::default();
        let of_loop = || Arc::new(LoopMetrics::with(Arc::clone(&clock_skew)));
        Self {
            started: (Instant::now(), SystemTime::now()),
            panics,
            reloads: reloads::Reloads::default(),
            loops: (0..event_loops).map(|_| of_loop()).collect(),
            clock_skew,
            stores: Mutex::default(),
            keys: Mutex::default(),
            credentials: Mutex::default(),
            certificates: Mutex::default(),
        }
    }

    /// Returns the counters of one event loop.
    #[must_use]
    pub fn of_loop(&self, event_loop: u16) -> Arc<LoopMetrics> {
        self.loops.get(usize::from(event_loop)).map(Arc::clone).unwrap_or_default()
    }

    /// Returns the counters of all event loops.
    #[must_use]
    pub fn loops(&self) -> &[Arc<LoopMetrics>] {
        &self.loops
    }

    /// Returns the sum of one counter over the event loops.
    #[must_use]
    pub fn sum(&self, counter: impl Fn(&LoopMetrics) -> u64) -> u64 {
        self.loops.iter().map(|of_loop| counter(of_loop)).sum()
    }

    /// Returns the requests that reached no store.
    #[must_use]
    pub fn storeless(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        self.loops.iter().for_each(|of_loop| of_loop.storeless.add_to(&mut sum));
        sum
    }

    /// Returns the existing counters of a store, or new ones.
    #[must_use]
    pub fn store(&self, uri_path_prefix: &str) -> Arc<StoreMetrics> {
        get_or_insert(
            &self.stores,
            |store| *store.uri_path_prefix == *uri_path_prefix,
            || StoreMetrics::new(uri_path_prefix, self.loops.len()),
        )
    }

    /// Returns the existing counters of many keys, in the same order, or new ones.
    #[must_use]
    pub fn keys<'k>(&self, key_ids: impl Iterator<Item = &'k str>) -> Vec<Arc<KeyMetrics>> {
        let mut keys = self.keys.lock();
        let known: std::collections::HashMap<Box<str>, Arc<KeyMetrics>> =
            keys.iter().map(|key| (key.key_id.clone(), Arc::clone(key))).collect();
        key_ids
            .map(|key_id| match known.get(key_id) {
                Some(key) => Arc::clone(key),
                None => {
                    let key = KeyMetrics { key_id: key_id.into(), ..KeyMetrics::default() };
                    keys.push(Arc::new(key));
                    keys.last().map(Arc::clone).unwrap_or_default()
                }
            })
            .collect()
    }

    /// Returns the existing times of a credential, or new ones.
    #[must_use]
    pub fn credential(&self, uri_path_prefix: &str, access_key_id: &str) -> Arc<CredentialMetrics> {
        let is_match = |credential: &CredentialMetrics| {
            *credential.uri_path_prefix == *uri_path_prefix
                && *credential.access_key_id == *access_key_id
        };
        let new = || CredentialMetrics::loaded_now(uri_path_prefix, access_key_id);
        get_or_insert(&self.credentials, is_match, new)
    }

    /// Returns the stores in use.
    #[must_use]
    pub fn stores(&self) -> Vec<Arc<StoreMetrics>> {
        in_use(&self.stores)
    }

    /// Returns the keys in use.
    #[must_use]
    pub fn used_keys(&self) -> Vec<Arc<KeyMetrics>> {
        in_use(&self.keys)
    }

    /// Returns the credentials in use.
    #[must_use]
    pub fn credentials(&self) -> Vec<Arc<CredentialMetrics>> {
        in_use(&self.credentials)
    }

    /// Sets the certificates in use.
    pub fn set_certificates(&self, certificates: Vec<CertificateMetrics>) {
        *self.certificates.lock() = certificates;
    }

    /// Returns the certificates in use.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateMetrics> {
        self.certificates.lock().clone()
    }
}

fn get_or_insert<T>(
    all: &Mutex<Vec<Arc<T>>>,
    is_match: impl Fn(&T) -> bool,
    new: impl FnOnce() -> T,
) -> Arc<T> {
    let mut all = all.lock();
    if let Some(known) = all.iter().find(|known| is_match(known)) {
        return Arc::clone(known);
    }
    let new = Arc::new(new());
    all.push(Arc::clone(&new));
    new
}

/// Drops the counters to which only this list refers, and returns the others.
fn in_use<T>(all: &Mutex<Vec<Arc<T>>>) -> Vec<Arc<T>> {
    let mut all = all.lock();
    all.retain(|one| Arc::strong_count(one) > 1);
    all.clone()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::labels::{CallLabel, OutcomeLabel};
    use super::*;

    /// A reload does not reset counters, and those of a removed store disappear.
    #[test]
    fn counters_outlive_a_reload_that_keeps_their_store() {
        let metrics = Metrics::new(2, Arc::default());
        let (kept, dropped) = (metrics.store("/kept"), metrics.store("/dropped"));
        for event_loop in 0..2 {
            kept.of_loop(event_loop).unwrap().count(CallLabel::Encrypt, OutcomeLabel::Ok);
        }
        assert!(kept.of_loop(2).is_none());
        let again = metrics.store("/kept");
        drop((kept, dropped));
        assert_eq!(again.counts().of(CallLabel::Encrypt, OutcomeLabel::Ok), 2);
        let names: Vec<_> =
            metrics.stores().iter().map(|store| store.uri_path_prefix.clone()).collect();
        assert_eq!(names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["/kept"]);
    }

    /// A key keeps its counter when others are added.
    #[test]
    fn keys_are_known_by_name() {
        let metrics = Metrics::new(1, Arc::default());
        let first = metrics.keys(["a", "b"].into_iter());
        first[1].encrypts.add(7);
        let second = metrics.keys(["b", "c"].into_iter());
        drop(first);
        assert_eq!(second[0].encrypts.get(), 7);
        assert_eq!(metrics.used_keys().len(), 2);
    }
}

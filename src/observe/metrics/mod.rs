//! What is counted. Counting takes no lock and allocates nothing: each event loop has counters of
//! its own ([`LoopMetrics`], a shard of each [`StoreMetrics`]), and whoever reads them adds up.
//!
//! Stores, keys and credentials are looked up here by name when settings are loaded, never on the
//! request path; what is loaded again under the same name goes on counting where it was.

pub mod counter;
pub mod exposition;
pub mod histogram;
pub mod process;
pub mod reloads;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use self::counter::{Counter, Gauge, SharedCounter};
use self::histogram::Histogram;
use super::timestamp::unix_secs;

/// The calls, as the label `call` has them. The first is for requests whose path names none.
pub const CALLS: [&str; 5] = ["none", "metadata", "encrypt", "decrypt", "health"];

/// What came of a request, as the label `outcome` has it: the answer's errorName (XKS
/// specification, Error codes).
pub const OUTCOMES: [&str; 13] = [
    "ok",
    "ValidationException",
    "InvalidStateException",
    "InvalidCiphertextException",
    "InvalidKeyUsageException",
    "AuthenticationFailedException",
    "AccessDeniedException",
    "KeyNotFoundException",
    "InvalidUriPathException",
    "ThrottlingException",
    "InternalException",
    "UnsupportedOperationException",
    "DependencyTimeoutException",
];

/// Whether an outcome is the proxy's or the HSM's fault, and not the caller's.
#[must_use]
pub fn is_failure(outcome: &str) -> bool {
    matches!(outcome, "ThrottlingException" | "InternalException" | "DependencyTimeoutException")
}

/// Requests by call and outcome, counted by one event loop.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Outcomes([[Counter; OUTCOMES.len()]; CALLS.len()]);

/// The same, as they were at one moment.
pub type OutcomeCounts = [[u64; OUTCOMES.len()]; CALLS.len()];

impl Outcomes {
    /// Counts a request by the places of call and outcome in [`CALLS`] and [`OUTCOMES`].
    pub fn count(&self, call: usize, outcome: usize) {
        if let Some(counter) = self.0.get(call).and_then(|outcomes| outcomes.get(outcome)) {
            counter.add(1);
        }
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut OutcomeCounts) {
        for (counters, sums) in self.0.iter().zip(sum) {
            for (counter, sum) in counters.iter().zip(sums) {
                *sum += counter.get();
            }
        }
    }
}

/// How long calls of one kind took.
#[derive(Debug, Default)]
pub struct Durations {
    /// Waiting for a session.
    pub queue: Histogram,
    /// In the HSM, all attempts together.
    pub hsm: Histogram,
    /// From the request's first byte to the answer.
    pub total: Histogram,
}

/// One event loop's own counters: it alone writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopMetrics {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Of these, those that have ended.
    pub connections_closed: Counter,
    /// Connections ended at once: their address had as many as it may have.
    pub connections_refused: Counter,
    /// Connections ended to make room for others.
    pub connections_evicted: Counter,
    /// Times that accepting paused: at the limit of connections or of descriptors.
    pub accept_pauses: Counter,
    /// TLS handshakes that came to their end.
    pub tls_handshakes: Counter,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    /// Requests turned away unseen, since the loop cannot keep up with what comes.
    pub congestion_refusals: Counter,
    /// Requests that wait for the HSM's answer.
    pub in_flight: Gauge,
    /// Times that the policy was evaluated.
    pub policy_evaluations: Counter,
    /// Times that what it had decided before was remembered.
    pub policy_decisions_remembered: Counter,
    /// Requests that reached no store.
    pub storeless: Outcomes,
    /// By call.
    pub durations: [Durations; CALLS.len()],
}

/// A key store's counters, a shard for each event loop.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// The store's `uri_path_prefix`.
    pub uri_path_prefix: Box<str>,
    shards: Box<[Outcomes]>,
}

impl StoreMetrics {
    /// The counters of that event loop. `None` where nothing is counted, as in tests.
    #[must_use]
    pub fn of_loop(&self, event_loop: u16) -> Option<&Outcomes> {
        self.shards.get(usize::from(event_loop))
    }

    /// All loops' counts.
    #[must_use]
    pub fn counts(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        self.shards.iter().for_each(|shard| shard.add_to(&mut sum));
        sum
    }
}

/// A key's counters.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct KeyMetrics {
    /// The external key id.
    pub key_id: Box<str>,
    /// Encryptions: what a limit on a key's use is measured against (NIST SP 800-38D, 8.3).
    pub encrypts: SharedCounter,
}

/// When a credential was made, loaded and last used.
#[derive(Debug, Default)]
pub struct CredentialMetrics {
    /// The store's `uri_path_prefix`.
    pub uri_path_prefix: Box<str>,
    /// Not secret.
    pub access_key_id: Box<str>,
    /// Seconds since 1970.
    pub loaded_unix_secs: u64,
    /// 0 if it is not known.
    created_unix_secs: AtomicU64,
    last_used_unix_secs: AtomicU64,
}

impl CredentialMetrics {
    /// A signature made with it was right.
    pub fn used(&self, unix_secs: u64) {
        // Mostly unchanged: then the cache line stays shared.
        if self.last_used_unix_secs.load(Ordering::Relaxed) != unix_secs {
            self.last_used_unix_secs.store(unix_secs, Ordering::Relaxed);
        }
    }

    /// What the settings say of when it was made, in seconds since 1970.
    pub fn set_created(&self, unix_secs: Option<u64>) {
        self.created_unix_secs.store(unix_secs.unwrap_or(0), Ordering::Relaxed);
    }

    /// Seconds since 1970, if the settings say it.
    #[must_use]
    pub fn created_unix_secs(&self) -> Option<u64> {
        Some(self.created_unix_secs.load(Ordering::Relaxed)).filter(|unix_secs| *unix_secs > 0)
    }

    /// Seconds since 1970; 0 if it was not used since it was loaded.
    #[must_use]
    pub fn last_used_unix_secs(&self) -> u64 {
        self.last_used_unix_secs.load(Ordering::Relaxed)
    }
}

/// A certificate that we show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateMetrics {
    /// Where: `api` or `admin`.
    pub listener: &'static str,
    /// Subject distinguished name.
    pub subject: String,
    /// Seconds since 1970 at which it expires.
    pub not_after_unix_secs: i64,
}

/// All counters of the process, but for those of the HSM side and the log.
#[derive(Debug)]
pub struct Metrics {
    /// When the process began, by both clocks.
    pub started: (Instant, SystemTime),
    /// Panics: each is a defect.
    pub panics: Arc<SharedCounter>,
    /// What became of the settings.
    pub reloads: reloads::Reloads,
    loops: Box<[Arc<LoopMetrics>]>,
    stores: Mutex<Vec<Arc<StoreMetrics>>>,
    keys: Mutex<Vec<Arc<KeyMetrics>>>,
    credentials: Mutex<Vec<Arc<CredentialMetrics>>>,
    certificates: Mutex<Vec<CertificateMetrics>>,
}

impl Metrics {
    /// For that many event loops; panics are counted in `panics`.
    #[must_use]
    pub fn new(event_loops: usize, panics: Arc<SharedCounter>) -> Self {
        Self {
            started: (Instant::now(), SystemTime::now()),
            panics,
            reloads: reloads::Reloads::default(),
            loops: (0..event_loops).map(|_| Arc::default()).collect(),
            stores: Mutex::default(),
            keys: Mutex::default(),
            credentials: Mutex::default(),
            certificates: Mutex::default(),
        }
    }

    /// That event loop's own counters.
    #[must_use]
    pub fn of_loop(&self, event_loop: u16) -> Arc<LoopMetrics> {
        self.loops.get(usize::from(event_loop)).map(Arc::clone).unwrap_or_default()
    }

    /// All event loops' counters.
    #[must_use]
    pub fn loops(&self) -> &[Arc<LoopMetrics>] {
        &self.loops
    }

    /// The sum of one counter over the event loops.
    #[must_use]
    pub fn sum(&self, counter: impl Fn(&LoopMetrics) -> u64) -> u64 {
        self.loops.iter().map(|of_loop| counter(of_loop)).sum()
    }

    /// Requests that reached no store.
    #[must_use]
    pub fn storeless(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        self.loops.iter().for_each(|of_loop| of_loop.storeless.add_to(&mut sum));
        sum
    }

    /// The store's counters, those that are there already or new ones.
    #[must_use]
    pub fn store(&self, uri_path_prefix: &str) -> Arc<StoreMetrics> {
        known_or_new(
            &self.stores,
            |store| *store.uri_path_prefix == *uri_path_prefix,
            || StoreMetrics {
                uri_path_prefix: uri_path_prefix.into(),
                shards: self.loops.iter().map(|_| Outcomes::default()).collect(),
            },
        )
    }

    /// The counters of many keys, in their order; those that are there already or new ones.
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

    /// The credential's times, those that are there already or new ones.
    #[must_use]
    pub fn credential(&self, uri_path_prefix: &str, access_key_id: &str) -> Arc<CredentialMetrics> {
        let is_it = |credential: &CredentialMetrics| {
            *credential.uri_path_prefix == *uri_path_prefix
                && *credential.access_key_id == *access_key_id
        };
        let new = || CredentialMetrics {
            uri_path_prefix: uri_path_prefix.into(),
            access_key_id: access_key_id.into(),
            loaded_unix_secs: unix_secs(SystemTime::now()),
            created_unix_secs: AtomicU64::new(0),
            last_used_unix_secs: AtomicU64::new(0),
        };
        known_or_new(&self.credentials, is_it, new)
    }

    /// Stores that are in use.
    #[must_use]
    pub fn stores(&self) -> Vec<Arc<StoreMetrics>> {
        in_use(&self.stores)
    }

    /// Keys that are in use.
    #[must_use]
    pub fn used_keys(&self) -> Vec<Arc<KeyMetrics>> {
        in_use(&self.keys)
    }

    /// Credentials that are in use.
    #[must_use]
    pub fn credentials(&self) -> Vec<Arc<CredentialMetrics>> {
        in_use(&self.credentials)
    }

    /// Says which certificates are shown from now on.
    pub fn set_certificates(&self, certificates: Vec<CertificateMetrics>) {
        *self.certificates.lock() = certificates;
    }

    /// The certificates that are shown.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateMetrics> {
        self.certificates.lock().clone()
    }
}

fn known_or_new<T>(
    all: &Mutex<Vec<Arc<T>>>,
    is_it: impl Fn(&T) -> bool,
    new: impl FnOnce() -> T,
) -> Arc<T> {
    let mut all = all.lock();
    if let Some(known) = all.iter().find(|known| is_it(known)) {
        return Arc::clone(known);
    }
    let new = Arc::new(new());
    all.push(Arc::clone(&new));
    new
}

/// Those that somebody counts in; those that no settings name any more are dropped.
fn in_use<T>(all: &Mutex<Vec<Arc<T>>>) -> Vec<Arc<T>> {
    let mut all = all.lock();
    all.retain(|one| Arc::strong_count(one) > 1);
    all.clone()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A reload must not set counters back, and what it drops must not be shown for ever.
    #[test]
    fn counters_outlive_a_reload_that_keeps_their_store() {
        let metrics = Metrics::new(2, Arc::default());
        let (kept, dropped) = (metrics.store("/kept"), metrics.store("/dropped"));
        for event_loop in 0..2 {
            kept.of_loop(event_loop).unwrap().count(2, 0);
        }
        assert!(kept.of_loop(2).is_none());
        let again = metrics.store("/kept");
        drop((kept, dropped));
        assert_eq!(again.counts()[2][0], 2);
        let names: Vec<_> =
            metrics.stores().iter().map(|store| store.uri_path_prefix.clone()).collect();
        assert_eq!(names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["/kept"]);
    }

    /// A key keeps its counter when others come.
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

    /// What is out of range is not counted, and no panic.
    #[test]
    fn an_unknown_outcome_is_nothing() {
        let outcomes = Outcomes::default();
        outcomes.count(CALLS.len(), 0);
        outcomes.count(0, OUTCOMES.len());
        let mut sum = OutcomeCounts::default();
        outcomes.add_to(&mut sum);
        assert_eq!(sum, OutcomeCounts::default());
    }
}

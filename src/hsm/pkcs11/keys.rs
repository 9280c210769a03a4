//! The cache of a token's keys: handles and attributes by name, found in one listing.

mod checks;
mod details;
mod disagreeing;
mod end_dates;
mod inventory;
mod key;
pub mod listing;
mod lost;
mod private_first;
pub mod reading;
mod same_objects;
mod search;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::labels::Labels;
use super::own_handles::Handles;
use crate::hsm::key_date::Date;
use crate::hsm::witness::Witnesses;
use crate::job::KeyIndex;
use crate::limits::MAX_MISSING_LABEL_LOOKUPS_PER_SEC;
use crate::rate::PerSecond;
pub use details::details;
use disagreeing::Disagreeing;
use end_dates::EndDates;
pub use inventory::keys_of_names;
use key::Entry;
pub use key::Key;
use private_first::PrivateFirst;
use same_objects::SameObjects;

/// One token's keys.
pub struct KeyCache {
    labels: Arc<Labels>,
    witnesses: Arc<Witnesses>,
    disagreeing: Disagreeing,
    private_first: PrivateFirst,
    same_objects: SameObjects,
    end_dates: EndDates,
    entries: RwLock<Vec<Entry>>,
    /// The kind of handles in `entries`.
    handles: Handles,
    /// Number of times that all handles have been forgotten.
    era: AtomicU64,
    /// True if labels have been added since the last listing.
    has_new: AtomicBool,
    is_stale: AtomicBool,
    /// Index at which the next search for evidence begins, so that different keys are used.
    next_evidence: AtomicUsize,
    /// Index at which the search for the next key to prove begins.
    next_proof: AtomicUsize,
    lookups: Mutex<PerSecond<Instant>>,
}

impl KeyCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(labels: Arc<Labels>, witnesses: Arc<Witnesses>) -> Self {
        let entries = RwLock::new(vec![Entry::default(); labels.now().all().len()]);
        Self {
            labels,
            witnesses,
            disagreeing: Disagreeing::default(),
            private_first: PrivateFirst::default(),
            same_objects: SameObjects::default(),
            end_dates: EndDates::default(),
            entries,
            handles: Handles::OfToken,
            era: AtomicU64::new(0),
            has_new: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            next_evidence: AtomicUsize::new(0),
            next_proof: AtomicUsize::new(0),
            lookups: Mutex::new(PerSecond::new(MAX_MISSING_LABEL_LOOKUPS_PER_SEC)),
        }
    }

    /// Sets the kind of handles that the token's module has. Must be called before the first search.
    #[must_use]
    pub fn with_handles(self, handles: Handles) -> Self {
        Self { handles, ..self }
    }

    /// Returns the labels whose keys are cached.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Returns the kind of handles that the cached keys have.
    #[must_use]
    pub fn handles(&self) -> Handles {
        self.handles
    }

    /// Returns how many times all handles have been forgotten.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// Returns the fleet's witnesses.
    #[must_use]
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// Returns whether the key is the health key and no store names it, so that each token may have
    /// a different key under that label.
    fn is_health_key_only(&self, key: KeyIndex) -> bool {
        self.labels.health_key == Some(key) && self.labels.storeless.contains(&key)
    }

    /// Reads the label's entry, if there is one, under the read lock.
    fn read_entry<T>(&self, key: KeyIndex, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.entries.read().get(usize::try_from(key.0).ok()?).map(look)
    }

    /// Changes the label's entry, if there is one, under the write lock.
    fn update_entry(&self, key: KeyIndex, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.write();
        if let Some(entry) = usize::try_from(key.0).ok().and_then(|index| entries.get_mut(index)) {
            change(entry);
        }
    }

    /// Adds labels that jobs may name (see [`Labels`]). Until the next listing, which should follow
    /// soon, the token may have keys with any of them.
    pub fn extend_to(&self, labels: &[Box<str>]) {
        self.labels.extend_to(labels);
        let mut entries = self.entries.write();
        if labels.len() > entries.len() {
            entries.resize(labels.len(), Entry::default());
            self.has_new.store(true, Ordering::Release);
        }
    }

    /// Returns whether labels have been added since the last listing.
    #[must_use]
    pub fn has_new(&self) -> bool {
        self.has_new.load(Ordering::Acquire)
    }

    /// Returns the key, if the latest search found it.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<Key> {
        self.read_entry(key, |entry| entry.key).flatten()
    }

    /// Returns whether no key is cached.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.entries.read().iter().all(|entry| entry.key.is_none())
    }

    /// Returns whether the token may have the key: before the first listing, it may have any.
    #[must_use]
    pub fn may_have(&self, key: KeyIndex) -> bool {
        self.read_entry(key, |entry| entry.key.is_some() || !entry.is_listed).unwrap_or(false)
    }

    /// Returns the names and end dates of up to `max` keys that have one, the earliest first.
    #[must_use]
    pub fn end_dates(&self, max: usize) -> Vec<(Box<str>, Date)> {
        let (dates, labels) = (self.end_dates.earliest(max), self.labels.now());
        let named =
            dates.into_iter().filter_map(|(key, date)| Some((labels.get(key)?.into(), date)));
        named.collect()
    }

    /// Logs that end dates are near or have passed, once for each key and date.
    pub fn warn_of_end_dates(&self, token: &str, today: Date) {
        self.end_dates.warn(token, &self.labels.now(), today);
    }

    /// Returns whether a handle was found to be stale since the last call.
    pub fn take_stale(&self) -> bool {
        self.is_stale.swap(false, Ordering::AcqRel)
    }

    /// Records that a handle was found to be stale, so that the keys are listed again.
    pub fn mark_stale(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// Forgets all handles, since a handle may belong to another key after the token was absent or
    /// the module was initialised again. Until the next listing, keys are looked up one by one.
    pub fn forget(&self) {
        let mut entries = self.entries.write();
        self.era.fetch_add(1, Ordering::AcqRel);
        self.is_stale.store(true, Ordering::Release);
        for entry in entries.iter_mut() {
            *entry = Entry { was_there: entry.was_there, ..Entry::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a cache for a token whose keys have been listed, and which has none of these labels.
    pub(super) fn cache(labels: &[&str]) -> KeyCache {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        let labels = Labels::new(labels, false, None, Vec::new());
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        cache.entries.write().iter_mut().for_each(|entry| entry.is_listed = true);
        cache
    }

    /// Until the next listing, a label that a reload adds counts as possibly present; the other
    /// labels keep their state.
    #[test]
    fn added_labels_may_be_there() {
        let cache = cache(&["a"]);
        cache.extend_to(&[Box::from("a"), Box::from("b")]);
        assert!(cache.has_new() && cache.may_have(KeyIndex(1)) && !cache.may_have(KeyIndex(0)));
        let now = Instant::now();
        assert!((0..10).all(|_| cache.may_look_up(KeyIndex(1), now)));
        assert!(cache.may_look_up(KeyIndex(0), now) && !cache.may_look_up(KeyIndex(0), now));
        assert_eq!(cache.labels().now().get(KeyIndex(1)), Some("b"));
        assert!(!cache.may_have(KeyIndex(2)));
        // A shorter list of labels changes nothing.
        cache.extend_to(&[Box::from("a")]);
        assert_eq!(cache.labels().now().all().len(), 2);
    }
}

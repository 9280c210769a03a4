//! A token's keys: their handles and attributes by label, found in one listing pass and kept.

mod checks;
mod disagreeing;
mod key;
mod listing;
mod lost;
mod private_first;
mod search;
mod standing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::labels::Labels;
use crate::hsm::witness::Witnesses;
use crate::job::KeyIndex;
use crate::limits::MAX_MISSING_LABEL_LOOKUPS_PER_SEC;
use crate::rate::PerSecond;
use disagreeing::Disagreeing;
use key::Entry;
pub use key::Key;
use private_first::PrivateFirst;

/// One token's keys.
pub struct KeyCache {
    labels: Arc<Labels>,
    witnesses: Arc<Witnesses>,
    disagreeing: Disagreeing,
    private_first: PrivateFirst,
    entries: RwLock<Vec<Entry>>,
    /// Counts the times that all was forgotten.
    era: AtomicU64,
    /// Labels were added that no listing has been about.
    has_new: AtomicBool,
    is_stale: AtomicBool,
    /// Where the next look for other keys begins, so that it is not always the same ones.
    next_evidence: AtomicUsize,
    /// Where the search for the next key to prove begins.
    next_proof: AtomicUsize,
    lookups: Mutex<PerSecond<Instant>>,
}

impl KeyCache {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(labels: Arc<Labels>, witnesses: Arc<Witnesses>) -> Self {
        let entries = RwLock::new(vec![Entry::default(); labels.now().all().len()]);
        Self {
            labels,
            witnesses,
            disagreeing: Disagreeing::default(),
            private_first: PrivateFirst::default(),
            entries,
            era: AtomicU64::new(0),
            has_new: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            next_evidence: AtomicUsize::new(0),
            next_proof: AtomicUsize::new(0),
            lookups: Mutex::new(PerSecond::new(MAX_MISSING_LABEL_LOOKUPS_PER_SEC)),
        }
    }

    /// The labels that it is about.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Those of the fleet.
    #[must_use]
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// Whether it is the health key and no store's: each token may have its own.
    fn is_for_probes_alone(&self, key: KeyIndex) -> bool {
        self.labels.health_key == Some(key) && self.labels.storeless.contains(&key)
    }

    /// Looks at the label's entry, if there is one, with the lock held for reading.
    fn look_at<T>(&self, key: KeyIndex, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.entries.read().get(usize::try_from(key.0).ok()?).map(look)
    }

    /// Changes the label's entry, if there is one, with the lock held for writing.
    fn with_entry(&self, key: KeyIndex, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.write();
        if let Some(entry) = usize::try_from(key.0).ok().and_then(|index| entries.get_mut(index)) {
            change(entry);
        }
    }

    /// Takes in that jobs may name more labels, see [`Labels`]. Until the next listing, which
    /// should be soon, the token may have any of the new ones.
    pub fn extend_to(&self, labels: &[Box<str>]) {
        self.labels.extend_to(labels);
        let mut entries = self.entries.write();
        if labels.len() > entries.len() {
            entries.resize(labels.len(), Entry::default());
            self.has_new.store(true, Ordering::Release);
        }
    }

    /// Whether labels were added since the last listing.
    #[must_use]
    pub fn has_new(&self) -> bool {
        self.has_new.load(Ordering::Acquire)
    }

    /// The key, if it was there when last looked for.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<Key> {
        self.look_at(key, |entry| entry.key).flatten()
    }

    /// Whether nothing is known of any key.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.entries.read().iter().all(|entry| entry.key.is_none())
    }

    /// Whether it is there, as far as is known: before a listing, all may be.
    #[must_use]
    pub fn may_have(&self, key: KeyIndex) -> bool {
        self.look_at(key, |entry| entry.key.is_some() || !entry.is_listed).unwrap_or(false)
    }

    /// Whether a handle was found stale since this was last asked.
    pub fn take_stale(&self) -> bool {
        self.is_stale.swap(false, Ordering::AcqRel)
    }

    /// A handle was found stale: the keys are to be listed anew.
    pub fn suspect(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// Forgets all handles: after the token was away, or the module was initialised anew, a handle
    /// may be another key's. What is wanted is looked up, until the next listing.
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

    fn cache(labels: &[&str]) -> KeyCache {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        let labels = Labels::new(labels, false, None, Vec::new());
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        cache.entries.write().iter_mut().for_each(|entry| entry.is_listed = true);
        cache
    }

    /// What a reload adds may be there before a listing has told; what was known stays.
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
        // Fewer are not a change.
        cache.extend_to(&[Box::from("a")]);
        assert_eq!(cache.labels().now().all().len(), 2);
    }
}

//! The keys that a token is known to have had.

use std::sync::atomic::Ordering;

use super::KeyCache;
use crate::job::KeyIndex;

impl KeyCache {
    /// Returns whether the key was found before and is not considered deleted.
    pub fn was_there(&self, key: KeyIndex) -> bool {
        self.read_entry(key, |entry| entry.was_there).unwrap_or(false)
    }

    /// Returns the number of keys that were found before and are not considered deleted.
    pub fn known(&self) -> usize {
        self.entries.read().iter().filter(|entry| entry.was_there).count()
    }

    /// Returns up to `max` such keys other than `than`, starting where the last search ended.
    pub fn some_known(&self, max: usize, than: Option<KeyIndex>) -> Vec<KeyIndex> {
        let entries = self.entries.read();
        let start = self.next_evidence.load(Ordering::Relaxed) % entries.len().max(1);
        let (before, after) = entries.split_at(start);
        let places = (start..).zip(after).chain((0..).zip(before));
        let known = places.filter(|(_, entry)| entry.was_there);
        let indices = known.filter_map(|(place, _)| u32::try_from(place).ok().map(KeyIndex));
        let found: Vec<_> = indices.filter(|index| Some(*index) != than).take(max).collect();
        self.next_evidence.fetch_add(found.len(), Ordering::Relaxed);
        found
    }

    /// Records that keys are considered deleted. Returns those that had been found before.
    pub fn mark_deleted(&self, keys: &[KeyIndex]) -> Vec<KeyIndex> {
        let mut entries = self.entries.write();
        let mut deleted = |key: &KeyIndex| {
            let entry = usize::try_from(key.0).ok().and_then(|index| entries.get_mut(index));
            entry.is_some_and(|entry| entry.key.is_none() && std::mem::take(&mut entry.was_there))
        };
        keys.iter().copied().filter(|key| deleted(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::hsm::pkcs11::keys::Key;
    use crate::hsm::pkcs11::labels::Labels;
    use crate::job::KeyAttributes;

    const KEY: Key = Key {
        handle: 7,
        attributes: KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED },
        count: 1,
        proven_in: 0,
    };

    /// Keys that were found are remembered across a reconnection until they are considered deleted;
    /// a key that was never found is not remembered.
    #[test]
    fn keys_that_were_there() {
        let labels = ["a", "b", "never"].map(Box::from).to_vec();
        let labels = Arc::new(Labels::new(labels, false, None, Vec::new()));
        let cache = KeyCache::new(labels, Arc::default());
        let (a, b) = (KeyIndex(0), KeyIndex(1));
        cache.entries.write().iter_mut().take(2).for_each(|entry| entry.find(Some(KEY)));
        cache.forget();
        assert!(cache.get(a).is_none() && cache.was_there(a));
        assert_eq!(cache.known(), 2);
        assert_eq!(cache.some_known(3, Some(a)), [b]);
        assert_eq!(cache.some_known(1, None).len(), 1);
        cache.entries.write()[1].find(Some(KEY));
        assert_eq!(cache.mark_deleted(&[a, b, KeyIndex(2)]), [a], "b has been found again");
        assert!(!cache.was_there(a) && cache.was_there(b) && !cache.was_there(KeyIndex(2)));
        assert_eq!(cache.some_known(3, Some(b)), []);
    }
}

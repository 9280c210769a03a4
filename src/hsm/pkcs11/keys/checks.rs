//! The selection of keys for health checks and known-good operations.

use std::sync::atomic::Ordering;

use super::KeyCache;
use super::key::Key;
use crate::hsm::backend::Direction;
use crate::job::KeyIndex;
use crate::limits::MAX_EVIDENCE_KEYS;

impl KeyCache {
    /// Returns the health key, if the settings name one and the token has it.
    #[must_use]
    pub fn health_key(&self) -> Option<(KeyIndex, Key)> {
        let index = self.labels.health_key?;
        self.get(index).map(|key| (index, key))
    }

    /// Returns keys for a health check: a few that may encrypt and decrypt, or else one that may
    /// encrypt.
    #[must_use]
    pub fn for_health_check(&self, may_use: &dyn Fn(KeyIndex) -> bool) -> Vec<(KeyIndex, Key)> {
        let both = self.some_for_evidence(MAX_EVIDENCE_KEYS, may_use);
        if !both.is_empty() {
            return both;
        }
        let entries = self.entries.read();
        let mut keys = (0..).zip(entries.iter()).filter_map(|(at, entry)| {
            entry.key.filter(|key| key.attributes.encrypt).map(|key| (KeyIndex(at), key))
        });
        keys.find(|(index, _)| may_use(*index)).into_iter().collect()
    }

    /// Returns up to `max` keys that may encrypt and decrypt and that `may_use` admits, starting
    /// where the last search ended.
    #[must_use]
    pub fn some_for_evidence(
        &self,
        max: usize,
        may_use: &dyn Fn(KeyIndex) -> bool,
    ) -> Vec<(KeyIndex, Key)> {
        let entries = self.entries.read();
        let start = self.next_evidence.load(Ordering::Relaxed) % entries.len().max(1);
        let (before, after) = entries.split_at(start);
        let places = (start..).zip(after).chain((0..).zip(before));
        let mut found = Vec::new();
        for (place, entry) in places {
            if let Some(key) = entry.key
                && key.attributes.encrypt
                && key.attributes.decrypt
                && let Ok(index) = u32::try_from(place).map(KeyIndex)
                && may_use(index)
            {
                if found.is_empty() {
                    // The next search begins after this key.
                    self.next_evidence.store(place + 1, Ordering::Relaxed);
                }
                found.push((index, key));
                if found.len() == max {
                    break;
                }
            }
        }
        found
    }

    /// Returns whether the token has keys that stores use and `is_out` reports all of them out of
    /// use, in every direction that their attributes allow.
    #[must_use]
    pub fn are_all(&self, is_out: &dyn Fn(KeyIndex, Direction) -> bool) -> bool {
        let entries = self.entries.read();
        let of_stores = (0..).zip(entries.iter()).filter_map(|(at, entry)| {
            let index = KeyIndex(at);
            entry.key.filter(|_| !self.labels.storeless.contains(&index)).map(|key| (index, key))
        });
        let mut is_any = false;
        for (index, Key { attributes, .. }) in of_stores {
            let serves = |may: bool, direction| may && !is_out(index, direction);
            if serves(attributes.encrypt, Direction::Encrypt)
                || serves(attributes.decrypt, Direction::Decrypt)
            {
                return false;
            }
            is_any |= attributes.encrypt || attributes.decrypt;
        }
        is_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::hsm::pkcs11::labels::Labels;
    use crate::job::KeyAttributes;

    /// A token serves no key if every key of a store is out of use, in every direction that its
    /// attributes allow. A key that no store names does not count.
    #[test]
    fn all_keys_out_of_use() {
        let labels = ["a", "b", "health"].map(Box::from).to_vec();
        let health = KeyIndex(2);
        let labels = Labels::new(labels, false, Some(health), vec![health]);
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        let all = |_: KeyIndex, _: Direction| true;
        assert!(!cache.are_all(&all), "the token has no keys");
        let mut attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
        for entry in cache.entries.write().iter_mut() {
            entry.key = Some(Key { handle: 1, attributes, count: 1, proven_in: 0 });
            attributes.decrypt = false;
        }
        assert!(cache.are_all(&all) && cache.are_all(&|key, _| key != health));
        assert!(!cache.are_all(&|_, direction| direction == Direction::Encrypt));
        assert!(!cache.are_all(&|key, _| key == KeyIndex(0)));
        let encrypts_with_one =
            |key, direction| key == KeyIndex(0) || direction == Direction::Encrypt;
        assert!(cache.are_all(&encrypts_with_one), "it may not decrypt with the other");
    }
}

//! The status of a token's keys: whether they are proven to be the same as the other tokens' keys.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::KeyCache;
use super::key::Key;
use crate::hsm::backend::{Direction, KeyChoice, KeyStatus, NotProven};
use crate::job::KeyIndex;

impl KeyCache {
    /// Returns the key's status for use in that direction.
    #[must_use]
    pub fn key_status(&self, key: KeyIndex, direction: Option<Direction>) -> KeyStatus {
        // The lock is released before the witnesses are consulted.
        let entry = self.read_entry(key, |it| (it.key, it.is_listed, it.unprovable_in));
        let Some((found, is_listed, unprovable_in)) = entry else { return KeyStatus::Absent };
        match found {
            None if is_listed => KeyStatus::Absent,
            Some(Key { attributes, .. })
                if direction == Some(Direction::Encrypt) && !attributes.encrypt
                    || direction == Some(Direction::Decrypt) && !attributes.decrypt =>
            {
                KeyStatus::Absent
            }
            found => match self.disagreeing.era_of(key) {
                // Witnesses have changed since the test, so the next encryption tests the key
                // again.
                Some(of) if direction == Some(Direction::Encrypt) && of != self.witnesses.era() => {
                    KeyStatus::Unproven
                }
                Some(_) => KeyStatus::Disagrees,
                None => match found {
                    Some(found) if found.proven_in == self.witnesses.era() => KeyStatus::Proven,
                    Some(found) if self.is_provable(key, &found, unprovable_in) => {
                        KeyStatus::Provable
                    }
                    _ => KeyStatus::Unproven,
                },
            },
        }
    }

    fn is_provable(&self, key: KeyIndex, found: &Key, unprovable_in: u32) -> bool {
        let has_witness = || self.labels().now().get(key).is_some_and(|it| self.witnesses.has(it));
        found.attributes.decrypt && unprovable_in != self.witnesses.era() && has_witness()
    }

    /// Records that the key cannot be tested with its witness. Returns whether this is new in this
    /// era.
    pub fn cannot_be_proven(&self, key: KeyIndex) -> bool {
        let (era, mut is_news) = (self.witnesses.era(), false);
        self.update_entry(key, |entry| {
            is_news = std::mem::replace(&mut entry.unprovable_in, era) != era;
        });
        is_news
    }

    /// Returns whether the key disagreed with its witness when it was last tested.
    pub fn has_disagreed(&self, key: KeyIndex) -> bool {
        self.disagreeing.era_of(key).is_some()
    }

    /// Returns whether the key disagreed recently and no witness has changed since.
    pub fn is_known_to_disagree(&self, key: KeyIndex, now: Instant) -> bool {
        self.disagreeing.era_of(key) == Some(self.witnesses.era()) && self.is_put_off(key, now)
    }

    /// Returns whether an attempt to prove the key would be useless now.
    pub fn is_untestable(&self, key: KeyIndex, now: Instant) -> bool {
        let may_decrypt = self.get(key).is_none_or(|key| key.attributes.decrypt);
        !may_decrypt || self.is_put_off(key, now)
    }

    fn is_put_off(&self, key: KeyIndex, now: Instant) -> bool {
        let era = self.witnesses.era();
        self.read_entry(key, |entry| entry.is_put_off(now, era)).unwrap_or(false)
    }

    /// Returns the unproven keys among those that are present or have not been searched for yet.
    #[must_use]
    pub fn not_proven(&self) -> NotProven {
        let (era, labels) = (self.witnesses.era(), self.labels().now());
        let mut found = NotProven::default();
        for (at, entry) in (0..).zip(self.entries.read().iter()) {
            let index = KeyIndex(at);
            let proven_in = match entry.key {
                _ if self.is_health_key_only(index) => continue,
                None if entry.is_listed && !entry.was_there => continue,
                key => key.map_or(0, |key| key.proven_in),
            };
            if self.has_disagreed(index) {
                found.disagreeing.extend(labels.get(index).map(Box::from));
            } else if proven_in != era {
                // Either of two tokens that disagree may have the wrong key.
                match labels.get(index).filter(|label| self.witnesses.is_disputed(label)) {
                    Some(label) => found.disagreeing.push(label.into()),
                    None => found.unproven += 1,
                }
            }
        }
        found
    }

    /// Records that the key with that handle was proven in that era. Returns whether the key
    /// disagreed before.
    pub fn is_proven(&self, key: KeyIndex, handle: CK_OBJECT_HANDLE, era: u32) -> bool {
        self.update_entry(key, |entry| {
            if let Some(key) = entry.key.as_mut().filter(|key| key.handle == handle) {
                key.proven_in = era;
            }
            entry.prove_after = None;
            entry.unprovable_in = 0;
        });
        self.disagreeing.set(key, None)
    }

    /// Records that the key disagrees with its witness. Returns whether this is a change.
    pub fn disagrees(&self, key: KeyIndex) -> bool {
        self.update_entry(key, |entry| {
            if let Some(key) = &mut entry.key {
                key.proven_in = 0;
            }
        });
        self.disagreeing.set(key, Some(self.witnesses.era()))
    }

    /// Defers the next attempt to prove the key until `after`, or until witnesses change.
    pub fn prove_later(&self, key: KeyIndex, after: Instant) {
        let era = self.witnesses.era();
        self.update_entry(key, |entry| entry.prove_after = Some((after, era)));
    }

    /// Returns a key that can be proven now: one that has a witness, or one that `may_make` admits.
    ///
    /// No lock is held while `may_make` and `keys` are called, because they read the keys of this
    /// and other tokens: a thread that takes a read lock twice deadlocks if a writer starts to wait
    /// in between.
    pub fn next_to_prove(
        &self,
        now: Instant,
        may_make: &dyn Fn(KeyIndex) -> bool,
        keys: &dyn KeyChoice,
    ) -> Option<(KeyIndex, Key)> {
        let labels = self.labels().now();
        let all = labels.all().len();
        let start = self.next_proof.load(Ordering::Relaxed) % all.max(1);
        let (mut place, mut end, mut is_first_half) = (start, all, true);
        loop {
            let Some((found, index, key)) = self.first_due(place..end, now) else {
                if !std::mem::take(&mut is_first_half) {
                    return None;
                }
                (place, end) = (0, start);
                continue;
            };
            let has_witness = || labels.get(index).is_some_and(|it| self.witnesses.has(it));
            let can_make = || key.attributes.encrypt && may_make(index);
            if keys.may_use(index) && (has_witness() || can_make()) {
                self.next_proof.store(found + 1, Ordering::Relaxed);
                return Some((index, key));
            }
            place = found + 1;
        }
    }

    /// Returns the first key in that range that is neither proven nor deferred.
    fn first_due(&self, places: Range<usize>, now: Instant) -> Option<(usize, KeyIndex, Key)> {
        let era = self.witnesses.era();
        let entries = self.entries.read();
        let places = places.start..places.end.min(entries.len());
        places.clone().zip(entries.get(places)?).find_map(|(place, entry)| {
            let key = entry.key.filter(|key| key.proven_in != era && key.attributes.decrypt)?;
            let index = u32::try_from(place).map(KeyIndex).ok()?;
            let is_due = !entry.is_put_off(now, era) && !self.is_health_key_only(index);
            is_due.then_some((place, index, key))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hsm::backend::AnyKey;
    use crate::hsm::pkcs11::labels::Labels;
    use crate::job::KeyAttributes;

    /// The callbacks read all tokens' keys, so the lock is not held while they are called.
    #[test]
    fn asks_without_a_lock() {
        let labels = ["a", "b", "c"].map(Box::from).to_vec();
        let labels = Labels::new(labels, false, None, Vec::new());
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        let attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
        for entry in cache.entries.write().iter_mut() {
            entry.key = Some(Key { handle: 1, attributes, count: 1, proven_in: 0 });
        }
        let is_last = |key: KeyIndex| {
            assert!(cache.entries.try_write().is_some(), "the keys are locked during the call");
            key == KeyIndex(2)
        };
        let next = || cache.next_to_prove(Instant::now(), &is_last, &AnyKey);
        // The result does not depend on where the last search ended.
        for _ in 0..3 {
            assert_eq!(next().map(|(index, _)| index), Some(KeyIndex(2)));
        }
        cache.is_proven(KeyIndex(2), 1, cache.witnesses().era());
        assert_eq!(next(), None);
    }
}

//! Which of a token's keys are proven to be the same as the other tokens'.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;
use parking_lot::RwLock;

use super::keys::{Key, KeyCache};
use crate::hsm::backend::{Direction, KeyChoice, NotProven, Standing};
use crate::job::KeyIndex;

/// One token's keys that disagree, and where to look for the next one to prove.
#[derive(Default)]
pub(super) struct Disagreeing {
    keys: RwLock<BTreeSet<KeyIndex>>,
    count: AtomicUsize,
    next: AtomicUsize,
}

impl Disagreeing {
    fn contains(&self, key: KeyIndex) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.keys.read().contains(&key)
    }

    /// Returns whether that is new.
    fn set(&self, key: KeyIndex, disagrees: bool) -> bool {
        if !disagrees && self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut keys = self.keys.write();
        let is_news = if disagrees { keys.insert(key) } else { keys.remove(&key) };
        self.count.store(keys.len(), Ordering::Release);
        is_news
    }
}

impl KeyCache {
    /// Returns what is known of the key, for that use of it.
    #[must_use]
    pub fn standing(&self, key: KeyIndex, direction: Option<Direction>) -> Standing {
        let entries = self.entries.read();
        let entry = usize::try_from(key.0).ok().and_then(|index| entries.get(index));
        let Some(entry) = entry else { return Standing::Absent };
        match entry.key {
            None if entry.is_listed => Standing::Absent,
            Some(Key { attributes, .. })
                if direction == Some(Direction::Encrypt) && !attributes.encrypt
                    || direction == Some(Direction::Decrypt) && !attributes.decrypt =>
            {
                Standing::Absent
            }
            _ if self.disagreeing.contains(key) => Standing::Disagrees,
            Some(found) if found.proven_in == self.witnesses.era() => Standing::Proven,
            Some(found) if self.is_provable(key, &found, entry.unprovable_in) => Standing::Provable,
            _ => Standing::Unproven,
        }
    }

    fn is_provable(&self, key: KeyIndex, found: &Key, unprovable_in: u32) -> bool {
        let has_witness = || self.labels().now().get(key).is_some_and(|it| self.witnesses.has(it));
        found.attributes.decrypt && unprovable_in != self.witnesses.era() && has_witness()
    }

    /// Records that the key cannot be tried by its witness. Returns whether that is new.
    pub(super) fn cannot_be_proven(&self, key: KeyIndex) -> bool {
        let (era, mut is_news) = (self.witnesses.era(), false);
        self.with_entry(key, |entry| {
            is_news = std::mem::replace(&mut entry.unprovable_in, era) != era;
        });
        is_news
    }

    /// Returns the keys that are there, or have not been looked for yet, and are not proven.
    #[must_use]
    pub fn not_proven(&self) -> NotProven {
        let (era, labels) = (self.witnesses.era(), self.labels().now());
        let mut found = NotProven::default();
        for (at, entry) in (0..).zip(self.entries.read().iter()) {
            let index = KeyIndex(at);
            let proven_in = match entry.key {
                _ if self.is_for_probes_alone(index) => continue,
                None if entry.is_listed => continue,
                key => key.map_or(0, |key| key.proven_in),
            };
            if self.disagreeing.contains(index) {
                found.disagreeing.extend(labels.get(index).map(Box::from));
            } else if proven_in != era {
                found.unproven += 1;
            }
        }
        found
    }

    /// Records that the key with that handle was proven in that era. Returns whether it disagreed
    /// before.
    pub(super) fn is_proven(&self, key: KeyIndex, handle: CK_OBJECT_HANDLE, era: u32) -> bool {
        self.with_entry(key, |entry| {
            if let Some(key) = entry.key.as_mut().filter(|key| key.handle == handle) {
                key.proven_in = era;
            }
            entry.prove_after = None;
            entry.unprovable_in = 0;
        });
        self.disagreeing.set(key, false)
    }

    /// Records that it is another key than the witness's. Returns whether that is new.
    pub(super) fn disagrees(&self, key: KeyIndex) -> bool {
        self.with_entry(key, |entry| {
            if let Some(key) = &mut entry.key {
                key.proven_in = 0;
            }
        });
        self.disagreeing.set(key, true)
    }

    /// Puts the next attempt off until then, or until witnesses have changed.
    pub(super) fn prove_later(&self, key: KeyIndex, after: Instant) {
        let era = self.witnesses.era();
        self.with_entry(key, |entry| entry.prove_after = Some((after, era)));
    }

    /// Returns a key that can be proven now: one that has a witness, or that `may_make` admits.
    pub(super) fn next_to_prove(
        &self,
        now: Instant,
        may_make: &dyn Fn(KeyIndex) -> bool,
        keys: &dyn KeyChoice,
    ) -> Option<(KeyIndex, Key)> {
        let (era, labels) = (self.witnesses.era(), self.labels().now());
        let entries = self.entries.read();
        let start = self.disagreeing.next.load(Ordering::Relaxed) % entries.len().max(1);
        let (before, after) = entries.split_at(start);
        for (place, entry) in (start..).zip(after).chain((0..).zip(before)) {
            let Some(key) = entry.key.filter(|key| key.proven_in != era) else { continue };
            let Ok(index) = u32::try_from(place).map(KeyIndex) else { continue };
            let is_put_off = entry.prove_after.is_some_and(|(after, of)| now < after && of == era);
            if is_put_off || !key.attributes.decrypt || self.is_for_probes_alone(index) {
                continue;
            }
            let has_witness = || labels.get(index).is_some_and(|it| self.witnesses.has(it));
            let can_make = || key.attributes.encrypt && may_make(index);
            if keys.may_use(index) && (has_witness() || can_make()) {
                self.disagreeing.next.store(place + 1, Ordering::Relaxed);
                return Some((index, key));
            }
        }
        None
    }
}

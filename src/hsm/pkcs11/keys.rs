//! A token's keys: their handles and attributes by label, found in one listing pass and kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;
use parking_lot::{Mutex, RwLock};

use super::labels::Labels;
use super::listing::{FoundKey, find, list, read};
use super::native::{Error, Session};
use super::private_first::{OfLabel, PrivateFirst};
use super::standing::Disagreeing;
use crate::hsm::backend::Direction;
use crate::hsm::inventory::KeyInventory;
use crate::hsm::witness::Witnesses;
use crate::job::{KeyAttributes, KeyIndex};
use crate::limits::{
    MAX_EVIDENCE_KEYS, MAX_KEYS_PER_LABEL, MAX_KEYS_PER_TOKEN, MAX_MISSING_LABEL_LOOKUPS_PER_SEC,
    MISSING_LABEL_INTERVAL, REFUSED_HANDLE_INTERVAL,
};
use crate::rate::PerSecond;

/// A key that the token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Valid for all sessions of the token until it says otherwise.
    pub handle: CK_OBJECT_HANDLE,
    /// As it was when it was listed.
    pub attributes: KeyAttributes,
    /// How many keys have its label.
    pub count: u32,
    /// The era of the witness that it was proven by, 0 if it was not: see [`Witnesses::era`].
    pub proven_in: u32,
}

impl Key {
    /// The same key, found again: what was proven of `former` holds.
    fn after(self, former: Option<Self>) -> Self {
        let same = former.filter(|former| former.handle == self.handle);
        Self { proven_in: same.map_or(0, |former| former.proven_in), ..self }
    }
}

/// What the cache knows of one label.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) key: Option<Key>,
    /// It was found before, in this or another session, and is not held to be deleted.
    pub(super) was_there: bool,
    /// A listing has told whether the token has it.
    pub(super) is_listed: bool,
    looked_up: Option<Instant>,
    /// A handle that the token refused right after it was found.
    refused: Option<(CK_OBJECT_HANDLE, Instant)>,
    /// It is not to be proven before that time, in that era.
    pub(super) prove_after: Option<(Instant, u32)>,
    /// The era in which it could not be tried by its witness.
    pub(super) unprovable_in: u32,
}

impl Entry {
    pub(super) fn find(&mut self, key: Option<Key>) {
        self.key = key;
        self.was_there |= key.is_some();
    }
}

/// The outcome of a listing for the keys that were there before.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Those that are not; none, if the token has more keys than are listed.
    pub(super) missing: Vec<KeyIndex>,
    /// Others are.
    pub(super) is_any_left: bool,
}

impl Entry {
    pub(super) fn is_put_off(&self, now: Instant, era: u32) -> bool {
        self.prove_after.is_some_and(|(after, of)| now < after && of == era)
    }
}

/// One token's keys.
pub struct KeyCache {
    labels: Arc<Labels>,
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) disagreeing: Disagreeing,
    private_first: PrivateFirst,
    pub(super) entries: RwLock<Vec<Entry>>,
    /// Counts the times that all was forgotten.
    era: AtomicU64,
    /// Labels were added that no listing has been about.
    has_new: AtomicBool,
    is_stale: AtomicBool,
    /// Where the next look for other keys begins, so that it is not always the same ones.
    pub(super) next_evidence: AtomicUsize,
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
    pub(super) fn is_for_probes_alone(&self, key: KeyIndex) -> bool {
        self.labels.health_key == Some(key) && self.labels.storeless.contains(&key)
    }

    /// Looks at the label's entry, if there is one, with the lock held for reading.
    pub(super) fn look_at<T>(&self, key: KeyIndex, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.entries.read().get(usize::try_from(key.0).ok()?).map(look)
    }

    /// Changes the label's entry, if there is one, with the lock held for writing.
    pub(super) fn with_entry(&self, key: KeyIndex, change: impl FnOnce(&mut Entry)) {
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

    /// The health key, if the settings name one and the token has it.
    #[must_use]
    pub fn health_key(&self) -> Option<(KeyIndex, Key)> {
        let index = self.labels.health_key?;
        self.get(index).map(|key| (index, key))
    }

    /// Keys to probe with: a few that may encrypt and decrypt; where there are none, one that may
    /// encrypt.
    #[must_use]
    pub fn to_probe_with(&self, may_use: &dyn Fn(KeyIndex) -> bool) -> Vec<(KeyIndex, Key)> {
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

    /// Up to `max` keys that may encrypt and decrypt and that `may_use` admits, beginning where
    /// the last look ended.
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
                    // Not the same one first the next time.
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

    /// Whether nothing is known of any key.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.entries.read().iter().all(|entry| entry.key.is_none())
    }

    /// Whether all keys of stores that the token has, of which there is at least one, are out of
    /// use by `is_out`, in each direction that their attributes allow.
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

    /// Whether a handle that the token does not take may be looked for again: not soon after it
    /// was found and refused.
    #[must_use]
    pub fn may_replace(&self, key: KeyIndex, stale: CK_OBJECT_HANDLE, now: Instant) -> bool {
        let refused = self.look_at(key, |entry| entry.refused).flatten();
        !refused.is_some_and(|(handle, then)| {
            handle == stale && now.saturating_duration_since(then) < REFUSED_HANDLE_INTERVAL
        })
    }

    /// Takes in that the token refused a handle right after it was found.
    pub fn refused(&self, key: KeyIndex, handle: CK_OBJECT_HANDLE, now: Instant) {
        self.with_entry(key, |entry| entry.refused = Some((handle, now)));
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

    /// Whether a missing label may be looked up now: the token is spared more than
    /// [`MAX_MISSING_LABEL_LOOKUPS_PER_SEC`], and more than one for each label in
    /// [`MISSING_LABEL_INTERVAL`]. Before the first listing is through, a label is not known to be
    /// missing, and may be looked up.
    pub fn may_look_up(&self, key: KeyIndex, now: Instant) -> bool {
        let Ok(index) = usize::try_from(key.0) else { return false };
        let mut lookups = self.lookups.lock();
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(index) else { return false };
        if !entry.is_listed {
            return true;
        }
        let is_recent = |then| now.saturating_duration_since(then) < MISSING_LABEL_INTERVAL;
        if entry.looked_up.is_some_and(is_recent) {
            return false;
        }
        let may = lookups.admit(now).is_some();
        if may {
            entry.looked_up = Some(now);
        }
        may
    }

    /// The handle means nothing any more: this label is looked up at once. If its handle is
    /// another one now, all others of this token are suspect too, and are listed again soon.
    ///
    /// # Errors
    /// The token's.
    pub fn replace(
        &self,
        session: &Session,
        key: KeyIndex,
        stale: CK_OBJECT_HANDLE,
    ) -> Result<Option<Key>, Error> {
        match self.get(key) {
            // Another session was faster.
            Some(known) if known.handle != stale => Ok(Some(known)),
            _ => {
                let found = self.look_up(session, key)?;
                if found.is_none_or(|found| found.handle != stale) {
                    self.is_stale.store(true, Ordering::Release);
                }
                Ok(found)
            }
        }
    }

    /// Finds the keys of one label: few calls, where a listing may take thousands.
    ///
    /// # Errors
    /// The token's.
    pub fn look_up(&self, session: &Session, key: KeyIndex) -> Result<Option<Key>, Error> {
        let labels = self.labels.now();
        let Some(label) = labels.get(key) else { return Ok(None) };
        let era = self.era.load(Ordering::Acquire);
        let (handles, _) = find(session, Some(label), MAX_KEYS_PER_LABEL)?;
        let mut found = OfLabel::default();
        for handle in handles {
            // A module that doesn't compare labels must not give another label's key.
            if let Some(key) = read(session, handle)?
                && key.label.as_deref() == Some(label)
            {
                found.add(&key);
            }
        }
        let found = self.private_first.choose(label, found, self.labels.require_private);
        let mut entries = self.entries.write();
        if self.era.load(Ordering::Acquire) == era
            && let Ok(index) = usize::try_from(key.0)
            && let Some(entry) = entries.get_mut(index)
        {
            entry.find(found);
            entry.prove_after = None;
        }
        Ok(found)
    }

    /// Lists all keys and replaces what is known. `None`: all was forgotten meanwhile.
    ///
    /// # Errors
    /// The token's; what was known stays.
    pub(super) fn refresh(&self, session: &Session) -> Result<Option<Listed>, Error> {
        let (era, began) = (self.era.load(Ordering::Acquire), Instant::now());
        let labels = self.labels.now();
        let mut fresh = vec![OfLabel::default(); labels.all().len()];
        let is_cut = list(session, |key| {
            let index = key.label.as_ref().and_then(|label| labels.indices.get(label.as_str()));
            if let Some(fresh) = index.and_then(|index| fresh.get_mut(*index)) {
                fresh.add(&key);
            }
        })?;
        let is_required = self.labels.require_private;
        let found = labels.all().iter().zip(fresh);
        let fresh: Vec<_> = found
            .map(|(label, found)| self.private_first.choose(label, found, is_required))
            .collect();
        if is_cut {
            tracing::warn!(
                keys = MAX_KEYS_PER_TOKEN,
                "the token has more AES keys than are listed: the others are looked up when they \
                 are asked for"
            );
        }
        let mut entries = self.entries.write();
        if self.era.load(Ordering::Acquire) != era {
            return Ok(None);
        }
        self.has_new.store(entries.len() > fresh.len(), Ordering::Release);
        let mut listed = Listed::default();
        for ((index, entry), key) in (0..).map(KeyIndex).zip(entries.iter_mut()).zip(fresh) {
            // Not to be in a listing that was cut short is not to be missing.
            entry.is_listed = key.is_some() || !is_cut;
            // A key that came while the others were listed, and was looked up.
            let is_newer = entry.looked_up.is_some_and(|then| then >= began);
            if entry.was_there {
                listed.is_any_left |= key.is_some();
                let is_kept = is_newer && entry.key.is_some();
                if key.is_none() && !is_kept && !is_cut {
                    listed.missing.push(index);
                }
            }
            if key.is_some() || !is_newer {
                let key = key.map(|key| key.after(entry.key));
                entry.find(key);
            }
        }
        Ok(Some(listed))
    }

    /// All AES keys of the token, for people, and whether there are more.
    ///
    /// # Errors
    /// The token's.
    pub fn inventory(&self, session: &Session) -> Result<(Vec<KeyInventory>, bool), Error> {
        let mut keys = Vec::new();
        let labels = self.labels.now();
        let is_cut = list(session, |FoundKey { label, attributes, is_private, .. }| {
            let is_configured =
                label.as_ref().is_some_and(|label| labels.indices.contains_key(label.as_str()));
            let label = label.unwrap_or_default().into();
            keys.push(KeyInventory {
                label,
                attributes,
                is_private,
                is_configured,
                keys_of_label: 0,
            });
        })?;
        let mut counts = HashMap::<Box<str>, u32>::new();
        let is_passed_over = |key: &KeyInventory| {
            let is_better =
                |it: &KeyInventory| it.label == key.label && it.is_private != Some(false);
            key.is_private == Some(false) && keys.iter().any(is_better)
        };
        for key in keys.iter().filter(|key| !is_passed_over(key)) {
            *counts.entry(key.label.clone()).or_default() += 1;
        }
        for key in &mut keys {
            key.keys_of_label = counts.get(&key.label).copied().unwrap_or(0);
        }
        Ok((keys, is_cut))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cache(labels: &[&str]) -> KeyCache {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        let labels = Labels::new(labels, false, None, Vec::new());
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        cache.entries.write().iter_mut().for_each(|entry| entry.is_listed = true);
        cache
    }

    /// A store's key that isn't in the token must not turn into a lookup for each call.
    #[test]
    fn lookups_of_a_missing_label_are_spaced() {
        let cache = cache(&["a", "b"]);
        let start = Instant::now();
        assert!(cache.may_look_up(KeyIndex(0), start));
        assert!(!cache.may_look_up(KeyIndex(0), start + Duration::from_millis(1999)));
        assert!(cache.may_look_up(KeyIndex(1), start));
        assert!(cache.may_look_up(KeyIndex(0), start + Duration::from_secs(2)));
        assert!(!cache.may_look_up(KeyIndex(2), start), "no such label");
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

    /// A token serves no key where each key of a store is out of use, in each direction that it may
    /// be used in. A key that no store names does not count.
    #[test]
    fn all_keys_out_of_use() {
        let labels = ["a", "b", "health"].map(Box::from).to_vec();
        let health = KeyIndex(2);
        let labels = Labels::new(labels, false, Some(health), vec![health]);
        let cache = KeyCache::new(Arc::new(labels), Arc::default());
        let all = |_: KeyIndex, _: Direction| true;
        assert!(!cache.are_all(&all), "there are none");
        let mut attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNTOLD };
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

    /// Nor do ten thousand of them.
    #[test]
    fn lookups_of_a_token_are_limited() {
        let labels = (0..200).map(|n| n.to_string()).collect::<Vec<_>>();
        let cache = cache(&labels.iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        let allowed = |now| (0..200).filter(|n| cache.may_look_up(KeyIndex(*n), now)).count();
        let limit = usize::try_from(MAX_MISSING_LABEL_LOOKUPS_PER_SEC).unwrap();
        assert_eq!(allowed(start), limit);
        assert_eq!(allowed(start + Duration::from_secs(3)), limit);
    }
}

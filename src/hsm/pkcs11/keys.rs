//! A token's keys: their handles and attributes by label, found in one listing pass and kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::error::Error;
use cryptoki::object::Attribute;
use cryptoki::session::Session;
use cryptoki_sys::CK_OBJECT_HANDLE;
use parking_lot::{Mutex, RwLock};

use super::listing::{find, list, read, template};
use crate::hsm::inventory::KeyInventory;
use crate::job::{KeyAttributes, KeyIndex};
use crate::limits::{
    MAX_KEYS_PER_LABEL, MAX_MISSING_LABEL_LOOKUPS_PER_SEC, MISSING_LABEL_INTERVAL,
};

/// The labels that jobs may name, by [`KeyIndex`], and the way back.
pub struct Labels {
    labels: Vec<Box<str>>,
    indices: HashMap<Box<str>, usize>,
    /// A label that fits several keys means the first of them.
    pub allow_ambiguous: bool,
}

impl Labels {
    /// In the order of [`KeyIndex`].
    #[must_use]
    pub fn new(labels: Vec<Box<str>>, allow_ambiguous: bool) -> Self {
        let indices = labels.iter().enumerate().map(|(index, label)| (label.clone(), index));
        Self { indices: indices.collect(), labels, allow_ambiguous }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Box<str>] {
        &self.labels
    }

    /// That of the index.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<&str> {
        self.labels.get(usize::try_from(key.0).ok()?).map(AsRef::as_ref)
    }
}

/// A key that the token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Valid for all sessions of the token until it says otherwise.
    pub handle: CK_OBJECT_HANDLE,
    /// As it was when it was listed.
    pub attributes: KeyAttributes,
    /// How many keys have its label.
    pub count: u32,
}

/// What the cache knows of one label.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: Option<Key>,
    looked_up: Option<Instant>,
}

/// One token's keys.
pub struct KeyCache {
    labels: Arc<Labels>,
    entries: RwLock<Vec<Entry>>,
    /// Counts the times that all was forgotten.
    era: AtomicU64,
    is_listed: AtomicBool,
    is_stale: AtomicBool,
    lookups: Mutex<(Option<Instant>, u32)>,
}

impl KeyCache {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(labels: Arc<Labels>) -> Self {
        let entries = RwLock::new(vec![Entry::default(); labels.labels.len()]);
        Self {
            labels,
            entries,
            era: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            lookups: Mutex::default(),
        }
    }

    /// The labels that it is about.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The key, if it was there when last looked for.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<Key> {
        self.entries.read().get(usize::try_from(key.0).ok()?)?.key
    }

    /// Whether it is there, as far as is known: before a listing, all may be.
    #[must_use]
    pub fn may_have(&self, key: KeyIndex) -> bool {
        self.get(key).is_some() || !self.is_listed.load(Ordering::Acquire)
    }

    /// Whether a handle was found stale since this was last asked.
    pub fn take_stale(&self) -> bool {
        self.is_stale.swap(false, Ordering::AcqRel)
    }

    /// Forgets all handles: after the token was away, or the module was initialised anew, a handle
    /// may be another key's. What is wanted is looked up, until the next listing.
    pub fn forget(&self) {
        let mut entries = self.entries.write();
        self.era.fetch_add(1, Ordering::AcqRel);
        self.is_listed.store(false, Ordering::Release);
        self.is_stale.store(true, Ordering::Release);
        entries.fill(Entry::default());
    }

    /// Whether a missing label may be looked up now: the token is spared more than
    /// [`MAX_MISSING_LABEL_LOOKUPS_PER_SEC`], and more than one for each label in
    /// [`MISSING_LABEL_INTERVAL`]. Before the first listing is through, nothing is known to be
    /// missing, and all may be looked up.
    pub fn may_look_up(&self, key: KeyIndex, now: Instant) -> bool {
        let Ok(index) = usize::try_from(key.0) else { return false };
        let recently = |then: Instant, span: Duration| now.saturating_duration_since(then) < span;
        let mut lookups = self.lookups.lock();
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(index) else { return false };
        if !self.is_listed.load(Ordering::Acquire) {
            return true;
        }
        if entry.looked_up.is_some_and(|then| recently(then, MISSING_LABEL_INTERVAL)) {
            return false;
        }
        if !lookups.0.is_some_and(|second| recently(second, Duration::from_secs(1))) {
            *lookups = (Some(now), 0);
        }
        let may = lookups.1 < MAX_MISSING_LABEL_LOOKUPS_PER_SEC;
        if may {
            lookups.1 += 1;
            entry.looked_up = Some(now);
        }
        may
    }

    /// The handle means nothing any more: all others of this token are suspect too, and are
    /// listed anew soon; this label is looked up at once.
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
                self.is_stale.store(true, Ordering::Release);
                self.look_up(session, key)
            }
        }
    }

    /// Finds the keys of one label: few calls, where a listing may take thousands.
    ///
    /// # Errors
    /// The token's.
    pub fn look_up(&self, session: &Session, key: KeyIndex) -> Result<Option<Key>, Error> {
        let Some(label) = self.labels.get(key) else { return Ok(None) };
        let era = self.era.load(Ordering::Acquire);
        let mut template = template();
        template.push(Attribute::Label(label.as_bytes().to_vec()));
        let handles = find(session, &template, MAX_KEYS_PER_LABEL)?;
        let mut found = None;
        let mut count = 0;
        for handle in handles {
            // A module that doesn't compare labels must not give another label's key.
            if let Some((found_label, attributes)) = read(session, handle)?
                && found_label.as_deref() == Some(label)
            {
                count += 1;
                found.get_or_insert((handle.handle(), attributes));
            }
        }
        let found = found.map(|(handle, attributes)| Key { handle, attributes, count });
        let mut entries = self.entries.write();
        if self.era.load(Ordering::Acquire) == era
            && let Ok(index) = usize::try_from(key.0)
            && let Some(entry) = entries.get_mut(index)
        {
            entry.key = found;
        }
        Ok(found)
    }

    /// Lists all keys and replaces what is known.
    ///
    /// # Errors
    /// The token's; what was known stays.
    pub fn refresh(&self, session: &Session) -> Result<(), Error> {
        let era = self.era.load(Ordering::Acquire);
        let mut fresh = vec![None::<Key>; self.labels.labels.len()];
        list(session, |label, handle, attributes| {
            let index = label.and_then(|label| self.labels.indices.get(label));
            if let Some(fresh) = index.and_then(|index| fresh.get_mut(*index)) {
                match fresh {
                    Some(key) => key.count += 1,
                    None => *fresh = Some(Key { handle, attributes, count: 1 }),
                }
            }
        })?;
        let mut entries = self.entries.write();
        if self.era.load(Ordering::Acquire) == era {
            for (entry, key) in entries.iter_mut().zip(fresh) {
                entry.key = key;
            }
            self.is_listed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// All AES keys of the token, for people.
    ///
    /// # Errors
    /// The token's.
    pub fn inventory(&self, session: &Session) -> Result<Vec<KeyInventory>, Error> {
        let mut keys = Vec::new();
        list(session, |label, _, attributes| {
            let is_configured = label.is_some_and(|label| self.labels.indices.contains_key(label));
            let label = label.unwrap_or_default().into();
            keys.push(KeyInventory { label, attributes, is_configured, keys_of_label: 0 });
        })?;
        let mut counts = HashMap::<Box<str>, u32>::new();
        for key in &keys {
            *counts.entry(key.label.clone()).or_default() += 1;
        }
        for key in &mut keys {
            key.keys_of_label = counts.get(&key.label).copied().unwrap_or(0);
        }
        Ok(keys)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn cache(labels: &[&str]) -> KeyCache {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        let cache = KeyCache::new(Arc::new(Labels::new(labels, false)));
        cache.is_listed.store(true, Ordering::Release);
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

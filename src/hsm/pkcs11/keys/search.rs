//! Searches for keys in the token: for those with one name, or for all in one listing pass.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::KeyCache;
use super::key::Key;
use super::listing::{find, list};
use super::private_first::LabelMatches;
use super::reading::Reader;
use crate::hsm::key_date::{Date, KeyDate};
use crate::hsm::pkcs11::native::Error;
use crate::hsm::pkcs11::native_session::NativeSession;
use crate::job::KeyIndex;
use crate::key_name::KeyName;
use crate::limits::{MAX_KEYS_PER_TOKEN, MISSING_LABEL_INTERVAL, REFUSED_HANDLE_INTERVAL};

/// The result of a listing, for the keys that were found before.
#[derive(Debug, Default)]
pub struct Listed {
    /// Keys that are missing now; empty if the token has more keys than are listed.
    pub missing: Vec<KeyIndex>,
    /// True if at least one of them was found again.
    pub is_any_left: bool,
}

impl KeyCache {
    /// Returns whether to search again for a key whose handle the token refuses. False if the
    /// handle was refused shortly before, right after it was found.
    #[must_use]
    pub fn may_replace(&self, key: KeyIndex, stale: CK_OBJECT_HANDLE, now: Instant) -> bool {
        let refused = self.read_entry(key, |entry| entry.refused).flatten();
        !refused.is_some_and(|(handle, then)| {
            handle == stale && now.saturating_duration_since(then) < REFUSED_HANDLE_INTERVAL
        })
    }

    /// Records that the token refused a handle right after it was found.
    pub fn refused(&self, key: KeyIndex, handle: CK_OBJECT_HANDLE, now: Instant) {
        self.update_entry(key, |entry| entry.refused = Some((handle, now)));
    }

    /// Returns whether a missing label may be looked up now. To spare the token, lookups are
    /// limited to
    /// [`MAX_MISSING_LABEL_LOOKUPS_PER_SEC`](crate::limits::MAX_MISSING_LABEL_LOOKUPS_PER_SEC), and
    /// to one per label in [`MISSING_LABEL_INTERVAL`]. Before the first listing no label is known
    /// to be missing, so any may be looked up.
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

    /// Looks up a label at once because its handle is stale. If the handle has changed, all other
    /// handles of this token may have changed too, so the keys are listed again soon.
    ///
    /// # Errors
    /// Returns the token's error.
    pub fn replace(
        &self,
        session: &NativeSession,
        key: KeyIndex,
        stale: CK_OBJECT_HANDLE,
    ) -> Result<Option<Key>, Error> {
        match self.get(key) {
            // Another session has already replaced the handle.
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

    /// Finds the keys with one name, in a few calls, where a listing may take thousands.
    ///
    /// # Errors
    /// Returns the token's error.
    pub fn look_up(&self, session: &NativeSession, key: KeyIndex) -> Result<Option<Key>, Error> {
        let labels = self.labels.now();
        let Some(label) = labels.get(key) else { return Ok(None) };
        let era = self.era.load(Ordering::Acquire);
        let found = self.search(session, label)?.map(|found| self.named(key, found));
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

    /// Searches for the keys with a name, which need not be configured. The cache is unchanged.
    ///
    /// # Errors
    /// Returns the token's error.
    pub fn search(&self, session: &NativeSession, label: &str) -> Result<Option<Key>, Error> {
        // No low limit here: a module that takes no template makes this search return all objects,
        // and public keys planted by others must not hide the private one.
        let name = KeyName::parse(label);
        let (handles, _) = find(session, Some(&name), MAX_KEYS_PER_TOKEN)?;
        let mut reader = Reader::new(matches!(name, KeyName::CkaId(_)));
        let mut found = LabelMatches::default();
        for handle in handles {
            // A module that ignores the name in the template must not yield another name's key.
            if let Some(key) = reader.read(session, handle)?
                && key.has_name(&name)
            {
                found.add(&key);
            }
        }
        Ok(self.private_first.choose(label, found, self.labels.require_private))
    }

    /// Returns the key with the handle under which the cache has it.
    fn named(&self, index: KeyIndex, found: Key) -> Key {
        Key { handle: self.handles.cached(index, found.handle), ..found }
    }

    /// Lists all keys and replaces the cache. Returns `None` if the handles were forgotten during
    /// the listing.
    ///
    /// # Errors
    /// Returns the token's error; the cache is then unchanged.
    pub fn refresh(&self, session: &NativeSession) -> Result<Option<Listed>, Error> {
        let (era, began) = (self.era.load(Ordering::Acquire), Instant::now());
        let labels = self.labels.now();
        let mut fresh = vec![LabelMatches::default(); labels.all().len()];
        let mut reader = Reader::new(labels.has_ids());
        let mut end_dates = HashMap::new();
        let is_cut = list(session, &mut reader, |key| {
            if let KeyDate::On(date) = key.end_date {
                end_dates.insert(key.handle, date);
            }
            for place in labels.places_of(key.label.as_deref(), key.id.as_deref()) {
                if let Some(fresh) = fresh.get_mut(place) {
                    fresh.add(&key);
                }
            }
        })?;
        let is_required = self.labels.require_private;
        let found = labels.all().iter().zip(fresh);
        let fresh: Vec<_> = found
            .map(|(label, found)| self.private_first.choose(label, found, is_required))
            .collect();
        if labels.has_ids() {
            self.same_objects.warn_of(&labels, &fresh);
        }
        if is_cut {
            tracing::warn!(
                keys = MAX_KEYS_PER_TOKEN,
                "the token has more AES keys than are listed: the others are looked up when they \
                are needed"
            );
        }
        let mut entries = self.entries.write();
        if self.era.load(Ordering::Acquire) != era {
            return Ok(None);
        }
        self.has_new.store(entries.len() > fresh.len(), Ordering::Release);
        self.end_dates.replace(end_dates_of(&fresh, &end_dates));
        let mut listed = Listed::default();
        for ((index, entry), key) in (0..).map(KeyIndex).zip(entries.iter_mut()).zip(fresh) {
            // A key that is absent from a truncated listing is not necessarily missing.
            entry.is_listed = key.is_some() || !is_cut;
            // The key may have been created and looked up during the listing.
            let is_newer = entry.looked_up.is_some_and(|then| then >= began);
            if entry.was_there {
                listed.is_any_left |= key.is_some();
                let is_kept = is_newer && entry.key.is_some();
                if key.is_none() && !is_kept && !is_cut {
                    listed.missing.push(index);
                }
            }
            if key.is_some() || !is_newer {
                let key = key.map(|key| self.named(index, key).after(entry.key));
                entry.find(key);
            }
        }
        Ok(Some(listed))
    }
}

/// Returns the end dates of the keys in `found`. `dates` are those of all keys, by handle.
fn end_dates_of(
    found: &[Option<Key>],
    dates: &HashMap<CK_OBJECT_HANDLE, Date>,
) -> BTreeMap<KeyIndex, Date> {
    let keys = (0..).map(KeyIndex).zip(found);
    keys.filter_map(|(index, key)| Some((index, *dates.get(&key.as_ref()?.handle)?))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::hsm::pkcs11::keys::tests::cache;
    use crate::limits::MAX_MISSING_LABEL_LOOKUPS_PER_SEC;

    /// A store's key that is missing from the token must not cause a lookup at every call.
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

    /// Lookups of many missing labels share one limit.
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

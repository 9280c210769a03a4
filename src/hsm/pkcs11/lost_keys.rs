//! Keys that were there and are not found any more: were they deleted, or is the token in trouble?
//!
//! A token whose storage was taken away may say that all is well and show no keys, and go on so
//! after its storage is back, until the module is initialised again. So a key that was there is held
//! to be deleted only if the token is well and still has another one, or if neither a new session
//! nor, where that can be, a new initialisation of the module brought it back.

use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;

use super::keys::KeyCache;
use super::module::Generation;
use super::session::{Calls, Opened};
use super::token::Shared;
use crate::hsm::backend::{Blame, Fault};
use crate::job::{Failure, KeyIndex};
use crate::limits::MAX_EVIDENCE_KEYS;

const NO_SUCH_KEY: Fault = Fault { failure: Failure::KeyNotFound, blame: Blame::Key };

/// The first of the times in a row that keys were missed.
#[derive(Clone, Copy, Debug)]
struct Loss {
    generation: Generation,
    at: Instant,
    /// How many, as far as was looked.
    keys: usize,
}

/// Whether keys that were there are missed, and it is not known yet why.
#[derive(Default)]
pub(super) struct Missed {
    loss: Mutex<Option<Loss>>,
}

impl Missed {
    /// How many keys are missed.
    pub(super) fn keys(&self) -> usize {
        self.loss.lock().map_or(0, |loss| loss.keys)
    }

    fn tried(&self, opened: &Opened) -> Tried {
        match *self.loss.lock() {
            Some(loss) if loss.generation != opened.generation => Tried::Initialization,
            Some(loss) if opened.at > loss.at => Tried::Session,
            Some(_) | None => Tried::Nothing,
        }
    }

    fn note(&self, keys: usize, opened: &Opened) {
        let keys = keys.max(1);
        let mut loss = self.loss.lock();
        match &mut *loss {
            Some(loss) => loss.keys = keys,
            None => {
                *loss = Some(Loss { generation: opened.generation, at: Instant::now(), keys });
            }
        }
    }

    fn is_over(&self) {
        *self.loss.lock() = None;
    }
}

/// The attempts made since keys were first missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Nothing,
    /// A new session.
    Session,
    /// A new initialisation of the module, and so a new session too.
    Initialization,
}

/// All that bears on why a key that was there is not found.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// C_GetTokenInfo succeeds.
    is_token_well: bool,
    /// Another key that was there is found.
    is_another_found: bool,
    tried: Tried,
    /// The module can be initialised again: it is ours, and none of its other tokens works.
    may_reinitialize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Deleted,
    /// Or so it is to be held, until more was tried.
    TokenInTrouble,
}

fn judge(facts: Facts) -> Verdict {
    let was_all_tried = match facts.tried {
        Tried::Nothing => false,
        Tried::Session => !facts.may_reinitialize,
        Tried::Initialization => true,
    };
    if facts.is_token_well && (facts.is_another_found || was_all_tried) {
        Verdict::Deleted
    } else {
        Verdict::TokenInTrouble
    }
}

impl KeyCache {
    /// Whether the key was there, and is not held to be deleted.
    pub(super) fn was_there(&self, key: KeyIndex) -> bool {
        self.look_at(key, |entry| entry.was_there).unwrap_or(false)
    }

    /// How many keys were there, and are not held to be deleted.
    pub(super) fn known(&self) -> usize {
        self.entries.read().iter().filter(|entry| entry.was_there).count()
    }

    /// Up to `max` of them other than `than`, beginning where the last look ended.
    pub(super) fn some_known(&self, max: usize, than: Option<KeyIndex>) -> Vec<KeyIndex> {
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

    /// Takes in that keys are held to be deleted. Returns those of them that were there.
    pub(super) fn hold_deleted(&self, keys: &[KeyIndex]) -> Vec<KeyIndex> {
        let mut entries = self.entries.write();
        let mut deleted = |key: &KeyIndex| {
            let entry = usize::try_from(key.0).ok().and_then(|index| entries.get_mut(index));
            entry.is_some_and(|entry| entry.key.is_none() && std::mem::take(&mut entry.was_there))
        };
        keys.iter().copied().filter(|key| deleted(key)).collect()
    }
}

impl Calls {
    /// The fault of a request whose key a look-up did not find.
    pub(super) fn not_found(&self, token: &Shared, key: KeyIndex) -> Fault {
        // A token that lost its login shows no private keys: that is no key missing.
        if let Err(fault) = self.require_login(token) {
            return fault;
        }
        // While keys are missed there is no telling which others there would be.
        if token.missed.keys() > 0 {
            return Fault::KEYS_MISSED;
        }
        if !token.keys.was_there(key) {
            return NO_SUCH_KEY;
        }
        let is_token_well = self.ask_for_token(token).is_ok();
        let is_another_found = match self.is_another_found(token, Some(key)) {
            Ok(is_found) => is_found,
            Err(fault) => return fault,
        };
        match self.verdict(token, is_token_well, is_another_found) {
            Verdict::Deleted => {
                token.hold_deleted(&[key]);
                NO_SUCH_KEY
            }
            Verdict::TokenInTrouble => {
                token.missed.note(1, &self.opened);
                Fault::KEYS_MISSED
            }
        }
    }

    /// Finds out whether the token is there. One that does not say so and shows none of a few keys
    /// that were there has lost them.
    ///
    /// # Errors
    /// [`Fault`]
    pub(super) fn token_is_present(&self, token: &Shared) -> Result<(), Fault> {
        let Err(fault) = self.ask_for_token(token) else {
            if token.missed.keys() == 0 {
                token.module.works(token.user);
            }
            return Ok(());
        };
        self.require_login(token)?;
        let known = token.keys.known();
        if known > 0 && !self.is_another_found(token, None)? {
            token.missed.note(known, &self.opened);
            return Err(Fault::KEYS_MISSED);
        }
        Err(fault)
    }

    /// Lists the keys.
    ///
    /// # Errors
    /// [`Fault::KEYS_MISSED`] if keys that were there are not, and it is not known yet why; or the
    /// token's.
    pub(super) fn refresh_keys(&self, token: &Shared) -> Result<(), Fault> {
        self.require_login(token)?;
        let listed = token.keys.refresh(self.session()?).map_err(|error| token.fault(&error))?;
        // All handles were forgotten meanwhile: the next listing tells.
        let Some(listed) = listed else { return Ok(()) };
        if listed.missing.is_empty() {
            token.missed.is_over();
            return Ok(());
        }
        // The login may have gone meanwhile.
        self.require_login(token)?;
        let is_token_well = self.ask_for_token(token).is_ok();
        match self.verdict(token, is_token_well, listed.is_any_left) {
            Verdict::Deleted => {
                token.hold_deleted(&listed.missing);
                token.missed.is_over();
                Ok(())
            }
            Verdict::TokenInTrouble => {
                token.missed.note(listed.missing.len(), &self.opened);
                Err(Fault::KEYS_MISSED)
            }
        }
    }

    fn verdict(&self, token: &Shared, is_token_well: bool, is_another_found: bool) -> Verdict {
        judge(Facts {
            is_token_well,
            is_another_found,
            tried: token.missed.tried(&self.opened),
            may_reinitialize: token.module.may_be_reinitialized(token.user),
        })
    }

    /// C_GetTokenInfo.
    fn ask_for_token(&self, token: &Shared) -> Result<(), Fault> {
        let info = token.module.raw.token_info(self.opened.slot);
        info.map(drop).map_err(|error| token.fault(&error))
    }

    /// Whether one of a few keys that were there, other ones each time, is found by a look-up.
    fn is_another_found(&self, token: &Shared, than: Option<KeyIndex>) -> Result<bool, Fault> {
        for index in token.keys.some_known(MAX_EVIDENCE_KEYS, than) {
            let found = token.keys.look_up(self.session()?, index);
            if found.map_err(|error| token.fault(&error))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Shared {
    /// Keys that were there are held to be deleted from now on.
    fn hold_deleted(&self, keys: &[KeyIndex]) {
        let gone = self.keys.hold_deleted(keys);
        let Some(first) = gone.first() else { return };
        let labels = self.keys.labels().now();
        tracing::warn!(
            token = self.identity().label,
            key = labels.get(*first),
            keys = gone.len(),
            "HSM keys that were there were deleted: calls for them get KeyNotFoundException"
        );
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
        attributes: KeyAttributes { bits: 256, ..KeyAttributes::UNTOLD },
        count: 1,
        proven_in: 0,
    };

    /// Keys that were there are known through a reconnection, until they are held to be deleted; a
    /// key that never was is none of them.
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
        assert_eq!(cache.hold_deleted(&[a, b, KeyIndex(2)]), [a], "b was found meanwhile");
        assert!(!cache.was_there(a) && cache.was_there(b) && !cache.was_there(KeyIndex(2)));
        assert_eq!(cache.some_known(3, Some(b)), []);
    }

    /// Each row of the rule.
    #[test]
    fn table() {
        use Tried::{Initialization, Nothing, Session};
        let (deleted, in_trouble) = (Verdict::Deleted, Verdict::TokenInTrouble);
        // Whether C_GetTokenInfo succeeds, another key is found, the module can be initialised.
        for (is_token_well, is_another_found, may_reinitialize, tried, verdict) in [
            // One of many, as an administrator deletes them.
            (true, true, true, Nothing, deleted),
            (true, true, false, Nothing, deleted),
            (true, true, true, Initialization, deleted),
            // The token is away, whatever its library remembers.
            (false, true, true, Nothing, in_trouble),
            (false, true, true, Initialization, in_trouble),
            (false, false, true, Nothing, in_trouble),
            (false, false, true, Session, in_trouble),
            (false, false, true, Initialization, in_trouble),
            (false, false, false, Session, in_trouble),
            // All keys are gone: first all is tried that may bring them back.
            (true, false, true, Nothing, in_trouble),
            (true, false, true, Session, in_trouble),
            (true, false, true, Initialization, deleted),
            (true, false, false, Nothing, in_trouble),
            (true, false, false, Session, deleted),
            (true, false, false, Initialization, deleted),
        ] {
            let facts = Facts { is_token_well, is_another_found, tried, may_reinitialize };
            assert_eq!(judge(facts), verdict, "{facts:?}");
        }
    }
}

//! Handles that are valid in one session only.
//!
//! PKCS#11 makes an object's handle valid in all sessions of the application (v2.40, 2.6.5), so a
//! token's sessions share the handles that one of them found. Some modules number objects anew in
//! each session, and a handle of another session is invalid there or, worse, is another key's.
//! With such a module the cache has a name in place of each handle, and every session finds the
//! handles behind the names for itself.

use std::collections::HashMap;

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::job::KeyIndex;

/// The smallest number that stands for a key and not for a handle of the module.
const FIRST_NAME: CK_OBJECT_HANDLE = CK_OBJECT_HANDLE::MAX / 2 + 1;

/// The kind of handles that a token's cached keys have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handles {
    /// The module's handles, which are valid in all sessions of the token.
    OfToken,
    /// Names, since each session has handles of its own.
    OfSessions,
}

impl Handles {
    /// Returns the handle under which a key is cached. `found` is its handle in the session that
    /// found it.
    #[must_use]
    pub fn cached(self, key: KeyIndex, found: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        match self {
            Self::OfToken => found,
            Self::OfSessions => FIRST_NAME + CK_OBJECT_HANDLE::from(key.0),
        }
    }

    /// Returns the key that a cached handle is the name of; `None` if it is the module's handle.
    #[must_use]
    pub fn named(self, cached: CK_OBJECT_HANDLE) -> Option<KeyIndex> {
        if self == Self::OfToken {
            return None;
        }
        u32::try_from(cached.checked_sub(FIRST_NAME)?).ok().map(KeyIndex)
    }
}

/// A session's own handles of the keys that it has used.
#[derive(Debug, Default)]
pub struct OwnHandles {
    found: HashMap<KeyIndex, OwnHandle>,
}

#[derive(Clone, Copy, Debug)]
struct OwnHandle {
    handle: CK_OBJECT_HANDLE,
    /// The cache's era in which it was found: handles of an earlier one are forgotten.
    era: u64,
    /// Era of the witnesses in which the key behind this handle was proven; 0 if it was not.
    proven_in: u32,
}

impl OwnHandles {
    /// Returns the session's handle of the key, if it was found in that era of the cache.
    #[must_use]
    pub fn get(&self, key: KeyIndex, era: u64) -> Option<CK_OBJECT_HANDLE> {
        self.found.get(&key).filter(|own| own.era == era).map(|own| own.handle)
    }

    /// Records the session's handle of the key.
    pub fn found(&mut self, key: KeyIndex, handle: CK_OBJECT_HANDLE, era: u64) {
        self.found.insert(key, OwnHandle { handle, era, proven_in: 0 });
    }

    /// Forgets the session's handle of the key, which the module refuses.
    pub fn forget(&mut self, key: KeyIndex) {
        self.found.remove(&key);
    }

    /// Returns whether the key behind the session's handle was proven in that era of the witnesses.
    #[must_use]
    pub fn is_proven(&self, key: KeyIndex, era: u32) -> bool {
        self.found.get(&key).is_some_and(|own| own.proven_in == era)
    }

    /// Records that the key behind the session's handle was proven.
    pub fn proven(&mut self, key: KeyIndex, era: u32) {
        if let Some(own) = self.found.get_mut(&key) {
            own.proven_in = era;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyIndex = KeyIndex(7);

    /// A handle of the module is never taken for a name, nor the other way round.
    #[test]
    fn names_and_handles() {
        assert_eq!(Handles::OfToken.cached(KEY, 42), 42);
        let name = Handles::OfSessions.cached(KEY, 42);
        assert_eq!(Handles::OfSessions.named(name), Some(KEY));
        assert_eq!(Handles::OfToken.named(name), None, "any number may be a handle");
        let last = Handles::OfSessions.cached(KeyIndex(u32::MAX), 42);
        assert_eq!(Handles::OfSessions.named(last), Some(KeyIndex(u32::MAX)));
        assert_eq!(Handles::OfSessions.named(42), None, "a session key's handle");
        assert_eq!(Handles::OfSessions.named(CK_OBJECT_HANDLE::MAX), None);
    }

    /// A handle is used only in the era in which it was found, and another handle of the same key
    /// is not proven yet.
    #[test]
    fn eras() {
        let mut own = OwnHandles::default();
        own.found(KEY, 42, 1);
        assert_eq!(
            (own.get(KEY, 1), own.get(KEY, 2), own.get(KeyIndex(8), 1)),
            (Some(42), None, None)
        );
        own.proven(KEY, 3);
        assert!(own.is_proven(KEY, 3) && !own.is_proven(KEY, 4));
        own.found(KEY, 43, 2);
        assert!(!own.is_proven(KEY, 3));
        own.proven(KEY, 3);
        own.forget(KEY);
        assert!(own.get(KEY, 2).is_none() && !own.is_proven(KEY, 3));
    }
}

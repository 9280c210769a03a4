//! A key of a token, and the cache entry of its label.

use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::job::KeyAttributes;

/// A key that the token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Handle, valid in all sessions of the token until one of them reports it invalid; or the
    /// name that stands for it (see [`Handles`](crate::hsm::pkcs11::own_handles::Handles)).
    pub handle: CK_OBJECT_HANDLE,
    /// Attributes at the time of the search.
    pub attributes: KeyAttributes,
    /// Number of keys that have its label.
    pub count: u32,
    /// Era in which the key was proven with its witness, or 0 (see
    /// [`Witnesses::era`](crate::hsm::witness::Witnesses::era)).
    pub proven_in: u32,
}

impl Key {
    /// Returns this key with the proof of `former`, if it has the same handle as before.
    pub fn after(self, former: Option<Self>) -> Self {
        let same = former.filter(|former| former.handle == self.handle);
        Self { proven_in: same.map_or(0, |former| former.proven_in), ..self }
    }
}

/// The cache entry of a label.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub key: Option<Key>,
    /// True if the key was found before, in any session, and is not considered deleted.
    pub was_there: bool,
    /// True once a listing has covered the label.
    pub is_listed: bool,
    pub looked_up: Option<Instant>,
    /// Handle that the token refused right after it was found, and the time of the refusal.
    pub refused: Option<(CK_OBJECT_HANDLE, Instant)>,
    /// Time before which the key is not to be proven, and the era to which that applies.
    pub prove_after: Option<(Instant, u32)>,
    /// Era in which the key could not be tested with its witness.
    pub unprovable_in: u32,
}

impl Entry {
    pub fn find(&mut self, key: Option<Key>) {
        self.key = key;
        self.was_there |= key.is_some();
    }

    pub fn is_put_off(&self, now: Instant, era: u32) -> bool {
        self.prove_after.is_some_and(|(after, of)| now < after && of == era)
    }
}

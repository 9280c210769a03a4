//! One key of a token, and what is known of one label.

use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::job::KeyAttributes;

/// A key that the token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Valid for all sessions of the token until it says otherwise.
    pub handle: CK_OBJECT_HANDLE,
    /// As it was when it was listed.
    pub attributes: KeyAttributes,
    /// How many keys have its label.
    pub count: u32,
    /// The era of the witness that it was proven by, 0 if it was not: see [`era`](crate::hsm::witness::Witnesses::era).
    pub proven_in: u32,
}

impl Key {
    /// The same key, found again: what was proven of `former` holds.
    pub fn after(self, former: Option<Self>) -> Self {
        let same = former.filter(|former| former.handle == self.handle);
        Self { proven_in: same.map_or(0, |former| former.proven_in), ..self }
    }
}

/// What the cache knows of one label.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub key: Option<Key>,
    /// It was found before, in this or another session, and is not held to be deleted.
    pub was_there: bool,
    /// A listing has told whether the token has it.
    pub is_listed: bool,
    pub looked_up: Option<Instant>,
    /// A handle that the token refused right after it was found.
    pub refused: Option<(CK_OBJECT_HANDLE, Instant)>,
    /// It is not to be proven before that time, in that era.
    pub prove_after: Option<(Instant, u32)>,
    /// The era in which it could not be tried by its witness.
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

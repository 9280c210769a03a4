//! The handle with which a session calls the module for a cached key.

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_KEY_HANDLE_INVALID};

use super::Calls;
use crate::hsm::pkcs11::own_handles::Handles;
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::Trouble;
use crate::job::KeyIndex;

impl Calls {
    /// Returns the module's handle behind `cached`, which is that handle itself unless the module's
    /// handles belong to sessions. Then it is searched for once in each session.
    ///
    /// # Errors
    /// Returns [`Trouble::StaleHandle`] if the token has no such key, or the token's fault.
    #[inline]
    pub(super) fn own_handle(
        &mut self,
        token: &Shared,
        cached: CK_OBJECT_HANDLE,
    ) -> Result<CK_OBJECT_HANDLE, Trouble> {
        match token.keys.handles().named(cached) {
            None => Ok(cached),
            Some(key) => self.find_own_handle(token, key),
        }
    }

    #[cold]
    fn find_own_handle(
        &mut self,
        token: &Shared,
        key: KeyIndex,
    ) -> Result<CK_OBJECT_HANDLE, Trouble> {
        let era = token.keys.era();
        if let Some(own) = self.own_handles.get(key, era) {
            return Ok(own);
        }
        let labels = token.keys.labels().now();
        let stale = Trouble::StaleHandle(CKR_KEY_HANDLE_INVALID);
        let label = labels.get(key).ok_or(stale)?;
        let found = token.keys.search(self.session()?, label);
        let found = found.map_err(|error| token.fault(&error))?.ok_or(stale)?;
        self.own_handles.found(key, found.handle, era);
        Ok(found.handle)
    }

    /// Forgets this session's handle of a key, because the module refuses it.
    pub(super) fn forget_own_handle(&mut self, key: KeyIndex) {
        self.own_handles.forget(key);
    }

    /// Returns whether this session may rely on a proof of the key that was made in that era. A
    /// proof by another session's handle is none where handles belong to sessions.
    #[inline]
    pub(super) fn is_own_proof(&self, token: &Shared, key: KeyIndex, era: u32) -> bool {
        token.keys.handles() == Handles::OfToken || self.own_handles.is_proven(key, era)
    }

    /// Records that the key behind this session's handle is proven.
    pub(super) fn record_own_proof(&mut self, key: KeyIndex, era: u32) {
        self.own_handles.proven(key, era);
    }
}

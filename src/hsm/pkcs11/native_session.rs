//! A PKCS#11 session and its calls.

use std::sync::Arc;

use cryptoki_sys::*;

use super::ffi::RawModule;
use super::native::{Attribute, Error};
use crate::limits::FIND_OBJECTS_BATCH;

/// A session. Dropping it does not close it: after a C_Finalize its handle may belong to another
/// session, so the owner decides whether to call [`Self::close`].
pub struct NativeSession {
    module: Arc<RawModule>,
    handle: CK_SESSION_HANDLE,
}

impl NativeSession {
    /// Opens a session.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn open(
        module: &Arc<RawModule>,
        slot: CK_SLOT_ID,
        is_read_write: bool,
    ) -> Result<Self, Error> {
        let handle = module.open_session(slot, is_read_write)?;
        Ok(Self { module: Arc::clone(module), handle })
    }

    /// Returns the session's handle.
    #[must_use]
    pub fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    /// Closes the session.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn close(self) -> Result<(), Error> {
        self.module.close_session(self.handle)
    }

    /// Returns whether the user is logged in.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn is_logged_in(&self) -> Result<bool, Error> {
        let state = self.module.session_state(self.handle)?;
        Ok(matches!(state, CKS_RO_USER_FUNCTIONS | CKS_RW_USER_FUNCTIONS))
    }

    /// Logs the user in. Without `pin`, the device itself asks for the PIN.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn login(&self, pin: Option<&str>) -> Result<(), Error> {
        self.module.login(self.handle, pin)
    }

    /// Fills `bytes` from the HSM's random number generator.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn generate_random_slice(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.module.random(self.handle, bytes)
    }

    /// Generates an AES key.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn generate_aes_key(&self, template: &[Attribute]) -> Result<CK_OBJECT_HANDLE, Error> {
        self.module.generate_aes_key(self.handle, template)
    }

    /// Destroys an object.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn destroy(&self, object: CK_OBJECT_HANDLE) -> Result<(), Error> {
        self.module.destroy_object(self.handle, object)
    }

    /// Reads attributes of an object, leaving out those that it lacks.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn attributes(
        &self,
        object: CK_OBJECT_HANDLE,
        wanted: &[CK_ATTRIBUTE_TYPE],
    ) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, Error> {
        self.module.attributes(self.handle, object, wanted)
    }

    /// Returns up to `max_objects` objects that match the template, and whether there are more.
    /// Only an empty batch ends the search, since a module may return short batches before the end.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn find(
        &self,
        template: &[Attribute],
        max_objects: usize,
    ) -> Result<(Vec<CK_OBJECT_HANDLE>, bool), Error> {
        self.module.find_init(self.handle, template)?;
        let found = self.find_all(max_objects);
        // The search must be ended even if it failed; whether ending it succeeds does not matter.
        let _ = self.module.find_final(self.handle);
        found
    }

    fn find_all(&self, max_objects: usize) -> Result<(Vec<CK_OBJECT_HANDLE>, bool), Error> {
        let mut all = Vec::new();
        let mut batch = [0; FIND_OBJECTS_BATCH];
        while all.len() <= max_objects {
            match self.module.find(self.handle, &mut batch)? {
                0 => return Ok((all, false)),
                count => all.extend_from_slice(&batch[..count]),
            }
        }
        all.truncate(max_objects);
        Ok((all, true))
    }
}

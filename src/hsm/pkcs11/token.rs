//! A token of a PKCS#11 module, as a [`Backend`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cryptoki_sys::{CK_SLOT_ID, CKR_SESSION_COUNT, CKR_TOKEN_WRITE_PROTECTED};

use super::codes;
use super::ffi::RawModule;
use super::key_search;
use super::keys::KeyCache;
use super::labels::Labels;
use super::module::Module;
use super::native::{Error, LoadError};
use super::native_session::NativeSession;
use super::opened::Opened;
use super::own_handles::Handles;
use super::session::Pkcs11Session;
use super::shared::Shared;
use super::token_inventory;
use super::tokens_in_use::TokensInUse;
use crate::hsm::backend::{
    Backend, Direction, FoundKey, Identity, KeyStatus, NotProven, OpenError, Session,
};
use crate::hsm::config::TokenConfig;
use crate::hsm::inventory::TokenInventory;
use crate::hsm::key_date::Date;
use crate::hsm::witness::{Member, Witnesses};
use crate::job::KeyIndex;

/// A token of a PKCS#11 module.
pub struct Pkcs11Token {
    shared: Arc<Shared>,
    is_closed: AtomicBool,
}

impl Pkcs11Token {
    /// Loads the module, without any other call into it.
    ///
    /// # Errors
    /// Returns [`LoadError`], with a text for the operator, if the file is not a PKCS#11 module.
    pub fn new(
        config: TokenConfig,
        member: Member,
        labels: Arc<Labels>,
        witnesses: Arc<Witnesses>,
        in_use: Arc<TokensInUse>,
    ) -> Result<Self, LoadError> {
        let module = Module::load(&config.module, config.initialize_parameters.as_deref())?;
        let handles = match config.rules.has_handles_of_sessions {
            false => Handles::OfToken,
            true => Handles::OfSessions,
        };
        let keys = KeyCache::new(labels, witnesses).with_handles(handles);
        let shared = Shared::new(module, config, member, in_use, keys);
        Ok(Self { shared: Arc::new(shared), is_closed: AtomicBool::new(false) })
    }

    pub(super) fn config(&self) -> &TokenConfig {
        &self.shared.config
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns the token's identity in one line.
    pub(super) fn describe(&self) -> String {
        let Identity { id, label, model, manufacturer } = self.identity();
        format!("{label:?}, serial {id:?}, {manufacturer} {model}")
    }

    pub(super) fn open_session(&self) -> Result<Pkcs11Session, OpenError> {
        let shared = &self.shared;
        let entry = shared.module.enter()?;
        let generation = entry.generation();
        let slot = shared.slot(generation)?;
        let is_read_write_only = shared.config.rules.is_read_write_only;
        let opened = open_in(&shared.module.raw, slot, is_read_write_only);
        let session = opened.map_err(|error| {
            shared.count(&error);
            let reason = codes::describe_error(&error);
            match error.code {
                Some(CKR_SESSION_COUNT) => OpenError::TooManySessions(reason),
                _ => {
                    // The token may reappear in another slot.
                    shared.chosen.write().slot = None;
                    OpenError::Unavailable(reason)
                }
            }
        })?;
        let opened = Opened { slot, generation, at: Instant::now() };
        let session = Pkcs11Session::new(Arc::clone(shared), session, opened);
        if let Some(native) = session.native() {
            shared.login.ensure(native, || shared.verify_token(slot), &shared.codes)?;
        }
        Ok(session)
    }
}

impl Backend for Pkcs11Token {
    fn open(&self) -> Result<Box<dyn Session>, OpenError> {
        let opened = self.open_session().inspect_err(|error| match error {
            OpenError::TooManySessions(_) => {}
            _ => self.shared.module.fails(self.shared.user),
        });
        opened.map(|session| Box::new(session) as Box<dyn Session>)
    }

    fn has_key(&self, key: KeyIndex) -> bool {
        self.shared.keys.may_have(key)
    }

    fn serves_no_key(&self, is_out: &dyn Fn(KeyIndex, Direction) -> bool) -> bool {
        self.shared.keys.are_all(is_out)
    }

    fn label_of(&self, key: KeyIndex) -> String {
        self.shared.label_of(key)
    }

    fn key_status(&self, key: KeyIndex, direction: Option<Direction>) -> KeyStatus {
        self.shared.keys.key_status(key, direction)
    }

    fn is_untestable(&self, key: KeyIndex) -> bool {
        self.shared.keys.is_untestable(key, Instant::now())
    }

    fn index_of(&self, label: &str) -> Option<KeyIndex> {
        self.shared.keys.labels().now().index_of(label)
    }

    fn not_proven(&self) -> NotProven {
        self.shared.keys.not_proven()
    }

    fn is_disputed(&self, key: KeyIndex) -> bool {
        let keys = &self.shared.keys;
        keys.labels().now().get(key).is_some_and(|label| keys.witnesses().is_disputed(label))
    }

    fn is_trusted(&self) -> bool {
        let witnesses = self.shared.keys.witnesses();
        witnesses.has_trust() && witnesses.is_trusted(&self.shared.identity())
    }

    fn take_stale(&self) -> bool {
        self.shared.keys.take_stale()
    }

    fn extend_labels(&self, labels: &[Box<str>]) {
        self.shared.keys.extend_to(labels);
    }

    fn has_new_labels(&self) -> bool {
        self.shared.keys.has_new()
    }

    fn identity(&self) -> Identity {
        self.shared.identity()
    }

    fn missed_keys(&self) -> usize {
        self.shared.missed.keys()
    }

    fn reinitialize(&self) -> bool {
        self.shared.module.fails(self.shared.user);
        self.shared.module.reinitialize()
    }

    fn failure_codes(&self) -> Vec<(&'static str, u64)> {
        self.shared.codes.seen()
    }

    fn cdiv_mismatches(&self) -> u64 {
        self.shared.cdiv_mismatches.load(Ordering::Relaxed)
    }

    fn inventory(&self) -> TokenInventory {
        token_inventory::take(&self.shared, self.open_session(), false)
    }

    fn detailed_inventory(&self) -> TokenInventory {
        token_inventory::take(&self.shared, self.open_session(), true)
    }

    fn end_dates(&self, max: usize) -> Vec<(Box<str>, Date)> {
        self.shared.keys.end_dates(max)
    }

    fn search(&self, names: &[Box<str>]) -> Result<Vec<Option<FoundKey>>, String> {
        let session = self.open_session().map_err(|error| error.reason().to_owned())?;
        key_search::search(&self.shared.keys, &session, names)
    }

    fn close(&self) {
        if !self.is_closed.swap(true, Ordering::AcqRel) {
            self.shared.module.fails(self.shared.user);
            self.shared.module.release();
        }
    }
}

impl Drop for Pkcs11Token {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens a read-write session, the only kind that AWS CloudHSM has, or a read-only one if the token
/// is write-protected.
fn open_in(
    module: &Arc<RawModule>,
    slot: CK_SLOT_ID,
    is_read_write_only: bool,
) -> Result<NativeSession, Error> {
    NativeSession::open(module, slot, true).or_else(|error| match error.code {
        Some(CKR_TOKEN_WRITE_PROTECTED) if !is_read_write_only => {
            NativeSession::open(module, slot, false)
        }
        _ => Err(error),
    })
}

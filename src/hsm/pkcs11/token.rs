//! One token of a module: which slot, who it is, opening sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_RV, CK_SLOT_ID, CKR_SESSION_COUNT, CKR_TOKEN_WRITE_PROTECTED,
};
use parking_lot::{Mutex, RwLock};

use super::codes::{self, Class};
use super::ffi::{RawError, RawModule};
use super::gcm::{SeenBatches, given_iv};
use super::keys::KeyCache;
use super::known_good::KnownGood;
use super::labels::Labels;
use super::login::{Login, LoginRules};
use super::lost_keys::Missed;
use super::module::{Generation, Module};
use super::native::{Error, Session as NativeSession};
use super::reinitialization::User;
use super::session::{Opened, Pkcs11Session};
use super::slot_selection::{choose, describe as describe_slot};
use super::slots::{list_slots, require_gcm, text, version};
use super::trouble::{NO_SESSION, fault_of_error};
use crate::hsm::backend::{
    Backend, Direction, Fault, Identity, KeyStatus, NotProven, OpenError, Session,
};
use crate::hsm::config::{TokenConfig, TokenSelector};
use crate::hsm::inventory::{SlotInventory, TokenInventory};
use crate::hsm::witness::{Member, Witnesses};
use crate::job::{Iv, KeyIndex};

/// A token, as [`Backend`].
pub struct Pkcs11Token {
    shared: Arc<Shared>,
    is_closed: AtomicBool,
}

/// What all sessions of a token share.
pub(super) struct Shared {
    pub(super) module: Arc<Module>,
    pub(super) config: TokenConfig,
    /// Who this is to the module.
    pub(super) user: User,
    /// Its place in the fleet.
    pub(super) member: Member,
    pub(super) keys: KeyCache,
    pub(super) missed: Missed,
    pub(super) login: Login,
    pub(super) iv_batches: SeenBatches,
    pub(super) cdiv_mismatches: AtomicU64,
    pub(super) codes: codes::Counts,
    /// A ciphertext of a configured key, made by the latest probe that used one.
    pub(super) sample: Mutex<Option<KnownGood>>,
    makes_no_session_keys: AtomicBool,
    pub(super) chosen: RwLock<Chosen>,
}

/// The slot that the settings mean.
#[derive(Default)]
pub(super) struct Chosen {
    /// As it was found in that initialisation of the module; looked for anew in another.
    pub(super) slot: Option<(Generation, CK_SLOT_ID)>,
    /// Who it was then. It stays, so that "the first token" never becomes another one, and the
    /// PIN never goes to a stranger.
    pub(super) token: Option<SlotInventory>,
    pub(super) rules: LoginRules,
}

impl Shared {
    pub(super) fn login_rules(&self) -> LoginRules {
        self.chosen.read().rules
    }

    /// Whether the token was seen to refuse keys of sessions while it was well otherwise.
    pub(super) fn refuses_session_keys(&self) -> bool {
        self.makes_no_session_keys.load(Ordering::Relaxed)
    }

    pub(super) fn notice_no_session_keys(&self) {
        self.makes_no_session_keys.store(true, Ordering::Relaxed);
    }

    pub(super) fn identity(&self) -> Identity {
        let chosen = self.chosen.read();
        match &chosen.token {
            Some(token) => identity(token),
            None => {
                let named = match &self.config.select {
                    TokenSelector::First => "first token".to_owned(),
                    TokenSelector::Label(name) | TokenSelector::Serial(name) => printable(name),
                    TokenSelector::Slot(id) => format!("slot {id}"),
                };
                Identity {
                    id: named.clone(),
                    label: named,
                    model: "unknown".to_owned(),
                    manufacturer: "unknown".to_owned(),
                }
            }
        }
    }

    /// Its label, for the log.
    pub(super) fn name(&self) -> String {
        self.identity().label
    }

    pub(super) fn label_of(&self, key: KeyIndex) -> String {
        self.keys.labels().now().get(key).map_or_else(String::new, printable)
    }

    /// Counts the code of a call that failed.
    pub(super) fn count(&self, error: &Error) {
        if let Some(code) = error.code {
            self.codes.count(code);
        }
    }

    /// [`fault_of_error`], counted.
    pub(super) fn fault(&self, error: &Error) -> Fault {
        self.count(error);
        fault_of_error(error)
    }

    /// Counts the code of an operation that failed.
    pub(super) fn counted<T>(&self, result: Result<T, RawError>) -> Result<T, RawError> {
        if let Err(RawError::Init(code) | RawError::Operation(code)) = result {
            self.codes.count(code);
        }
        result
    }

    /// C_DecryptInit and C_Decrypt, counted.
    pub(super) fn decrypt(
        &self,
        session: Option<&NativeSession>,
        key: CK_OBJECT_HANDLE,
        iv: &Iv,
        aad: &[u8],
        ciphertext_and_tag: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Result<(), RawError>, Fault> {
        let session = session.ok_or(NO_SESSION)?.handle();
        let (raw, mut iv) = (&self.module.raw, given_iv(iv));
        let form = self.config.rules.form;
        Ok(self.counted(raw.decrypt(form, session, key, &mut iv, aad, ciphertext_and_tag, output)))
    }

    /// What a code from C_Decrypt means for this make of HSM.
    pub(super) fn class_of_decrypt(&self, code: CK_RV) -> Class {
        codes::class_of_decrypt(code, self.config.rules.bad_tag_codes)
    }

    fn slot(&self, generation: Generation) -> Result<CK_SLOT_ID, OpenError> {
        {
            let chosen = self.chosen.read();
            if let Some((of, slot)) = chosen.slot
                && of == generation
            {
                return Ok(slot);
            }
        }
        let slots = list_slots(&self.module.raw)
            .inspect_err(|error| self.count(error))
            .map_err(|error| OpenError::Unavailable(codes::describe_error(&error)))?;
        let known = self.chosen.read().token.clone();
        let found = slots.iter().map(|found| &found.inventory);
        let choice =
            choose(found, &self.config.select, known.as_ref()).map_err(OpenError::Unavailable)?;
        let found = &slots[choice.index];
        // Not under the lock: the call may hang, and the monitor asks who the token is.
        require_gcm(&self.module.raw, found)?;
        let mut chosen = self.chosen.write();
        if chosen.token.is_some() {
            // Found before, lost, and found again.
            self.keys.forget();
        }
        chosen.slot = Some((generation, found.slot));
        chosen.token = Some(found.inventory.clone());
        chosen.rules = found.rules;
        drop(chosen);
        let is_new = known
            .is_none_or(|it| it.id != found.inventory.id || it.serial != found.inventory.serial);
        if let Some(slots) = choice.alike.filter(|_| is_new) {
            let taken = describe_slot(&found.inventory);
            tracing::warn!(
                slots,
                taken,
                "several HSM slots fit the settings: `serial` or `slot` would tell them apart"
            );
        }
        Ok(found.slot)
    }
}

impl Pkcs11Token {
    /// Loads the module. Makes no other call.
    ///
    /// # Errors
    /// It is no PKCS#11 module; the text is for the operator.
    pub fn new(
        config: TokenConfig,
        member: Member,
        labels: Arc<Labels>,
        witnesses: Arc<Witnesses>,
    ) -> Result<Self, String> {
        let module = Module::load(&config.module, config.initialize_parameters.as_deref())?;
        let shared = Shared {
            user: module.enlist(),
            module,
            member,
            keys: KeyCache::new(labels, witnesses),
            missed: Missed::default(),
            login: Login::new(config.user_pin.clone()),
            iv_batches: SeenBatches::default(),
            cdiv_mismatches: AtomicU64::new(0),
            codes: codes::Counts::default(),
            sample: Mutex::default(),
            makes_no_session_keys: AtomicBool::new(false),
            chosen: RwLock::default(),
            config,
        };
        Ok(Self { shared: Arc::new(shared), is_closed: AtomicBool::new(false) })
    }

    pub(super) fn config(&self) -> &TokenConfig {
        &self.shared.config
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Who it is, in a line.
    pub(super) fn describe(&self) -> String {
        let Identity { id, label, model, manufacturer } = self.identity();
        format!("{label:?}, serial {id:?}, {manufacturer} {model}")
    }

    pub(super) fn open_session(&self) -> Result<Pkcs11Session, OpenError> {
        let shared = &self.shared;
        let entry = shared.module.enter().map_err(OpenError::Unavailable)?;
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
                    // It may come back in another slot.
                    shared.chosen.write().slot = None;
                    OpenError::Unavailable(reason)
                }
            }
        })?;
        let opened = Opened { slot, generation, at: Instant::now() };
        let session = Pkcs11Session::new(Arc::clone(shared), session, opened);
        if let Some(native) = session.native() {
            shared.login.ensure(native, || shared.before_login(slot), &shared.codes)?;
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
        let shared = &self.shared;
        let mut inventory = TokenInventory {
            module: shared.module.path.clone(),
            max_sessions: shared.config.max_sessions,
            ..TokenInventory::default()
        };
        let result = self.open_session();
        if let Ok(entry) = shared.module.enter() {
            inventory.library = shared.module.raw.info().ok().map(|info| {
                format!(
                    "{} {} by {}, PKCS#11 {}",
                    printable(&text(&info.libraryDescription)),
                    version(info.libraryVersion),
                    printable(&text(&info.manufacturerID)),
                    version(info.cryptokiVersion)
                )
            });
            let slots = list_slots(&shared.module.raw).unwrap_or_default();
            inventory.slots = slots.into_iter().map(|found| found.inventory).collect();
            drop(entry);
        }
        let chosen = shared.chosen.read().token.clone();
        // Open sessions, as they are now.
        let current =
            chosen.as_ref().and_then(|c| inventory.slots.iter().find(|s| s.id == c.id).cloned());
        inventory.slot = current.or(chosen);
        let keys = result.and_then(|session| {
            let Some(_entry) = session.enter() else { return Ok(Default::default()) };
            let native = session.native().map(|native| shared.keys.inventory(native));
            native
                .transpose()
                .map(Option::unwrap_or_default)
                .map_err(|error| OpenError::Unavailable(codes::describe_error(&error)))
        });
        let mut is_cut = false;
        match keys {
            Ok(keys) => (inventory.keys, is_cut) = keys,
            Err(error) => inventory.trouble = Some(error.reason().to_owned()),
        }
        for label in shared.keys.labels().now().all() {
            match inventory.keys.iter().find(|key| key.label == *label) {
                // It may be among those that were not looked at.
                None if is_cut => {}
                None => inventory.missing.push(label.clone()),
                Some(key) if key.keys_of_label > 1 => {
                    inventory.ambiguous.push((label.clone(), key.keys_of_label));
                }
                Some(_) => {}
            }
        }
        inventory
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

/// AWS CloudHSM has read-write sessions only; a token that is write-protected, none of them.
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

pub(super) fn identity(token: &SlotInventory) -> Identity {
    let label = printable(&token.label);
    let serial = printable(&token.serial);
    Identity {
        id: if serial.is_empty() { label.clone() } else { serial },
        label,
        model: printable(&format!(
            "{} firmware {} hardware {}",
            token.model, token.firmware, token.hardware
        )),
        manufacturer: printable(&token.manufacturer),
    }
}

/// Printable ASCII, trimmed.
fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GetHealthStatus takes printable ASCII only.
    #[test]
    fn identities_are_printable() {
        let token = SlotInventory {
            model: "Modèle\u{7}".to_owned(),
            firmware: "2.6".to_owned(),
            hardware: "2.6".to_owned(),
            label: "label".to_owned(),
            ..SlotInventory::default()
        };
        let identity = identity(&token);
        assert_eq!(identity.id, "label");
        assert_eq!(identity.model, "Mod?le? firmware 2.6 hardware 2.6");
    }
}

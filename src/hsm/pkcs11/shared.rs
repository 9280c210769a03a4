//! State shared by a token and its sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_RV, CK_SLOT_ID};
use parking_lot::{Mutex, RwLock};

use super::codes::{self, Class};
use super::gcm::{RecentBatches, iv_parameter};
use super::identity::{identity, printable};
use super::keys::KeyCache;
use super::known_good::KnownGood;
use super::login::{Login, LoginRules};
use super::missed::Missed;
use super::module::{Generation, Module};
use super::native::{Error, RawError};
use super::native_session::NativeSession;
use super::reinitialization::User;
use super::tokens_in_use::TokensInUse;
use super::trouble::fault_of_error;
use crate::hsm::backend::{Fault, Identity};
use crate::hsm::config::{TokenConfig, TokenSelector};
use crate::hsm::inventory::SlotInventory;
use crate::hsm::witness::Member;
use crate::job::{Iv, KeyIndex};

/// State shared by all sessions of a token.
pub(super) struct Shared {
    pub(super) module: Arc<Module>,
    pub(super) config: TokenConfig,
    /// Identity of this token as a user of the module.
    pub(super) user: User,
    /// Membership in the fleet.
    pub(super) member: Member,
    /// The tokens of all entries of the fleet.
    pub(super) in_use: Arc<TokensInUse>,
    pub(super) keys: KeyCache,
    pub(super) missed: Missed,
    pub(super) login: Login,
    pub(super) iv_batches: RecentBatches,
    pub(super) cdiv_mismatches: AtomicU64,
    pub(super) codes: codes::Counts,
    /// Ciphertext made with a configured key by the latest health check that used one.
    pub(super) sample: Mutex<Option<KnownGood>>,
    makes_no_session_keys: AtomicBool,
    pub(super) chosen: RwLock<Chosen>,
}

/// The slot in use and its token.
#[derive(Default)]
pub(super) struct Chosen {
    /// The slot, valid in the given generation of the module.
    pub(super) slot: Option<(Generation, CK_SLOT_ID)>,
    /// The token that was selected first. It is kept so that "the first token" never becomes a
    /// different one that would then receive the PIN.
    pub(super) token: Option<SlotInventory>,
    pub(super) rules: LoginRules,
}

impl Shared {
    pub(super) fn new(
        module: Arc<Module>,
        config: TokenConfig,
        member: Member,
        in_use: Arc<TokensInUse>,
        keys: KeyCache,
    ) -> Self {
        Self {
            user: module.add_user(),
            module,
            member,
            in_use,
            keys,
            missed: Missed::default(),
            login: Login::new(config.user_pin.clone()),
            iv_batches: RecentBatches::default(),
            cdiv_mismatches: AtomicU64::new(0),
            codes: codes::Counts::default(),
            sample: Mutex::default(),
            makes_no_session_keys: AtomicBool::new(false),
            chosen: RwLock::default(),
            config,
        }
    }

    pub(super) fn login_rules(&self) -> LoginRules {
        self.chosen.read().rules
    }

    /// Returns whether the token has refused to make session keys while otherwise healthy.
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

    /// Returns the token's label, for the log.
    pub(super) fn name(&self) -> String {
        self.identity().label
    }

    pub(super) fn label_of(&self, key: KeyIndex) -> String {
        self.keys.labels().now().get(key).map_or_else(String::new, printable)
    }

    /// Counts the code of a failed call.
    pub(super) fn count(&self, error: &Error) {
        if let Some(code) = error.code {
            self.codes.count(code);
        }
    }

    /// Counts the code of a failed call, and returns its fault.
    pub(super) fn fault(&self, error: &Error) -> Fault {
        self.count(error);
        fault_of_error(error)
    }

    /// Counts the code of a failed operation.
    pub(super) fn counted<T>(&self, result: Result<T, RawError>) -> Result<T, RawError> {
        if let Err(RawError::Init(code) | RawError::Operation(code)) = result {
            self.codes.count(code);
        }
        result
    }

    /// Calls C_DecryptInit and C_Decrypt, counting the code if one fails.
    pub(super) fn decrypt(
        &self,
        session: &NativeSession,
        key: CK_OBJECT_HANDLE,
        iv: &Iv,
        aad: &[u8],
        ciphertext_and_tag: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), RawError> {
        let session = session.handle();
        let (raw, mut iv) = (&self.module.raw, iv_parameter(iv));
        let form = self.config.rules.form;
        self.counted(raw.decrypt(form, session, key, &mut iv, aad, ciphertext_and_tag, output))
    }

    /// Returns the meaning of a code from C_Decrypt for this make of HSM.
    pub(super) fn class_of_decrypt(&self, code: CK_RV) -> Class {
        codes::class_of_decrypt(code, self.config.rules.bad_tag_codes)
    }
}

//! The module's slots and the tokens in them.

use cryptoki_sys::*;

use super::codes::{self, Class};
use super::ffi::RawModule;
use super::login::LoginRules;
use super::native::Error;
use super::pin_tries::PinFlags;
use crate::hsm::backend::OpenError;
use crate::hsm::inventory::SlotInventory;
use crate::limits::MAX_SLOTS;

/// A slot that holds a token.
pub(super) struct Found {
    pub(super) slot: CK_SLOT_ID,
    pub(super) inventory: SlotInventory,
    pub(super) rules: LoginRules,
}

/// Requires CKM_AES_GCM, the only mechanism used. If the token does not list its mechanisms, the
/// first operation will show whether the token supports it.
pub(super) fn require_gcm(module: &RawModule, found: &Found) -> Result<(), OpenError> {
    match module.mechanism_info(found.slot, CKM_AES_GCM) {
        Err(Error { code: Some(CKR_MECHANISM_INVALID), .. }) => {
            let SlotInventory { label, manufacturer, model, .. } = &found.inventory;
            Err(OpenError::Unfit(format!(
                "the token {label:?} ({manufacturer} {model}) has no AES-GCM (CKM_AES_GCM), the \
                 only mechanism that KMS requires of an HSM: it cannot serve"
            )))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Lists the slots whose token can be identified.
pub(super) fn list_slots(module: &RawModule) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for slot in module.slots(MAX_SLOTS)? {
        // Skip a token that cannot be identified, since it may not be the selected one.
        match module.token_info(slot) {
            Ok(token) => found.push(Found {
                slot,
                rules: rules_of(&token),
                inventory: describe(slot, &token),
            }),
            Err(error) => match error.code.map(codes::class) {
                Some(Class::Module) => return Err(error),
                _ => continue,
            },
        }
    }
    Ok(found)
}

pub(super) fn rules_of(token: &CK_TOKEN_INFO) -> LoginRules {
    let has = |flag| token.flags & flag != 0;
    LoginRules {
        is_required: has(CKF_LOGIN_REQUIRED),
        has_protected_path: has(CKF_PROTECTED_AUTHENTICATION_PATH),
        pin: PinFlags {
            is_locked: has(CKF_USER_PIN_LOCKED),
            is_final_try: has(CKF_USER_PIN_FINAL_TRY),
            is_count_low: has(CKF_USER_PIN_COUNT_LOW),
        },
    }
}

/// Returns a description of the token, from the needed members only: a token with an invalid clock
/// is still usable.
pub(super) fn describe(slot: CK_SLOT_ID, token: &CK_TOKEN_INFO) -> SlotInventory {
    let has = |flag| token.flags & flag != 0;
    SlotInventory {
        id: slot,
        label: text(&token.label),
        serial: text(&token.serialNumber),
        model: text(&token.model),
        manufacturer: text(&token.manufacturerID),
        firmware: version(token.firmwareVersion),
        hardware: version(token.hardwareVersion),
        is_initialized: has(CKF_TOKEN_INITIALIZED),
        login_required: has(CKF_LOGIN_REQUIRED),
        is_pin_locked: has(CKF_USER_PIN_LOCKED),
        sessions: (token.ulSessionCount != CK_UNAVAILABLE_INFORMATION)
            .then_some(token.ulSessionCount),
    }
}

/// Returns the text of a fixed-length field, without its padding of blanks or, in some modules,
/// NULs.
pub(super) fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches(['\0', ' ']).to_owned()
}

pub(super) fn version(version: CK_VERSION) -> String {
    format!("{}.{}", version.major, version.minor)
}

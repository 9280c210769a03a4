//! The module's slots, and who is in each.

use cryptoki_sys::*;

use super::codes::{self, Class};
use super::ffi::RawModule;
use super::login::LoginRules;
use super::native::Error;
use super::pin_tries::PinFlags;
use crate::hsm::backend::OpenError;
use crate::hsm::inventory::SlotInventory;
use crate::limits::MAX_SLOTS;

/// A slot with a token.
pub(super) struct Found {
    pub(super) slot: CK_SLOT_ID,
    pub(super) inventory: SlotInventory,
    pub(super) rules: LoginRules,
}

/// Without CKM_AES_GCM there is nothing that the token could do here. One that does not tell its
/// mechanisms shows it at the first operation.
pub(super) fn require_gcm(module: &RawModule, found: &Found) -> Result<(), OpenError> {
    match module.mechanism_info(found.slot, CKM_AES_GCM) {
        Err(Error { code: Some(CKR_MECHANISM_INVALID), .. }) => {
            let SlotInventory { label, manufacturer, model, .. } = &found.inventory;
            Err(OpenError::Unfit(format!(
                "the token {label:?} ({manufacturer} {model}) has no AES-GCM (CKM_AES_GCM), which \
                 is all that KMS asks of an HSM: it cannot serve"
            )))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Lists the slots that have a token which says who it is.
pub(super) fn list_slots(module: &RawModule) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for slot in module.slots(MAX_SLOTS)? {
        // A token that does not tell who it is may be another one's trouble; but a device error
        // may be that of the one that is looked for.
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

/// What is of use here, whatever the other members are: a token whose clock is wrong is a token.
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

/// A field of a fixed length, which ends with blanks, or, as some have it, with NULs.
pub(super) fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches(['\0', ' ']).to_owned()
}

pub(super) fn version(version: CK_VERSION) -> String {
    format!("{}.{}", version.major, version.minor)
}

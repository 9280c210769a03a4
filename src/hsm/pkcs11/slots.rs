//! The module's slots: who is in each, and whether it is still the one that is meant.

use cryptoki::context::Pkcs11;
use cryptoki::error::Error;
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki_sys::CKR_MECHANISM_INVALID;

use super::codes::{self, Class};
use super::login::{About, LoginRules};
use super::pin_tries::{PinFlags, PinId};
use super::token::{Shared, identity};
use crate::hsm::backend::{Identity, OpenError};
use crate::hsm::inventory::SlotInventory;
use crate::limits::MAX_SLOTS;

/// A slot with a token.
pub(super) struct Found {
    pub(super) slot: Slot,
    pub(super) inventory: SlotInventory,
    pub(super) rules: LoginRules,
}

impl Shared {
    /// Asks the slot once more who its token is, right before it gets the PIN: another may have
    /// come into it since.
    pub(super) fn before_login(&self, slot: Slot) -> Result<About, OpenError> {
        let unavailable = |reason| OpenError::Unavailable(reason);
        let found = self.module.pkcs11.get_token_info(slot).map_err(|error| {
            self.count(&error);
            unavailable(codes::describe_error(&error))
        })?;
        let (now, rules) = (describe(slot, &found), rules_of(&found));
        let mut chosen = self.chosen.write();
        let is_same = |known: &SlotInventory| {
            known.serial == now.serial && (!now.serial.is_empty() || known.label == now.label)
        };
        if !chosen.token.as_ref().is_some_and(is_same) {
            chosen.slot = None;
            return Err(unavailable(format!(
                "another token has come into slot {} (label {:?}, serial {:?}): it does not get \
                 the PIN",
                now.id, now.label, now.serial
            )));
        }
        chosen.rules = rules;
        drop(chosen);
        let Identity { id, label: name, .. } = identity(&now);
        let pin = self.login.pin().expose();
        let pin_id = PinId::of(&self.module.path, &id, pin)
            .ok_or_else(|| unavailable("the system gives no random bytes".to_owned()))?;
        Ok(About { rules, pin_id, name })
    }
}

/// Without CKM_AES_GCM there is nothing that the token could do here. One that does not tell its
/// mechanisms shows it at the first operation.
pub(super) fn require_gcm(pkcs11: &Pkcs11, found: &Found) -> Result<(), OpenError> {
    match pkcs11.get_mechanism_info(found.slot, MechanismType::AES_GCM) {
        Err(error) if codes::code_of(&error) == Some(CKR_MECHANISM_INVALID) => {
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
pub(super) fn list_slots(pkcs11: &Pkcs11) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for slot in pkcs11.get_slots_with_token()?.into_iter().take(MAX_SLOTS) {
        // A token that does not tell who it is may be another one's trouble; but a device error
        // may be that of the one that is looked for.
        match pkcs11.get_token_info(slot) {
            Ok(token) => found.push(Found {
                slot,
                rules: rules_of(&token),
                inventory: describe(slot, &token),
            }),
            Err(error) => match codes::code_of(&error).map(codes::class) {
                Some(Class::Module) => return Err(error),
                _ => continue,
            },
        }
    }
    Ok(found)
}

fn rules_of(token: &TokenInfo) -> LoginRules {
    LoginRules {
        is_required: token.login_required(),
        has_protected_path: token.protected_authentication_path(),
        pin: PinFlags {
            is_locked: token.user_pin_locked(),
            is_final_try: token.user_pin_final_try(),
            is_count_low: token.user_pin_count_low(),
        },
    }
}

fn describe(slot: Slot, token: &TokenInfo) -> SlotInventory {
    let trimmed = |text: &str| text.trim_end_matches(['\0', ' ']).to_owned();
    SlotInventory {
        id: slot.id(),
        label: trimmed(token.label()),
        serial: trimmed(token.serial_number()),
        model: trimmed(token.model()),
        manufacturer: trimmed(token.manufacturer_id()),
        firmware: token.firmware_version().to_string(),
        hardware: token.hardware_version().to_string(),
        is_initialized: token.token_initialized(),
        login_required: token.login_required(),
        is_pin_locked: token.user_pin_locked(),
        sessions: token.session_count(),
    }
}

//! The slot in use, which is selected once for each initialisation of the module, and verified
//! immediately before its token receives the PIN.

use cryptoki_sys::CK_SLOT_ID;

use super::codes;
use super::identity::identity;
use super::login::TokenAtLogin;
use super::module::Generation;
use super::pin_tries::PinId;
use super::shared::Shared;
use super::slot_selection::{choose, describe as describe_slot};
use super::slots::{describe, list_slots, require_gcm, rules_of};
use crate::hsm::backend::OpenError;
use crate::hsm::inventory::SlotInventory;

impl Shared {
    /// Returns the slot to use in that generation. The first call selects it.
    pub(super) fn slot(&self, generation: Generation) -> Result<CK_SLOT_ID, OpenError> {
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
        let choice = choose(found, &self.config.select, known.as_ref())?;
        let found = &slots[choice.index];
        // The lock is not held, since this call may hang and the monitor reads the token's
        // identity.
        require_gcm(&self.module.raw, found)?;
        let place = (&*self.module.path, generation);
        self.in_use.select(self.member.index, place, &found.inventory).map_err(OpenError::Unfit)?;
        let mut chosen = self.chosen.write();
        if chosen.token.is_some() {
            // The token has reappeared, so handles may have changed.
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
                "several HSM slots match the settings: `serial` or `slot` would select one of them"
            );
        }
        Ok(found.slot)
    }

    /// Verifies, immediately before a login, that the slot still holds the selected token, since
    /// another one may have been inserted.
    pub(super) fn verify_token(&self, slot: CK_SLOT_ID) -> Result<TokenAtLogin, OpenError> {
        let unavailable = |reason| OpenError::Unavailable(reason);
        let found = self.module.raw.token_info(slot).map_err(|error| {
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
                "another token is now in slot {} (label {:?}, serial {:?}): it does not get \
                 the PIN",
                now.id, now.label, now.serial
            )));
        }
        chosen.rules = rules;
        drop(chosen);
        let pin = self.login.pin().expose();
        let pin_id = PinId::of(&self.module.path, &now, pin).ok_or_else(|| {
            unavailable("the operating system returned no random bytes".to_owned())
        })?;
        Ok(TokenAtLogin { rules, pin_id, name: identity(&now).label })
    }
}

//! The inventory of a token and its keys, for the operator.

use super::codes;
use super::identity::printable;
use super::keys::keys_of_names;
use super::session::Pkcs11Session;
use super::shared::Shared;
use super::slots::{list_slots, text, version};
use crate::hsm::backend::OpenError;
use crate::hsm::inventory::TokenInventory;

/// Takes the inventory of a token, with the keys' details if `has_details`. `session` is a new
/// session, or the reason why none could be opened.
pub(super) fn take(
    shared: &Shared,
    session: Result<Pkcs11Session, OpenError>,
    has_details: bool,
) -> TokenInventory {
    let mut inventory = TokenInventory {
        module: shared.module.path.clone(),
        max_sessions: shared.config.max_sessions,
        ..TokenInventory::default()
    };
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
    // The current state of the slot, if it can be read, which includes the number of open sessions.
    let current =
        chosen.as_ref().and_then(|c| inventory.slots.iter().find(|s| s.id == c.id).cloned());
    inventory.slot = current.or(chosen);
    let keys = session.and_then(|session| {
        let Some(_entry) = session.enter() else { return Ok(Default::default()) };
        let native = session.native().map(|native| shared.keys.inventory(native, has_details));
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
    let counts = keys_of_names(&inventory.keys);
    for label in shared.keys.labels().now().all() {
        match counts.get(label).copied().unwrap_or(0) {
            // The name may belong to a key that was not listed.
            0 if is_cut => {}
            0 => inventory.missing.push(label.clone()),
            1 => {}
            several => inventory.ambiguous.push((label.clone(), several)),
        }
    }
    inventory
}

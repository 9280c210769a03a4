//! The selection of the slot that the settings name.

use crate::hsm::backend::OpenError;
use crate::hsm::config::TokenSelector;
use crate::hsm::inventory::SlotInventory;

/// The selected slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its index in the given list.
    pub(super) index: usize,
    /// Description of all slots that match equally well; `None` if only one does.
    pub(super) alike: Option<String>,
}

/// Selects the slot that the settings name. `known` is the token that was selected earlier.
///
/// Among several tokens with the same label, which the settings do not distinguish, the one with
/// the lowest serial number is selected, so that a restart selects the same one. (nShield shows a
/// card set in a slot of each module.)
///
/// # Errors
/// Returns a text for the operator if there is no such slot.
pub(super) fn choose<'a>(
    slots: impl Iterator<Item = &'a SlotInventory>,
    selector: &TokenSelector,
    known: Option<&SlotInventory>,
) -> Result<Choice, OpenError> {
    let mut seen = Vec::new();
    let mut meant: Vec<(usize, &SlotInventory)> = Vec::new();
    for (index, slot) in slots.enumerate() {
        let is_meant = match selector {
            TokenSelector::First => meant.first().is_none_or(|(_, it)| it.label == slot.label),
            TokenSelector::Label(label) => slot.label == *label,
            TokenSelector::Serial(serial) => slot.serial == *serial,
            TokenSelector::Slot(id) => slot.id == *id,
        };
        let is_same = known.is_none_or(|k| k.serial.is_empty() || k.serial == slot.serial);
        if is_meant && is_same && slot.is_initialized {
            meant.push((index, slot));
        }
        seen.push(describe(slot));
    }
    let is_elsewhere = |slot: &SlotInventory| known.is_some_and(|known| known.id != slot.id);
    let rank = |slot: &SlotInventory| (slot.serial.len(), slot.serial.clone(), is_elsewhere(slot));
    if let Some((index, _)) = meant.iter().min_by_key(|(_, slot)| rank(slot)) {
        let names: Vec<_> = meant.iter().map(|(_, slot)| describe(slot)).collect();
        let alike = (names.len() > 1).then(|| names.join(", "));
        return Ok(Choice { index: *index, alike });
    }
    let wanted = match (selector, known) {
        (_, Some(known)) if !known.serial.is_empty() => {
            format!("serial {:?}, which was used before", known.serial)
        }
        (TokenSelector::First, _) => "any label".to_owned(),
        (TokenSelector::Label(label), _) => format!("label {label:?}"),
        (TokenSelector::Serial(serial), _) => format!("serial {serial:?}"),
        (TokenSelector::Slot(id), _) => format!("slot {id}"),
    };
    let seen = if seen.is_empty() { "no token".to_owned() } else { seen.join(", ") };
    Err(OpenError::Unavailable(format!(
        "no initialised token of {wanted} ([pkcs11.tokens]; by default the first); the module shows \
         {seen}"
    )))
}

/// Returns a description of the slot, for messages.
pub(super) fn describe(slot: &SlotInventory) -> String {
    format!("slot {} label {:?} serial {:?}", slot.id, slot.label, slot.serial)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn slot(id: u64, label: &str, serial: &str) -> SlotInventory {
        SlotInventory {
            id,
            label: label.to_owned(),
            serial: serial.to_owned(),
            is_initialized: true,
            ..SlotInventory::default()
        }
    }

    fn chosen(index: usize) -> Result<Choice, OpenError> {
        Ok(Choice { index, alike: None })
    }

    /// Tokens can be named in each of the ways, and an uninitialised token is never selected.
    #[test]
    fn tokens_are_chosen_by_name() {
        let mut slots = [slot(0, "", ""), slot(7, "a", "01"), slot(9, "b", "02")];
        slots[0].is_initialized = false;
        let choose = |selector| choose(slots.iter(), &selector, None);
        assert_eq!(choose(TokenSelector::First), chosen(1));
        assert_eq!(choose(TokenSelector::Label("b".to_owned())), chosen(2));
        assert_eq!(choose(TokenSelector::Serial("02".to_owned())), chosen(2));
        assert_eq!(choose(TokenSelector::Slot(9)), chosen(2));
        assert!(choose(TokenSelector::Slot(0)).is_err());
        let error = choose(TokenSelector::Label("c".to_owned())).unwrap_err();
        let reason = error.reason();
        assert!(reason.contains("label \"c\"") && reason.contains("label \"a\""), "{reason}");
    }

    /// When the first token disappears, the second one must not receive its PIN.
    #[test]
    fn the_first_token_stays_who_it_was() {
        let known = slot(7, "a", "01");
        let slots = [slot(9, "b", "02"), slot(3, "a", "01")];
        assert_eq!(choose(slots.iter(), &TokenSelector::First, Some(&known)), chosen(1));
        let slots = &slots[..1];
        assert!(choose(slots.iter(), &TokenSelector::First, Some(&known)).is_err());
    }

    /// Tokens with the same label are distinguished by serial number, whatever their order, and all
    /// of them are described.
    #[test]
    fn the_lowest_serial_number_of_one_label() {
        let mut slots =
            [slot(1, "b", "1"), slot(2, "a", "10"), slot(3, "a", "9"), slot(4, "a", "2")];
        slots[3].is_initialized = false;
        let by_label = TokenSelector::Label("a".to_owned());
        let all = "slot 2 label \"a\" serial \"10\", slot 3 label \"a\" serial \"9\"";
        let lowest = Ok(Choice { index: 2, alike: Some(all.to_owned()) });
        assert_eq!(choose(slots.iter(), &by_label, None), lowest);
        let reversed = choose(slots.iter().rev(), &by_label, None).unwrap();
        assert_eq!(reversed.index, 1, "the same token");
        assert_eq!(choose(slots[1..].iter(), &TokenSelector::First, None).unwrap().index, 1);
        assert_eq!(choose(slots.iter(), &TokenSelector::First, None), chosen(0));
        assert_eq!(choose(slots.iter(), &TokenSelector::Slot(2), None), chosen(1));
        assert_eq!(choose(slots.iter(), &TokenSelector::Serial("10".to_owned()), None), chosen(1));
        // The token that was selected earlier is preferred.
        assert_eq!(choose(slots.iter(), &by_label, Some(&slots[1])), chosen(1));
        // If one serial number appears in two slots, the selected slot does not change.
        let twice = [slot(5, "a", "3"), slot(6, "a", "3")];
        assert_eq!(choose(twice.iter(), &by_label, None).unwrap().index, 0);
        assert_eq!(choose(twice.iter(), &by_label, Some(&twice[1])).unwrap().index, 1);
    }
}

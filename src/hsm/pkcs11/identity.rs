//! The identity of a token.

use crate::hsm::backend::Identity;
use crate::hsm::inventory::SlotInventory;

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

/// Returns the trimmed text, with all characters but printable ASCII replaced.
pub(super) fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GetHealthStatus accepts printable ASCII only.
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

//! The tokens that a fleet uses, each once.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::module::Generation;
use super::slot_selection::describe;
use crate::hsm::inventory::SlotInventory;
use crate::job::TokenIndex;

/// The tokens that the entries of one `[[pkcs11.tokens]]` have selected. Two entries that lead to
/// one token would count it as two that can replace each other, and its sessions twice.
#[derive(Default)]
pub struct TokensInUse(Mutex<Vec<InUse>>);

struct InUse {
    index: TokenIndex,
    module: PathBuf,
    /// The module's generation, since slots may get other ids in the next one.
    generation: Generation,
    token: SlotInventory,
}

impl TokensInUse {
    /// Records the token that an entry has selected, in place of the one that it had before.
    ///
    /// # Errors
    /// Another entry uses the same token. The error is a text for the operator; the other entry
    /// keeps the token.
    pub(super) fn select(
        &self,
        index: TokenIndex,
        (module, generation): (&Path, Generation),
        token: &SlotInventory,
    ) -> Result<(), String> {
        let module = module.canonicalize().unwrap_or_else(|_| module.to_owned());
        let selected = InUse { index, module, generation, token: token.clone() };
        let mut all = self.0.lock();
        all.retain(|it| it.index != index);
        if let Some(other) = all.iter().find(|it| it.is_same(&selected)) {
            return Err(format!(
                "[[pkcs11.tokens]]: the entries {} and {} (counted from 0) lead to one token, {} of \
                 {}, which the latter uses; remove one of the two, or name another token with label, \
                 serial or slot",
                index.0,
                other.index.0,
                describe(&other.token),
                other.module.display()
            ));
        }
        all.push(selected);
        Ok(())
    }
}

impl InUse {
    /// Returns whether this is the same token: one with the same names, wherever it is shown. A
    /// serial number of zeros (NSS softokn) names no token; then the slot decides.
    fn is_same(&self, other: &Self) -> bool {
        let names = |it: &Self| {
            let SlotInventory { manufacturer, model, label, serial, .. } = &it.token;
            [manufacturer, model, label, serial].map(Clone::clone)
        };
        let slot = |it: &Self| (it.module.clone(), it.generation, it.token.id);
        let has_serial = self.token.serial.chars().any(|c| !matches!(c, '0' | ' '));
        names(self) == names(other) && (has_serial || slot(self) == slot(other))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn token(id: u64, label: &str, serial: &str) -> SlotInventory {
        let (label, serial) = (label.to_owned(), serial.to_owned());
        SlotInventory { id, label, serial, ..SlotInventory::default() }
    }

    /// The same token in another slot or another module is one, and so is one slot.
    #[test]
    fn what_is_one_token() {
        let (a, b) = (Path::new("/no/such/a.so"), Path::new("/no/such/b.so"));
        let (now, later) = (Generation::default(), Generation::default().next());
        for (place, other, is_one) in [
            ((a, now), token(1, "x", "7"), true),
            ((a, now), token(2, "x", "7"), true),
            ((b, now), token(1, "x", "7"), true),
            ((b, later), token(1, "x", "7"), true),
            // Another token is now in the slot.
            ((a, later), token(1, "y", "8"), false),
            ((a, now), token(2, "x", "8"), false),
            ((a, now), token(2, "y", "7"), false),
        ] {
            let in_use = TokensInUse::default();
            in_use.select(TokenIndex(0), (a, now), &token(1, "x", "7")).unwrap();
            let selected = in_use.select(TokenIndex(1), place, &other);
            assert_eq!(selected.is_err(), is_one, "{place:?} {other:?}");
        }
        // Without a serial number of its own, only the slot tells.
        for (place, id, is_one) in [
            ((a, now), 1, true),
            ((a, now), 2, false),
            ((a, later), 1, false),
            ((b, now), 1, false),
        ] {
            let in_use = TokensInUse::default();
            in_use.select(TokenIndex(0), (a, now), &token(1, "x", "0000")).unwrap();
            let selected = in_use.select(TokenIndex(1), place, &token(id, "x", "0000"));
            assert_eq!(selected.is_err(), is_one, "{place:?} {id}");
        }
    }

    /// An entry may select its token again, and leave it to another.
    #[test]
    fn selecting_again() {
        let in_use = TokensInUse::default();
        let place = (Path::new("/no/such/a.so"), Generation::default());
        let (first, second) = (token(1, "x", "7"), token(2, "y", "8"));
        in_use.select(TokenIndex(0), place, &first).unwrap();
        in_use.select(TokenIndex(0), place, &first).unwrap();
        let error = in_use.select(TokenIndex(1), place, &first).unwrap_err();
        assert!(error.contains("entries 1 and 0") && error.contains("label \"x\""), "{error}");
        in_use.select(TokenIndex(0), place, &second).unwrap();
        in_use.select(TokenIndex(1), place, &first).unwrap();
    }
}

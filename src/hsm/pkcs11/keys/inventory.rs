//! The keys of a token, for the operator.

use std::collections::HashMap;

use super::KeyCache;
use super::details::details;
use super::listing::list;
use super::reading::{FoundKey, Reader};
use crate::hsm::inventory::KeyInventory;
use crate::hsm::pkcs11::native::Error;
use crate::hsm::pkcs11::native_session::NativeSession;

impl KeyCache {
    /// Returns all AES keys of the token, for the operator, with their details if `has_details`;
    /// and whether there are more.
    ///
    /// # Errors
    /// Returns the token's error.
    pub fn inventory(
        &self,
        session: &NativeSession,
        has_details: bool,
    ) -> Result<(Vec<KeyInventory>, bool), Error> {
        let mut keys = Vec::new();
        let labels = self.labels.now();
        let mut reader = Reader::new(true);
        let is_cut = list(session, &mut reader, |found| {
            let FoundKey { handle, label, id, attributes, is_private, .. } = found;
            let places = labels.places_of(label.as_deref(), id.as_deref());
            let names = places.filter_map(|place| labels.all().get(place).cloned()).collect();
            keys.push(KeyInventory {
                handle,
                label: label.unwrap_or_default().into(),
                id: id.unwrap_or_default(),
                names,
                attributes,
                is_private,
                keys_of_label: 0,
                details: None,
            });
        })?;
        if has_details {
            for key in &mut keys {
                key.details = Some(details(session, key.handle)?);
            }
        }
        let counts = counts(&keys, |key| std::slice::from_ref(&key.label));
        for key in &mut keys {
            key.keys_of_label = counts.get(&key.label).copied().unwrap_or(0);
        }
        Ok((keys, is_cut))
    }
}

/// Returns the number of keys that have each configured name.
pub fn keys_of_names(keys: &[KeyInventory]) -> HashMap<Box<str>, u32> {
    counts(keys, |key| key.names.as_slice())
}

/// Returns the number of keys that each name may refer to: public keys count only if no other key
/// has the name.
fn counts(
    keys: &[KeyInventory],
    names_of: impl Fn(&KeyInventory) -> &[Box<str>],
) -> HashMap<Box<str>, u32> {
    let mut both = HashMap::<Box<str>, (u32, u32)>::new();
    for key in keys {
        for name in names_of(key) {
            let (private, public) = both.entry(name.clone()).or_default();
            *if key.is_private == Some(false) { public } else { private } += 1;
        }
    }
    let counted = |(private, public)| if private > 0 { private } else { public };
    both.into_iter().map(|(name, both)| (name, counted(both))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::KeyAttributes;

    /// A public key counts only where no private key has the name, and a key counts under each of
    /// its names.
    #[test]
    fn keys_of_a_name() {
        let key = |names: &[&str], is_private| KeyInventory {
            label: "a".into(),
            id: Vec::new(),
            names: names.iter().map(|name| Box::from(*name)).collect(),
            attributes: KeyAttributes::UNREPORTED,
            is_private,
            keys_of_label: 0,
            handle: 1,
            details: None,
        };
        let keys = [
            key(&["a", "id:0a"], Some(true)),
            key(&["a"], Some(false)),
            key(&["b"], Some(false)),
            key(&["b"], Some(false)),
            key(&["id:0a"], None),
        ];
        let counts = keys_of_names(&keys);
        let count = |name: &str| counts.get(name).copied();
        assert_eq!((count("a"), count("b"), count("id:0a")), (Some(1), Some(2), Some(2)));
        assert_eq!(count("c"), None);
    }
}

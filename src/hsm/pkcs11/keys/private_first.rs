//! Which of the keys of one label is meant: a private one before public ones, since a public object
//! can be put into a token by whoever reaches it, without the PIN.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::key::Key;
use super::listing::FoundKey;

/// The keys of one label, as they are found.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfLabel {
    /// The first private one, or one that the token does not tell of, and how many.
    private: Option<Key>,
    /// The first public one, and how many.
    public: Option<Key>,
    /// The token tells that the private ones are.
    is_told: bool,
}

impl OfLabel {
    pub fn add(&mut self, found: &FoundKey) {
        let place = match found.is_private {
            Some(false) => &mut self.public,
            told => {
                self.is_told = told.is_some();
                &mut self.private
            }
        };
        match place {
            Some(key) => key.count += 1,
            None => {
                let FoundKey { handle, attributes, .. } = *found;
                *place = Some(Key { handle, attributes, count: 1, proven_in: 0 });
            }
        }
    }
}

/// What is held of public keys, and of which labels the log has told.
#[derive(Default)]
pub struct PrivateFirst {
    told: Mutex<HashSet<Box<str>>>,
}

impl PrivateFirst {
    /// The key that is meant. `is_required`: a public one is none.
    pub fn choose(&self, label: &str, found: OfLabel, is_required: bool) -> Option<Key> {
        let private = found.private.filter(|_| found.is_told || !is_required);
        let public = found.public.filter(|_| !is_required);
        if found.public.is_some() && self.told.lock().insert(label.into()) {
            match (private, public) {
                (Some(_), _) => tracing::warn!(
                    key = label,
                    "a public object (CKA_PRIVATE false) has the same label as the key: the private \
                     one is used; somebody may have put the other there without the PIN"
                ),
                (None, Some(_)) => tracing::warn!(
                    key = label,
                    "the key is a public object (CKA_PRIVATE false): whoever reaches the token can \
                     replace it without the PIN; make keys private"
                ),
                (None, None) => tracing::error!(
                    key = label,
                    "the key is a public object (CKA_PRIVATE false), and require_private_keys = true \
                     has it refused"
                ),
            }
        }
        private.or(public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::KeyAttributes;

    fn chosen(found: &[(u64, Option<bool>)], is_required: bool) -> Option<(u64, u32)> {
        let attributes = KeyAttributes {
            bits: 256,
            encrypt: true,
            decrypt: true,
            sign: false,
            verify: false,
            wrap: false,
            unwrap: false,
            derive: false,
        };
        let mut of_label = OfLabel::default();
        for &(handle, is_private) in found {
            of_label.add(&FoundKey { handle, label: None, attributes, is_private });
        }
        let key = PrivateFirst::default().choose("a", of_label, is_required);
        key.map(|key| (key.handle, key.count))
    }

    /// Only keys of the same kind are as good as each other.
    #[test]
    fn private_ones_first() {
        let (private, public) = (Some(true), Some(false));
        assert_eq!(chosen(&[(1, public), (2, private), (3, public)], false), Some((2, 1)));
        assert_eq!(chosen(&[(1, public), (2, private), (3, private)], false), Some((2, 2)));
        assert_eq!(chosen(&[(1, public), (2, public)], false), Some((1, 2)));
        assert_eq!(chosen(&[(1, public)], true), None);
        assert_eq!(chosen(&[(1, public), (2, private)], true), Some((2, 1)));
        // A token that does not tell has none that is known to be private.
        assert_eq!(chosen(&[(1, None)], false), Some((1, 1)));
        assert_eq!(chosen(&[(1, None)], true), None);
        assert_eq!(chosen(&[], false), None);
    }
}

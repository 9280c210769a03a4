//! The choice among keys with one label: a private key is preferred to public ones, since anybody
//! who can reach the token can create a public object without the PIN.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::key::Key;
use super::reading::FoundKey;

/// The keys found for one label.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabelMatches {
    /// The first key that the token reports to be private.
    private: Option<Key>,
    /// The first key for which the token does not report whether it is private.
    unknown: Option<Key>,
    /// The first public key.
    public: Option<Key>,
}

impl LabelMatches {
    /// Adds a key. The `count` of each first key is the number of keys of its kind.
    pub fn add(&mut self, found: &FoundKey) {
        let place = match found.is_private {
            Some(true) => &mut self.private,
            None => &mut self.unknown,
            Some(false) => &mut self.public,
        };
        match place {
            Some(key) => key.count += 1,
            None => {
                let FoundKey { handle, attributes, .. } = *found;
                *place = Some(Key { handle, attributes, count: 1, proven_in: 0 });
            }
        }
    }

    /// Returns the first key that is private or, unless `is_required`, may be private. Its `count`
    /// is the number of both kinds.
    fn private(&self, is_required: bool) -> Option<Key> {
        let key = self.private.or(self.unknown.filter(|_| !is_required))?;
        let count = [self.private, self.unknown].iter().flatten().map(|key| key.count).sum();
        Some(Key { count, ..key })
    }
}

/// The rule for the choice, with the labels for which a warning has been logged.
#[derive(Default)]
pub struct PrivateFirst {
    warned: Mutex<HashSet<Box<str>>>,
}

impl PrivateFirst {
    /// Chooses the key of a label. If `is_required`, only a private key is chosen.
    pub fn choose(&self, label: &str, found: LabelMatches, is_required: bool) -> Option<Key> {
        let private = found.private(is_required);
        let public = found.public.filter(|_| !is_required);
        if found.public.is_some() && self.warned.lock().insert(label.into()) {
            match (private, public) {
                (Some(_), _) => tracing::warn!(
                    key = label,
                    "a public object (CKA_PRIVATE false) has the same label as the key: the private \
                    one is used; anybody could have created the other one without the PIN"
                ),
                (None, Some(_)) => tracing::warn!(
                    key = label,
                    "the key is a public object (CKA_PRIVATE false): anybody who reaches the token can \
                    replace it without the PIN; make keys private"
                ),
                (None, None) => tracing::error!(
                    key = label,
                    "the key is a public object (CKA_PRIVATE false), which require_private_keys = true \
                    does not allow"
                ),
            }
        }
        private.or(public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::key_date::KeyDate;
    use crate::job::KeyAttributes;

    fn chosen(found: &[(u64, Option<bool>)], is_required: bool) -> Option<(u64, u32)> {
        let attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
        let mut matches = LabelMatches::default();
        for &(handle, is_private) in found {
            let (label, id, end_date) = (None, None, KeyDate::None);
            matches.add(&FoundKey { handle, label, id, attributes, is_private, end_date });
        }
        let key = PrivateFirst::default().choose("a", matches, is_required);
        key.map(|key| (key.handle, key.count))
    }

    /// Only keys of the chosen kind count as several keys with one label.
    #[test]
    fn private_ones_first() {
        let (private, public) = (Some(true), Some(false));
        assert_eq!(chosen(&[(1, public), (2, private), (3, public)], false), Some((2, 1)));
        assert_eq!(chosen(&[(1, public), (2, private), (3, private)], false), Some((2, 2)));
        assert_eq!(chosen(&[(1, public), (2, public)], false), Some((1, 2)));
        assert_eq!(chosen(&[(1, public)], true), None);
        assert_eq!(chosen(&[(1, public), (2, private)], true), Some((2, 1)));
        // If the token does not report it, no key is known to be private.
        assert_eq!(chosen(&[(1, None)], false), Some((1, 1)));
        assert_eq!(chosen(&[(1, None)], true), None);
        assert_eq!(chosen(&[], false), None);
        // A key that is known to be private is preferred to one for which the token does not report
        // it, and which may be another private one.
        for is_required in [false, true] {
            assert_eq!(chosen(&[(1, None), (2, private)], is_required), Some((2, 2)));
            assert_eq!(chosen(&[(1, private), (2, None)], is_required), Some((1, 2)));
        }
        assert_eq!(chosen(&[(1, public), (2, None)], false), Some((2, 1)));
    }
}

//! The configured names that turn out to be one key, such as its label and its CKA_ID.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::key::Key;
use crate::hsm::pkcs11::labels::LabelList;

/// The pairs of names for which a warning has been logged.
#[derive(Default)]
pub struct SameObjects {
    warned: Mutex<HashSet<(usize, usize)>>,
}

impl SameObjects {
    /// Warns of each pair of names with the same key: its encryptions are counted under both names
    /// separately, so that neither count is the key's. `keys` are in the order of `labels`.
    pub fn warn_of(&self, labels: &LabelList, keys: &[Option<Key>]) {
        let mut places = HashMap::new();
        for (place, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let first = *places.entry(key.handle).or_insert(place);
            if first != place && self.warned.lock().insert((first, place)) {
                let name = |place: usize| labels.all().get(place).map(AsRef::as_ref);
                tracing::warn!(
                    key = name(first),
                    also = name(place),
                    "two names in the settings are one HSM key, whose encryptions are counted under \
                     each name separately: give it the same name everywhere"
                );
            }
        }
    }

    #[cfg(test)]
    fn warnings(&self) -> usize {
        self.warned.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::pkcs11::labels::Labels;
    use crate::job::KeyAttributes;

    /// Each pair is reported once, and different keys are not.
    #[test]
    fn once_for_each_pair() {
        let labels = ["a", "b", "id:0a", "c"].map(Box::from).to_vec();
        let labels = Labels::new(labels, false, None, Vec::new()).now();
        let attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
        let key = |handle| Some(Key { handle, attributes, count: 1, proven_in: 0 });
        let same = SameObjects::default();
        same.warn_of(&labels, &[key(1), key(2), key(3), None]);
        assert_eq!(same.warnings(), 0);
        for _ in 0..2 {
            same.warn_of(&labels, &[key(1), key(2), key(2), None]);
            assert_eq!(same.warnings(), 1);
        }
    }
}

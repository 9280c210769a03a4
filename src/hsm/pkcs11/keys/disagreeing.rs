//! The keys of a token that differ from the keys with which their witnesses were made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::job::KeyIndex;

/// The keys of one token that disagree with their witnesses.
#[derive(Default)]
pub struct Disagreeing {
    /// Each key, with the era of the witnesses in which its disagreement was found.
    keys: RwLock<BTreeMap<KeyIndex, u32>>,
    count: AtomicUsize,
}

impl Disagreeing {
    /// Returns the era of the key's last test, if the key disagreed in it.
    pub fn era_of(&self, key: KeyIndex) -> Option<u32> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.keys.read().get(&key).copied()
    }

    /// Records whether the key disagrees: `Some` contains the era in which it does. Returns whether
    /// this is a change.
    pub fn set(&self, key: KeyIndex, disagrees: Option<u32>) -> bool {
        if disagrees.is_none() && self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut keys = self.keys.write();
        let is_news = match disagrees {
            Some(era) => keys.insert(key, era).is_none(),
            None => keys.remove(&key).is_some(),
        };
        self.count.store(keys.len(), Ordering::Release);
        is_news
    }
}

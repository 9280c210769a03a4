//! Keys that are known to be another one than the key's witness was made with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::job::KeyIndex;

/// One token's keys that disagree.
#[derive(Default)]
pub struct Disagreeing {
    /// Each with the era of the witnesses that it was found out in.
    keys: RwLock<BTreeMap<KeyIndex, u32>>,
    count: AtomicUsize,
}

impl Disagreeing {
    /// The era of the witness that the key disagreed with when it was last tried.
    pub fn era_of(&self, key: KeyIndex) -> Option<u32> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.keys.read().get(&key).copied()
    }

    /// `disagrees`: in which era, if so. Returns whether that is new.
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

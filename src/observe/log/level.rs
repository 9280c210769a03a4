//! The least severe level that is logged.

use std::sync::atomic::{AtomicU8, Ordering};

use tracing::Level;

/// The least severe level that is logged, shared by all access logs.
#[derive(Debug)]
pub(super) struct SharedLevel(AtomicU8);

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

impl SharedLevel {
    pub(super) fn new(level: Level) -> Self {
        let all = Self(AtomicU8::new(0));
        all.set(level);
        all
    }

    pub(super) fn set(&self, level: Level) {
        let index = (0..).zip(LEVELS).find_map(|(index, known)| (known == level).then_some(index));
        self.0.store(index.unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Level {
        let index = usize::from(self.0.load(Ordering::Relaxed));
        LEVELS.get(index).copied().unwrap_or(Level::ERROR)
    }
}

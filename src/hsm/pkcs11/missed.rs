//! A record of missing keys, with the time of their loss and the recovery attempts since.

use std::time::Instant;

use parking_lot::Mutex;

use super::module::Generation;
use super::opened::Opened;

/// The start of an uninterrupted period in which keys were found missing.
#[derive(Clone, Copy, Debug)]
struct Loss {
    generation: Generation,
    at: Instant,
    /// Number of keys found missing.
    keys: usize,
}

/// Keys that the token had and no longer shows, while the reason is unknown.
#[derive(Default)]
pub(super) struct Missed {
    loss: Mutex<Option<Loss>>,
}

impl Missed {
    /// Returns the number of missing keys.
    pub(super) fn keys(&self) -> usize {
        self.loss.lock().map_or(0, |loss| loss.keys)
    }

    pub(super) fn attempted_since(&self, opened: &Opened) -> Attempted {
        match *self.loss.lock() {
            Some(loss) if loss.generation != opened.generation => Attempted::Initialization,
            Some(loss) if opened.at > loss.at => Attempted::Session,
            Some(_) | None => Attempted::Nothing,
        }
    }

    pub(super) fn record(&self, keys: usize, opened: &Opened) {
        let keys = keys.max(1);
        let mut loss = self.loss.lock();
        match &mut *loss {
            Some(loss) => loss.keys = keys,
            None => {
                *loss = Some(Loss { generation: opened.generation, at: Instant::now(), keys });
            }
        }
    }

    pub(super) fn clear(&self) {
        *self.loss.lock() = None;
    }
}

/// The most thorough recovery attempt since keys were first found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempted {
    Nothing,
    /// A new session.
    Session,
    /// A new initialisation of the module, which implies a new session.
    Initialization,
}

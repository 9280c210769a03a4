//! Keys that were there and are missed: since when, and which attempts were made since.

use std::time::Instant;

use parking_lot::Mutex;

use super::module::Generation;
use super::opened::Opened;

/// The first of the times in a row that keys were missed.
#[derive(Clone, Copy, Debug)]
struct Loss {
    generation: Generation,
    at: Instant,
    /// How many, as far as was looked.
    keys: usize,
}

/// Whether keys that were there are missed, and it is not known yet why.
#[derive(Default)]
pub(super) struct Missed {
    loss: Mutex<Option<Loss>>,
}

impl Missed {
    /// How many keys are missed.
    pub(super) fn keys(&self) -> usize {
        self.loss.lock().map_or(0, |loss| loss.keys)
    }

    pub(super) fn tried(&self, opened: &Opened) -> Tried {
        match *self.loss.lock() {
            Some(loss) if loss.generation != opened.generation => Tried::Initialization,
            Some(loss) if opened.at > loss.at => Tried::Session,
            Some(_) | None => Tried::Nothing,
        }
    }

    pub(super) fn note(&self, keys: usize, opened: &Opened) {
        let keys = keys.max(1);
        let mut loss = self.loss.lock();
        match &mut *loss {
            Some(loss) => loss.keys = keys,
            None => {
                *loss = Some(Loss { generation: opened.generation, at: Instant::now(), keys });
            }
        }
    }

    pub(super) fn is_over(&self) {
        *self.loss.lock() = None;
    }
}

/// The attempts made since keys were first missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    Nothing,
    /// A new session.
    Session,
    /// A new initialisation of the module, and so a new session too.
    Initialization,
}

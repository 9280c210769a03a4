//! The circumstances in which a session was opened.

use std::time::Instant;

use cryptoki_sys::CK_SLOT_ID;

use super::module::Generation;

/// The slot, generation and time of a session's opening.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    pub(super) slot: CK_SLOT_ID,
    pub(super) generation: Generation,
    pub(super) at: Instant,
}

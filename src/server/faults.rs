//! Panics on demand, for tests only: a program that serves contains none of this.

use std::net::SocketAddr;

use parking_lot::Mutex;

/// A point at which handling a connection can be made to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanicPoint {
    /// After a read: the bytes are in the buffers and still in the scratch memory.
    Received,
    /// While an unsent answer is in the memory that the loop's connections share.
    Answer,
    /// Before the HSM's answer is processed.
    Completion,
    /// At a deadline.
    Deadline,
}

static ARMED: Mutex<Vec<(PanicPoint, SocketAddr)>> = Mutex::new(Vec::new());

/// Makes the connection with this peer panic at this point, once.
pub(super) fn arm(place: PanicPoint, peer: SocketAddr) {
    ARMED.lock().push((place, peer));
}

/// Panics if this point is armed for this peer.
#[expect(clippy::panic, reason = "what it is for")]
pub(super) fn at(place: PanicPoint, peer: SocketAddr) {
    let mut armed = ARMED.lock();
    if let Some(found) = armed.iter().position(|entry| *entry == (place, peer)) {
        armed.remove(found);
        drop(armed);
        panic!("on demand, {place:?}");
    }
}

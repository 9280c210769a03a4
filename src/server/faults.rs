//! Panics on demand. Tests alone have this: nothing of it is in a program that serves.

use std::net::SocketAddr;

use parking_lot::Mutex;

/// Where handling a connection can be made to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanicPoint {
    /// What has been read is in the buffers, and still in the scratch memory.
    Received,
    /// An answer is in the memory that the loop's connections share, and not sent.
    Answer,
    /// The HSM's answer has come and is not looked at.
    Completion,
    /// A deadline has passed.
    Deadline,
}

static ARMED: Mutex<Vec<(PanicPoint, SocketAddr)>> = Mutex::new(Vec::new());

/// The connection whose other end that is will panic at that place, once.
pub(super) fn arm(place: PanicPoint, peer: SocketAddr) {
    ARMED.lock().push((place, peer));
}

/// Panics if it is to be.
#[expect(clippy::panic, reason = "what it is for")]
pub(super) fn at(place: PanicPoint, peer: SocketAddr) {
    let mut armed = ARMED.lock();
    if let Some(found) = armed.iter().position(|entry| *entry == (place, peer)) {
        armed.remove(found);
        drop(armed);
        panic!("on demand, {place:?}");
    }
}

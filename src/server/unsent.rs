//! Bytes that have not been written to a socket yet.

use bytes::{Buf as _, BytesMut};
use zeroize::Zeroize as _;

/// A queue of bytes for one socket, which are wiped as soon as they have been written: without TLS,
/// an answer contains plaintext.
///
/// `BytesMut` fits here: bytes are appended at the end and removed from the front without moving
/// the rest, and an answer that can be written at once is never queued, so it costs no allocation.
/// It fits no other buffer of the request path. The receive buffer belongs to a pool and is parsed
/// in place, with padding after it. An answer, and a job's input and output, are filled once and
/// wiped as a whole, in memory that is reused. None of them is shared or split, and a `Bytes` with
/// several holders could not be wiped.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: BytesMut,
    /// Size of the whole allocation, including the front that `bytes` has advanced past.
    allocated: usize,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, oldest first.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that it holds, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.allocated
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        // Growing or moving within `BytesMut` would leave an unwiped copy behind.
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            let mut larger = BytesMut::with_capacity(self.bytes.len() + bytes.len());
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.allocated = larger.capacity();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Wipes and removes the first `count` bytes. Once the queue is empty, its memory is freed, and
    /// not kept for a slow reader's next answer.
    pub(super) fn advance(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.bytes[..count].zeroize();
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            *self = Self::default();
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes keep their order for any sequence of appends and removals, and no memory is held once
    /// all of them have been removed.
    #[test]
    fn order_is_kept() {
        let mut unsent = Unsent::default();
        assert!(unsent.is_empty() && unsent.held_bytes() == 0);
        let mut expected = Vec::new();
        for (appended, taken) in [(100, 1), (1, 50), (300, 7), (0, 0), (5, 300)] {
            let bytes: Vec<u8> = (0_u8..=255).cycle().take(appended).collect();
            unsent.append(&bytes);
            expected.extend_from_slice(&bytes);
            unsent.advance(taken);
            expected.drain(..taken);
            assert_eq!(unsent.as_slice(), expected);
            assert!(unsent.held_bytes() >= expected.len());
        }
        unsent.advance(usize::MAX);
        assert!(unsent.is_empty() && unsent.held_bytes() == 0);
    }
}

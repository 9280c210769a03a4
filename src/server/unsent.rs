//! Bytes that a socket has not taken yet.

use bytes::{Buf as _, BytesMut};
use zeroize::Zeroize as _;

/// A queue of bytes for one socket, which wipes them as soon as the socket has taken them: without
/// TLS, an answer has plaintext in it.
///
/// This is where `BytesMut` fits: bytes are appended behind and taken off in front, which it does
/// without moving the rest, and an answer that the socket takes at once never gets here, so it
/// costs no allocation. It fits no other buffer of the request path. The receive buffer belongs to
/// a pool and is parsed in place, with padding behind it. An answer and a job's input and output
/// are filled once and wiped whole, in memory that is used again. None of them is shared or split,
/// and a `Bytes` with several holders could not be wiped.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: BytesMut,
    /// Size of the allocation, of which `bytes` shows the rest only.
    allocated: usize,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, the oldest first.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that it holds, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.allocated
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        // `BytesMut` itself would leave a copy behind where it grows or moves what it holds.
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            let mut larger = BytesMut::with_capacity(self.bytes.len() + bytes.len());
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.allocated = larger.capacity();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Wipes and drops the first `count` bytes. A slow reader's memory is not kept for its next
    /// answer.
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

    /// Bytes keep their order however they are appended and taken, and no memory is held once all
    /// of them are gone.
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

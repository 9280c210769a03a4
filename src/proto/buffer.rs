//! A connection's receive buffer and the pool it comes from.
//!
//! A buffer is small until a request needs more, then large enough for any request that the limits
//! allow. It goes back to the pool, wiped, when it is empty: an idle connection holds none.

use zeroize::Zeroize;

use crate::limits::{MAX_POOLED_BUFFERS, MAX_POOLED_BYTES, SMALL_BUFFER_BYTES};

/// Bytes that a JSON parser may read (and writes back) past the end of a document.
pub const PADDING_BYTES: usize = simd_json::INPUT_PADDING;

/// Bytes received and not yet consumed: `bytes[begin..end]`, with `end + PADDING_BYTES <= len`. All
/// other bytes are wiped.
#[derive(Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Buffer {
    /// Number of bytes received and not consumed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.begin
    }

    /// Size of its memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// The bytes received and not consumed.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// Splits the bytes at `at`. Returns the part before; the part after, followed by at least
    /// [`PADDING_BYTES`] more; and the length of that part without them.
    pub fn split_mut(&mut self, at: usize) -> (&mut [u8], &mut [u8], usize) {
        debug_assert!(at <= self.len());
        let at = at.min(self.len());
        let received = self.len() - at;
        let (before, behind) = self.bytes[self.begin..].split_at_mut(at);
        (before, behind, received)
    }

    /// Number of bytes that fit at the end.
    fn spare(&self) -> usize {
        self.bytes.len().saturating_sub(self.end + PADDING_BYTES)
    }

    /// Appends `bytes`, taking a buffer or a larger one from the pool if needed. Returns the number
    /// of bytes appended, which is smaller only if even the largest buffer is full.
    pub fn receive(&mut self, bytes: &[u8], pool: &mut BufferPool) -> usize {
        if bytes.len() > self.spare() {
            self.move_to_front();
        }
        if bytes.len() > self.spare() {
            self.grow(self.end + bytes.len(), pool);
        }
        let taken = bytes.len().min(self.spare());
        self.bytes[self.end..self.end + taken].copy_from_slice(&bytes[..taken]);
        self.end += taken;
        taken
    }

    /// Moves the bytes to the front to make room at the end. Not called for each request: if a peer
    /// sends ahead, moving the rest each time would take quadratic time.
    fn move_to_front(&mut self) {
        if self.begin > 0 {
            let length = self.len();
            self.bytes.copy_within(self.begin..self.end, 0);
            self.bytes[length.max(self.begin)..self.end].zeroize();
            (self.begin, self.end) = (0, length);
        }
    }

    fn grow(&mut self, needed: usize, pool: &mut BufferPool) {
        let mut larger = pool.take(needed + PADDING_BYTES);
        if larger.len() <= self.bytes.len() {
            pool.put(larger);
            return;
        }
        larger[..self.end].copy_from_slice(&self.bytes[..self.end]);
        let mut old = std::mem::replace(&mut self.bytes, larger);
        old[..self.end].zeroize();
        pool.put(old);
    }

    /// Wipes the first `count` bytes; an empty buffer goes back to the pool.
    pub fn consume(&mut self, count: usize, pool: &mut BufferPool) {
        debug_assert!(count <= self.len());
        let consumed = self.begin + count.min(self.len());
        self.bytes[self.begin..consumed].zeroize();
        self.begin = consumed;
        if self.is_empty() {
            pool.put(std::mem::take(&mut self.bytes));
            (self.begin, self.end) = (0, 0);
        }
    }

    /// Removes `count` bytes at `at`, and closes the gap.
    pub fn remove(&mut self, at: usize, count: usize) {
        debug_assert!(at + count <= self.len());
        if at + count <= self.len() {
            let at = self.begin + at;
            self.bytes.copy_within(at + count..self.end, at);
            self.bytes[self.end - count..self.end].zeroize();
            self.end -= count;
        }
    }

    /// Wipes everything and returns the memory to the pool.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        self.consume(self.len(), pool);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.bytes[self.begin..self.end].zeroize();
    }
}

/// Wiped buffers of two sizes, the most recently used first.
pub struct BufferPool {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    large_bytes: usize,
    /// Bytes of the buffers that connections hold.
    held_bytes: usize,
}

impl BufferPool {
    /// Makes an empty pool. `large_bytes` is the size for the longest allowed request and for the
    /// bytes that may follow it in one TLS record.
    #[must_use]
    pub fn new(large_bytes: usize) -> Self {
        Self {
            small: Vec::new(),
            large: Vec::new(),
            large_bytes: large_bytes.max(SMALL_BUFFER_BYTES) + PADDING_BYTES,
            held_bytes: 0,
        }
    }

    /// Makes large buffers `large_bytes` long from now on, if that is more than before. They never
    /// shrink, since requests that have begun to arrive under the old limit must still fit.
    pub fn enlarge(&mut self, large_bytes: usize) {
        if large_bytes > self.large_bytes() {
            self.large_bytes = large_bytes + PADDING_BYTES;
            self.large.clear();
        }
    }

    /// Size of the largest buffer.
    #[must_use]
    pub fn large_bytes(&self) -> usize {
        self.large_bytes - PADDING_BYTES
    }

    /// Memory of the buffers that connections hold.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn take(&mut self, needed: usize) -> Box<[u8]> {
        let (pool, size) = if needed <= SMALL_BUFFER_BYTES {
            (&mut self.small, SMALL_BUFFER_BYTES)
        } else {
            (&mut self.large, self.large_bytes)
        };
        self.held_bytes += size;
        pool.pop().unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    /// Puts a wiped buffer back into its pool; drops it if the pool is full.
    fn put(&mut self, bytes: Box<[u8]>) {
        self.held_bytes -= bytes.len();
        let pool = match bytes.len() {
            SMALL_BUFFER_BYTES => &mut self.small,
            size if size == self.large_bytes => &mut self.large,
            _ => return,
        };
        if pool.len() < max_pooled(bytes.len()) {
            pool.push(bytes);
        }
    }
}

/// Number of buffers of this size that are kept for reuse.
#[must_use]
pub fn max_pooled(bytes: usize) -> usize {
    (MAX_POOLED_BYTES / bytes.max(1)).clamp(1, MAX_POOLED_BUFFERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of one request must never be seen by the next holder of its buffer.
    #[test]
    fn pooled_buffers_are_wiped() {
        let mut pool = BufferPool::new(64 * 1024);
        let mut buffer = Buffer::default();
        assert_eq!(buffer.receive(&[7; 100], &mut pool), 100);
        assert_eq!(buffer.receive(&[8; 5000], &mut pool), 5000);
        buffer.consume(5000, &mut pool);
        assert_eq!(buffer.filled(), &[8; 100]);
        buffer.clear(&mut pool);
        assert!(pool.small.iter().chain(&pool.large).flatten().all(|byte| *byte == 0));
        assert_eq!((pool.small.len(), pool.large.len()), (1, 1));
        assert_eq!(pool.held_bytes(), 0);
    }

    /// Consumed bytes make room for more, wherever they were, and no copy of them is left.
    #[test]
    fn consumed_bytes_make_room() {
        let mut pool = BufferPool::new(10_000);
        for consumed in [1, 4_000, 6_000, 9_999] {
            let mut buffer = Buffer::default();
            buffer.receive(&[1; 10_000], &mut pool);
            buffer.consume(consumed, &mut pool);
            assert_eq!(buffer.len(), 10_000 - consumed);
            assert_eq!(buffer.receive(&[2; 1], &mut pool), 1, "{consumed}");
            assert_eq!(buffer.filled()[9_999 - consumed..10_001 - consumed], [1, 2]);
            assert_eq!(buffer.receive(&[2; 10_000], &mut pool), consumed - 1);
            buffer.consume(10_000 - 1, &mut pool);
            assert_eq!(buffer.receive(&[3; 5], &mut pool), 5);
            buffer.remove(1, 2);
            assert_eq!(buffer.filled(), [2, 3, 3, 3]);
            let outside = [&buffer.bytes[..buffer.begin], &buffer.bytes[buffer.end..]].concat();
            assert!(outside.iter().all(|byte| *byte == 0), "{consumed}");
            buffer.clear(&mut pool);
        }
        assert_eq!(pool.held_bytes(), 0);
    }

    /// The memory for a burst of large requests is returned to the system, for any size of request
    /// that the settings allow.
    #[test]
    fn little_is_kept() {
        for size in [10_000, 1_000_000, 30_000_000] {
            let mut pool = BufferPool::new(size);
            let mut buffers: Vec<_> = (0..50).map(|_| Buffer::default()).collect();
            for buffer in &mut buffers {
                buffer.receive(&[1; 5000], &mut pool);
            }
            assert!(pool.held_bytes() >= 50 * size);
            buffers.iter_mut().for_each(|buffer| buffer.clear(&mut pool));
            assert_eq!(pool.held_bytes(), 0);
            let kept: usize = pool.large.iter().map(|buffer| buffer.len()).sum();
            assert!(kept <= MAX_POOLED_BYTES.max(size + PADDING_BYTES), "{kept}");
        }
    }

    /// A request that did not fit into the old size continues in a buffer of the new one; buffers
    /// of the old size are not kept, and none is counted twice.
    #[test]
    fn larger_while_in_use() {
        let mut pool = BufferPool::new(10_000);
        let mut buffer = Buffer::default();
        assert_eq!(buffer.receive(&[1; 20_000], &mut pool), 10_000);
        pool.enlarge(30_000);
        pool.enlarge(5_000);
        assert_eq!(buffer.receive(&[2; 20_000], &mut pool), 20_000);
        assert_eq!(buffer.filled()[9_999..10_001], [1, 2]);
        assert_eq!(pool.held_bytes(), 30_000 + PADDING_BYTES);
        buffer.clear(&mut pool);
        assert_eq!((pool.held_bytes(), pool.large.len()), (0, 1));
    }

    /// The size of the largest buffer limits the memory that a peer can make us hold.
    #[test]
    fn receive_stops_at_the_largest_size() {
        let mut pool = BufferPool::new(10_000);
        let mut buffer = Buffer::default();
        assert_eq!(buffer.receive(&[1; 20_000], &mut pool), 10_000);
        assert_eq!(buffer.receive(&[1; 1], &mut pool), 0);
        assert_eq!(pool.held_bytes(), 10_000 + PADDING_BYTES);
        let (before, behind, received) = buffer.split_mut(100);
        assert_eq!((before.len(), received), (100, 9_900));
        assert!(behind.len() >= received + PADDING_BYTES);
    }
}

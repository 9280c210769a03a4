//! Places in a request's bytes, which are kept instead of copies.

/// The place of a string in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The place of `part` in the bytes that begin at address `base`.
    #[must_use]
    pub fn of(part: &str, base: usize) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(base);
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(start + part.len()) }
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The span of the first `length` bytes from the same start.
    #[must_use]
    pub fn with_len(self, length: usize) -> Self {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        Self { start: self.start, end: self.start.saturating_add(length) }
    }

    /// The same place as a range.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes in the span; empty if it does not lie within `bytes`.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }

    /// The text in the span; empty if it does not lie within `bytes` or is not UTF-8.
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(bytes)).unwrap_or_default()
    }
}

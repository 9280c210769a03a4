//! Body framing (RFC 9112, 6 and 7): a length, or chunks that are joined in place.

use super::HttpError;
use crate::limits::{MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES};

/// The delimitation of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Its length; 0 if there is no body.
    Length(usize),
    /// Chunks.
    Chunked,
}

/// A body that is arriving.
#[derive(Debug)]
pub enum Progress {
    /// A body of this length.
    Length(usize),
    /// Chunks, joined as they arrive.
    Chunked(Chunked),
}

/// A complete body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its length, from the end of the head.
    pub length: usize,
    /// Number of received bytes that it took up, including framing.
    pub consumed: usize,
}

impl Progress {
    /// # Errors
    /// [`HttpError::BodyTooLarge`] for an announced length above `max_bytes`.
    pub fn new(framing: Framing, max_bytes: usize) -> Result<Self, HttpError> {
        match framing {
            Framing::Length(length) if length > max_bytes => Err(HttpError::BodyTooLarge),
            Framing::Length(length) => Ok(Self::Length(length)),
            Framing::Chunked => Ok(Self::Chunked(Chunked::default())),
        }
    }

    /// Examines all bytes after the head. `None` means that more are needed.
    ///
    /// # Errors
    /// Malformed chunks, or more data than `max_bytes`.
    pub fn advance(
        &mut self,
        received: &mut [u8],
        max_bytes: usize,
    ) -> Result<Option<Whole>, HttpError> {
        match self {
            Self::Length(length) => {
                Ok((received.len() >= *length)
                    .then_some(Whole { length: *length, consumed: *length }))
            }
            Self::Chunked(chunked) => chunked.advance(received, max_bytes),
        }
    }
}

impl Progress {
    /// Position, counted from the end of the head, and length of the framing that has been
    /// processed but is still in the buffer. The caller must remove it, so that a body in many
    /// small chunks takes no more room than its data.
    pub fn take_spent(&mut self) -> Option<(usize, usize)> {
        match self {
            Self::Chunked(chunked) if chunked.read > chunked.written => {
                let spent = chunked.read - chunked.written;
                chunked.read = chunked.written;
                Some((chunked.written, spent))
            }
            _ => None,
        }
    }
}

/// A chunked body whose data is joined at the front as it arrives.
#[derive(Debug, Default)]
pub struct Chunked {
    expected: Expected,
    /// Number of received bytes that have been processed.
    read: usize,
    /// Number of bytes of data so far, at the front. `written <= read`.
    written: usize,
    /// Number of trailer bytes so far.
    trailer: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    SizeLine,
    Data(usize),
    DataEnd,
    Trailer,
}

impl Chunked {
    fn advance(
        &mut self,
        received: &mut [u8],
        max_bytes: usize,
    ) -> Result<Option<Whole>, HttpError> {
        loop {
            debug_assert!(self.written <= self.read && self.read <= received.len());
            match self.expected {
                Expected::SizeLine => {
                    let Some(line) = line(&received[self.read..], MAX_CHUNK_LINE_BYTES)? else {
                        return Ok(None);
                    };
                    let size = chunk_size(line)?;
                    self.read += line.len() + 2;
                    if size > max_bytes.saturating_sub(self.written) {
                        return Err(HttpError::BodyTooLarge);
                    }
                    self.expected =
                        if size == 0 { Expected::Trailer } else { Expected::Data(size) };
                }
                Expected::Data(left) => {
                    let taken = left.min(received.len() - self.read);
                    received.copy_within(self.read..self.read + taken, self.written);
                    self.read += taken;
                    self.written += taken;
                    if taken < left {
                        self.expected = Expected::Data(left - taken);
                        return Ok(None);
                    }
                    self.expected = Expected::DataEnd;
                }
                Expected::DataEnd => match received[self.read..] {
                    [b'\r', b'\n', ..] => {
                        self.read += 2;
                        self.expected = Expected::SizeLine;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(HttpError::BadRequest("a chunk does not end with CRLF")),
                },
                Expected::Trailer => {
                    let Some(line) = line(&received[self.read..], MAX_TRAILER_BYTES)? else {
                        return Ok(None);
                    };
                    let length = line.len();
                    self.read += length + 2;
                    self.trailer += length;
                    if self.trailer > MAX_TRAILER_BYTES {
                        return Err(HttpError::BadRequest("the trailer section is too long"));
                    }
                    if length == 0 {
                        return Ok(Some(Whole { length: self.written, consumed: self.read }));
                    }
                }
            }
        }
    }
}

/// The first line without its CRLF, or `None` if it is incomplete. What is wrong with it is reported
/// as soon as it has arrived, since the line's end may never come.
fn line(bytes: &[u8], max_bytes: usize) -> Result<Option<&[u8]>, HttpError> {
    let bytes = &bytes[..bytes.len().min(max_bytes + 2)];
    let end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let without_cr = line.strip_suffix(b"\r");
    // A control character, such as a stray CR. A tab is white space (RFC 9110, 5.6.3).
    let mut text = without_cr.unwrap_or(line).iter();
    if text.any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(HttpError::BadRequest("a chunk line has a control character"));
    }
    match (end, without_cr) {
        (Some(_), Some(line)) => Ok(Some(line)),
        (Some(_), None) => Err(HttpError::BadRequest("a chunk line ends without CR")),
        (None, _) if bytes.len() == max_bytes + 2 => {
            Err(HttpError::BadRequest("a chunk line is too long"))
        }
        (None, _) => Ok(None),
    }
}

/// The size of a chunk; an extension after it is ignored (RFC 9112, 7.1.1).
fn chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    const MALFORMED: HttpError = HttpError::BadRequest("a chunk size is malformed");
    let (digits, extension) = match line.iter().position(|byte| !byte.is_ascii_hexdigit()) {
        Some(end) => line.split_at(end),
        None => (line, &[][..]),
    };
    // Only blanks may precede the semicolon (RFC 9112, 7.1.1, BWS).
    let extension = extension.trim_ascii_start();
    if digits.is_empty() || !(extension.is_empty() || extension.starts_with(b";")) {
        return Err(MALFORMED);
    }
    digits.iter().try_fold(0_usize, |size, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(MALFORMED)?;
        size.checked_mul(16).map(|size| size | digit as usize).ok_or(HttpError::BodyTooLarge)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Feeds `wire` as the connection does, split at `cuts`: pieces are appended, and spent framing
    /// is removed.
    fn join(wire: &[u8], cuts: &[usize]) -> Result<Option<(Vec<u8>, usize)>, HttpError> {
        let mut progress = Progress::new(Framing::Chunked, 1000)?;
        let mut received = Vec::new();
        let (mut from, mut removed) = (0, 0);
        for end in cuts.iter().copied().chain([wire.len()]) {
            received.extend_from_slice(&wire[from..end]);
            from = end;
            if let Some(whole) = progress.advance(&mut received, 1000)? {
                return Ok(Some((received[..whole.length].to_vec(), whole.consumed + removed)));
            }
            if let Some((at, spent)) = progress.take_spent() {
                received.drain(at..at + spent);
                removed += spent;
            }
        }
        Ok(None)
    }

    /// A body is the same regardless of how the network split it.
    #[test]
    fn chunks_join_over_any_cut() {
        let wire = b"5\r\nhello\r\n1;ext=\"a\"\r\n \r\n00A \r\n0123456789\r\n0\r\nT: x\r\n\r\nPOST";
        let end = wire.len() - 4;
        for cut in 0..=end {
            let (body, consumed) = join(wire, &[cut]).unwrap().unwrap();
            assert_eq!(body, b"hello 0123456789");
            assert_eq!(consumed, end);
        }
        let every: Vec<usize> = (1..=end).collect();
        assert_eq!(join(wire, &every).unwrap().unwrap().0, b"hello 0123456789");
    }

    /// Input that is not a chunk, or could be read in two ways, is refused.
    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            &b"x\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\r\nhello",
            b"0\r\nT: x\n\r\n",
        ] {
            let error = join(wire, &[]).unwrap_err();
            assert!(matches!(error, HttpError::BadRequest(_)), "{wire:?}: {error:?}");
        }
        let long_line = [b'1'; MAX_CHUNK_LINE_BYTES + 2];
        assert!(join(&long_line, &[]).is_err());
        let trailer = format!("0\r\n{}", "T: x\r\n".repeat(400));
        assert!(join(trailer.as_bytes(), &[]).is_err());
    }

    /// A malformed line is refused before it ends, if it ever does.
    #[test]
    fn malformed_lines_are_refused_at_once() {
        for wire in [&b"5\rh"[..], b"5;\0", b"0\r\nT: x\ry", b"0\r\nT: x\n", b"5\n", b"1\r\nx\rx"] {
            for cut in 0..wire.len() {
                let error = join(wire, &[cut]).unwrap_err();
                assert!(matches!(error, HttpError::BadRequest(_)), "{wire:?}: {error:?}");
            }
        }
    }

    /// The limit holds for each chunk and for their sum, and no size overflows.
    #[test]
    fn sizes_are_limited() {
        for wire in ["3e9\r\n", "ffffffffffffffffff\r\n", "3e8\r\n"] {
            let wire = if wire == "3e8\r\n" {
                format!("3e8\r\n{}\r\n1\r\n", "a".repeat(1000))
            } else {
                wire.to_owned()
            };
            assert_eq!(join(wire.as_bytes(), &[]).unwrap_err(), HttpError::BodyTooLarge);
        }
        assert_eq!(
            Progress::new(Framing::Length(1001), 1000).unwrap_err(),
            HttpError::BodyTooLarge
        );
    }
}

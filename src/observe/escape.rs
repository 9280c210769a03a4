//! Escaping of strings in log lines, so that they can neither end the line nor look like another
//! field. They are truncated at [`MAX_LOG_STRING_BYTES`].
//!
//! Both formats use the escapes of RFC 8259, 7. Everything but printable ASCII becomes `\uXXXX`, so
//! a log is ASCII regardless of its input.

use crate::limits::MAX_LOG_STRING_BYTES;

/// Marker at the end of a truncated string.
const CUT: &[u8] = b"...";

/// Returns whether the byte may appear unescaped in a JSON string.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Returns the byte, or a question mark if it is not printable ASCII: for outputs of lines that have
/// been escaped, in which no other byte is to be expected.
pub(super) const fn printable(byte: u8) -> u8 {
    if matches!(byte, b' '..=b'~') { byte } else { b'?' }
}

/// Returns whether the byte may appear in an unquoted value.
const fn is_bare(byte: u8) -> bool {
    is_plain(byte) && byte != b' ' && byte != b'='
}

/// Appends `text` as a JSON string (RFC 8259, 7).
pub(super) fn push_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends `text` as the value in `key=value`, quoted unless it is one word.
pub(super) fn push_word(out: &mut Vec<u8>, text: &str) {
    let is_word = !text.is_empty() && text.len() <= MAX_LOG_STRING_BYTES;
    if is_word && text.bytes().all(is_bare) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_quoted(out, text);
    }
}

/// Appends `text`, escaped but not quoted.
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
    if text.len() <= MAX_LOG_STRING_BYTES && text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let end = out.len() + MAX_LOG_STRING_BYTES;
    for character in text.chars() {
        let mut escape = [0; 12];
        let escape = escaped(character, &mut escape);
        if out.len() + escape.len() > end {
            out.extend_from_slice(CUT);
            return;
        }
        out.extend_from_slice(escape);
    }
}

/// Returns the character as it appears in a JSON string: up to 12 bytes, the length of a surrogate
/// pair.
fn escaped(character: char, buffer: &mut [u8; 12]) -> &[u8] {
    let short = match character {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        ' '..='~' => {
            character.encode_utf8(buffer);
            return &buffer[..1];
        }
        _ => {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units);
            for (unit, digits) in units.iter().zip(buffer.chunks_exact_mut(6)) {
                digits[..2].copy_from_slice(b"\\u");
                for (index, digit) in digits[2..].iter_mut().enumerate() {
                    let nibble = (unit >> (12 - 4 * index)) & 0xf;
                    *digit = b"0123456789abcdef"[usize::from(nibble)];
                }
            }
            return &buffer[..6 * units.len()];
        }
    };
    buffer[..2].copy_from_slice(short);
    &buffer[..2]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        push_quoted(&mut out, text);
        out
    }

    proptest! {
        /// Any string reads back unchanged, and is printable ASCII when escaped.
        #[test]
        fn reads_back(text in any::<String>()) {
            let out = quoted(&text);
            prop_assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        /// An unquoted value is a single word.
        #[test]
        fn one_word_or_quoted(text in any::<String>()) {
            let mut out = Vec::new();
            push_word(&mut out, &text);
            if out.starts_with(b"\"") {
                prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            } else {
                prop_assert!(out.iter().all(|byte| is_bare(*byte)));
                prop_assert_eq!(out, text.into_bytes());
            }
        }
    }

    /// Characters that could end a line or control a terminal.
    #[test]
    fn known_escapes() {
        let out = quoted("a\n\"b\\\u{1b}[2J\u{7f}\u{85}\u{2028}\u{1f511}");
        assert_eq!(out, br#""a\n\"b\\\u001b[2J\u007f\u0085\u2028\ud83d\udd11""#);
    }

    /// The bound applies to the escaped string, and truncation never splits an escape.
    #[test]
    fn long_strings_are_cut() {
        for text in ["a", "\n", "\u{1}", "\u{1f511}"] {
            let out = quoted(&text.repeat(MAX_LOG_STRING_BYTES + 1));
            assert!(out.len() <= MAX_LOG_STRING_BYTES + CUT.len() + 2);
            assert!(out.len() > MAX_LOG_STRING_BYTES - 12);
            let read: String = serde_json::from_slice(&out).unwrap();
            let kept = read.strip_suffix("...").unwrap();
            assert_eq!(kept, text.repeat(kept.chars().count()));
        }
        let whole = "a".repeat(MAX_LOG_STRING_BYTES);
        assert_eq!(quoted(&whole), format!("\"{whole}\"").into_bytes());
    }
}

//! Names of HSM keys: a CKA_LABEL as it is, or `id:` and a CKA_ID in lower-case hexadecimal digits.

use std::fmt::Write as _;

use crate::limits::MAX_CKA_ID_BYTES;

/// Beginning of the name of a key that is named by its CKA_ID.
pub const ID_PREFIX: &str = "id:";

/// The attribute by which a key is named, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyName<'a> {
    /// `CKA_LABEL`
    Label(&'a str),
    /// `CKA_ID`, 1 to [`MAX_CKA_ID_BYTES`] bytes.
    CkaId(Vec<u8>),
}

impl<'a> KeyName<'a> {
    /// Returns the meaning of a name. Text that begins with [`ID_PREFIX`] and is not the name of a
    /// CKA_ID is a label: each CKA_ID has one name only, with lower-case digits.
    #[must_use]
    pub fn parse(name: &'a str) -> Self {
        match name.strip_prefix(ID_PREFIX).and_then(id_of) {
            Some(id) => Self::CkaId(id),
            None => Self::Label(name),
        }
    }
}

/// Returns the name of the key with this CKA_ID.
#[must_use]
pub fn name_of_id(id: &[u8]) -> String {
    let mut name = String::with_capacity(ID_PREFIX.len() + 2 * id.len());
    name.push_str(ID_PREFIX);
    push_hex(&mut name, id);
    name
}

/// Returns the bytes in lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

fn id_of(digits: &str) -> Option<Vec<u8>> {
    let is_lower_case = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    from_hex(digits).filter(|id| is_lower_case && (1..=MAX_CKA_ID_BYTES).contains(&id.len()))
}

/// Returns the bytes that hexadecimal digits of either case stand for; `None` if the text is
/// something else.
#[must_use]
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is a label unless it is exactly what [`name_of_id`] returns for some CKA_ID.
    #[test]
    fn labels_and_ids() {
        for id in [&[0x0a_u8, 0x0b][..], &[0], &[0xff; MAX_CKA_ID_BYTES]] {
            let name = name_of_id(id);
            assert_eq!(KeyName::parse(&name), KeyName::CkaId(id.to_vec()));
            assert_eq!(name.len(), ID_PREFIX.len() + 2 * id.len());
        }
        assert_eq!(name_of_id(&[0x0a, 0x0b]), "id:0a0b");
        let too_long = name_of_id(&[0; MAX_CKA_ID_BYTES + 1]);
        for label in ["foo", "0a0b", "id", "id:", "id:0", "id:0A", "id:0g", "ID:0a", &too_long] {
            assert_eq!(KeyName::parse(label), KeyName::Label(label));
        }
    }

    /// Digits of either case are read, and nothing else.
    #[test]
    fn hexadecimal_digits() {
        assert_eq!(from_hex("00fFA9"), Some(vec![0, 0xff, 0xa9]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for text in ["0", "0x", "+1", "é1", "0 "] {
            assert_eq!(from_hex(text), None, "{text}");
        }
        assert_eq!(hex(&[0, 0xff, 0xa9]), "00ffa9");
    }
}

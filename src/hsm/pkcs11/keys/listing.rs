//! Finding a token's AES keys and reading what they are.

use cryptoki_sys::*;

use crate::hsm::pkcs11::codes::{Class, class};
use crate::hsm::pkcs11::native::{Attribute, Error};
use crate::hsm::pkcs11::native_session::NativeSession;
use crate::job::KeyAttributes;
use crate::limits::{MAX_KEYS_PER_TOKEN, MAX_LABEL_BYTES};

/// What an object is, and then what a key may do.
const ATTRIBUTES: [CK_ATTRIBUTE_TYPE; 13] = [
    CKA_LABEL,
    CKA_CLASS,
    CKA_KEY_TYPE,
    CKA_TOKEN,
    CKA_PRIVATE,
    CKA_VALUE_LEN,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_VERIFY,
    CKA_WRAP,
    CKA_UNWRAP,
    CKA_DERIVE,
];

/// A key that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    pub handle: CK_OBJECT_HANDLE,
    /// `None` if it cannot be an external key id: no UTF-8, or too long.
    pub label: Option<String>,
    pub attributes: KeyAttributes,
    /// CKA_PRIVATE; `None` if the token does not tell.
    pub is_private: Option<bool>,
}

/// One pass over all AES keys of the token. Says whether there are more than are looked at.
pub fn list(session: &NativeSession, mut each: impl FnMut(FoundKey)) -> Result<bool, Error> {
    let (handles, is_cut) = find(session, None, MAX_KEYS_PER_TOKEN)?;
    for handle in handles {
        if let Some(key) = read(session, handle)? {
            each(key);
        }
    }
    Ok(is_cut)
}

/// AES keys that are the token's own, of that label or of all: those of a session never count.
///
/// A module may refuse a template of so many attributes; then there are other objects too, which
/// [`read`] leaves out.
pub fn find(
    session: &NativeSession,
    label: Option<&str>,
    max_objects: usize,
) -> Result<(Vec<CK_OBJECT_HANDLE>, bool), Error> {
    let label = label.map(|label| Attribute::Bytes(CKA_LABEL, label.as_bytes().to_vec()));
    let class = Attribute::Number(CKA_CLASS, CKO_SECRET_KEY);
    let kind = [Attribute::Number(CKA_KEY_TYPE, CKK_AES), Attribute::Flag(CKA_TOKEN, CK_TRUE)];
    let simple: Vec<_> = [class].into_iter().chain(label).collect();
    let whole = [simple.as_slice(), &kind].concat();
    let mut refusal = None;
    for template in [whole.as_slice(), &simple, &[]] {
        match session.find(template, max_objects) {
            Err(error) if refuses_template(&error) => refusal.get_or_insert(error),
            found => return found,
        };
    }
    refusal.map_or(Ok((Vec::new(), false)), Err)
}

fn refuses_template(error: &Error) -> bool {
    matches!(
        error.code,
        Some(
            CKR_ATTRIBUTE_TYPE_INVALID
                | CKR_ATTRIBUTE_VALUE_INVALID
                | CKR_TEMPLATE_INCOMPLETE
                | CKR_TEMPLATE_INCONSISTENT
        )
    )
}

/// The key, `None` if it is gone by now, or is no AES key of the token's own.
pub fn read(session: &NativeSession, handle: CK_OBJECT_HANDLE) -> Result<Option<FoundKey>, Error> {
    let attributes = match session.attributes(handle, &ATTRIBUTES) {
        Ok(attributes) if attributes.iter().any(|(kind, _)| *kind == CKA_LABEL) => attributes,
        // For some, one that is not to be had is reason to give none.
        Ok(_) => read_one_by_one(session, handle)?,
        Err(Error { code: Some(CKR_OBJECT_HANDLE_INVALID), .. }) => return Ok(None),
        Err(error) if !is_about_attributes(&error) => return Err(error),
        Err(_) => read_one_by_one(session, handle)?,
    };
    Ok(digest(handle, attributes))
}

/// For a module that refuses the lot for the sake of one.
fn read_one_by_one(
    session: &NativeSession,
    handle: CK_OBJECT_HANDLE,
) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, Error> {
    let mut attributes = Vec::new();
    for attribute in ATTRIBUTES {
        match session.attributes(handle, &[attribute]) {
            Ok(one) => attributes.extend(one),
            // A key without its label would be a key that isn't there.
            Err(error) if attribute == CKA_LABEL || !is_about_attributes(&error) => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(attributes)
}

fn is_about_attributes(error: &Error) -> bool {
    error.code.is_some_and(|code| {
        matches!(class(code), Class::Request | Class::AmbiguousRequest | Class::Ambiguous)
    })
}

fn flag(value: &[u8]) -> bool {
    value.first().is_some_and(|byte| *byte != CK_FALSE)
}

fn number(value: &[u8]) -> Option<CK_ULONG> {
    value.try_into().ok().map(CK_ULONG::from_ne_bytes)
}

/// Where a token does not tell a usage flag, it is left to the operation to fail. `None` for what
/// it does tell to be something else than an AES key of its own.
fn digest(
    handle: CK_OBJECT_HANDLE,
    attributes: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>,
) -> Option<FoundKey> {
    let (mut label, mut is_private) = (None, None);
    let mut key = KeyAttributes::UNTOLD;
    for (kind, value) in attributes {
        match kind {
            CKA_LABEL if value.len() <= MAX_LABEL_BYTES => label = String::from_utf8(value).ok(),
            CKA_CLASS if number(&value).is_some_and(|class| class != CKO_SECRET_KEY) => {
                return None;
            }
            CKA_KEY_TYPE if number(&value).is_some_and(|kind| kind != CKK_AES) => return None,
            CKA_TOKEN if !flag(&value) => return None,
            CKA_PRIVATE => is_private = Some(flag(&value)),
            CKA_VALUE_LEN => {
                let bits = number(&value).unwrap_or(0).saturating_mul(8);
                key.bits = u32::try_from(bits).unwrap_or(u32::MAX);
            }
            CKA_ENCRYPT => key.encrypt = flag(&value),
            CKA_DECRYPT => key.decrypt = flag(&value),
            CKA_SIGN => key.sign = flag(&value),
            CKA_VERIFY => key.verify = flag(&value),
            CKA_WRAP => key.wrap = flag(&value),
            CKA_UNWRAP => key.unwrap = flag(&value),
            CKA_DERIVE => key.derive = flag(&value),
            _ => {}
        }
    }
    Some(FoundKey { handle, label, attributes: key, is_private })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(attributes: &[(CK_ATTRIBUTE_TYPE, &[u8])]) -> Option<FoundKey> {
        digest(1, attributes.iter().map(|(kind, value)| (*kind, value.to_vec())).collect())
    }

    /// What a token does not tell is left to the operation; a label that is no text names nothing.
    #[test]
    fn attributes_that_are_missing() {
        let found = of(&[(CKA_LABEL, &[0xff]), (CKA_ENCRYPT, &[0])]).unwrap();
        assert_eq!(found.label, None);
        let key = found.attributes;
        assert!(!key.encrypt && key.decrypt && !key.wrap);
        let length: CK_ULONG = 32;
        let found = of(&[(CKA_LABEL, b"k"), (CKA_VALUE_LEN, &length.to_ne_bytes())]).unwrap();
        assert_eq!((found.label.as_deref(), found.attributes.bits), (Some("k"), 256));
        let found = of(&[(CKA_LABEL, &[b'x'; MAX_LABEL_BYTES + 1])]).unwrap();
        assert_eq!(found.label, None);
    }

    /// Where the module does not look for AES keys alone, the others are left out here.
    #[test]
    fn other_objects() {
        let number = |number: CK_ULONG| number.to_ne_bytes();
        let aes = [(CKA_CLASS, number(CKO_SECRET_KEY)), (CKA_KEY_TYPE, number(CKK_AES))];
        let of = |(kind, value): (CK_ATTRIBUTE_TYPE, [u8; 8])| of(&[(kind, &value)]);
        assert!(aes.into_iter().all(|it| of(it).is_some()));
        assert_eq!(of((CKA_CLASS, number(CKO_DATA))), None);
        assert_eq!(of((CKA_KEY_TYPE, number(CKK_DES3))), None);
        assert_eq!(super::digest(1, vec![(CKA_TOKEN, vec![CK_FALSE])]), None);
    }
}

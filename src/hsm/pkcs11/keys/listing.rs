//! Searches for a token's AES keys, and their attributes.

use cryptoki_sys::*;

use crate::hsm::pkcs11::codes::{Class, class};
use crate::hsm::pkcs11::native::{Attribute, Error};
use crate::hsm::pkcs11::native_session::NativeSession;
use crate::job::KeyAttributes;
use crate::limits::{MAX_KEYS_PER_TOKEN, MAX_LABEL_BYTES};

/// Attributes that are read: the kind of object, followed by the permitted uses.
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

/// A key found in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    pub handle: CK_OBJECT_HANDLE,
    /// Label; `None` if it is not UTF-8 or is too long, and so cannot be an external key id.
    pub label: Option<String>,
    pub attributes: KeyAttributes,
    /// CKA_PRIVATE; `None` if the token does not report it.
    pub is_private: Option<bool>,
}

/// Calls `each` for every AES key of the token. Returns whether there are more keys than the limit.
pub fn list(session: &NativeSession, mut each: impl FnMut(FoundKey)) -> Result<bool, Error> {
    let (handles, is_cut) = find(session, None, MAX_KEYS_PER_TOKEN)?;
    for handle in handles {
        if let Some(key) = read(session, handle)? {
            each(key);
        }
    }
    Ok(is_cut)
}

/// Finds the token's AES keys with one label or all of them, but no session keys.
///
/// If a module refuses the template, simpler ones are tried, which also match other objects;
/// [`read`] leaves those out.
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

/// Reads a key. Returns `None` if it no longer exists, or is not an AES token key.
pub fn read(session: &NativeSession, handle: CK_OBJECT_HANDLE) -> Result<Option<FoundKey>, Error> {
    let attributes = match session.attributes(handle, &ATTRIBUTES) {
        Ok(attributes) if attributes.iter().any(|(kind, _)| *kind == CKA_LABEL) => attributes,
        // Some modules return no attribute if one is unavailable.
        Ok(_) => read_one_by_one(session, handle)?,
        Err(Error { code: Some(CKR_OBJECT_HANDLE_INVALID), .. }) => return Ok(None),
        Err(error) if !is_about_attributes(&error) => return Err(error),
        Err(_) => read_one_by_one(session, handle)?,
    };
    Ok(key_from(handle, attributes))
}

/// Reads the attributes one by one, for a module that refuses to return any if one is unavailable.
fn read_one_by_one(
    session: &NativeSession,
    handle: CK_OBJECT_HANDLE,
) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, Error> {
    let mut attributes = Vec::new();
    for attribute in ATTRIBUTES {
        match session.attributes(handle, &[attribute]) {
            Ok(one) => attributes.extend(one),
            // A key read without its label would be considered missing.
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

/// Creates a key from its attributes. A usage flag that the token does not report counts as set, so
/// that the operation decides. Returns `None` if the attributes are not those of an AES token key.
fn key_from(
    handle: CK_OBJECT_HANDLE,
    attributes: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>,
) -> Option<FoundKey> {
    let (mut label, mut is_private) = (None, None);
    let mut key = KeyAttributes::UNREPORTED;
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
        key_from(1, attributes.iter().map(|(kind, value)| (*kind, value.to_vec())).collect())
    }

    /// Unreported usage flags count as set, and a label that is not text counts as none.
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

    /// Objects that are not AES token keys are left out.
    #[test]
    fn other_objects() {
        let number = |number: CK_ULONG| number.to_ne_bytes();
        let aes = [(CKA_CLASS, number(CKO_SECRET_KEY)), (CKA_KEY_TYPE, number(CKK_AES))];
        let of = |(kind, value): (CK_ATTRIBUTE_TYPE, [u8; 8])| of(&[(kind, &value)]);
        assert!(aes.into_iter().all(|it| of(it).is_some()));
        assert_eq!(of((CKA_CLASS, number(CKO_DATA))), None);
        assert_eq!(of((CKA_KEY_TYPE, number(CKK_DES3))), None);
        assert_eq!(super::key_from(1, vec![(CKA_TOKEN, vec![CK_FALSE])]), None);
    }
}

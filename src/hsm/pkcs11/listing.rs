//! Finding a token's AES keys and reading what they are.

use std::num::NonZeroUsize;

use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys::CK_OBJECT_HANDLE;

use super::codes::{Class, class, code_of};
use crate::job::KeyAttributes;
use crate::limits::{FIND_OBJECTS_BATCH, MAX_KEYS_PER_TOKEN, MAX_LABEL_BYTES};

const ATTRIBUTES: [AttributeType; 9] = [
    AttributeType::Label,
    AttributeType::ValueLen,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Wrap,
    AttributeType::Unwrap,
    AttributeType::Derive,
];

/// AES keys that are the token's own; those of a session never count.
pub(super) fn template() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
    ]
}

/// One pass over all AES keys of the token. A label that cannot be an external key id (no UTF-8,
/// too long) is `None`.
pub(super) fn list(
    session: &Session,
    mut each: impl FnMut(Option<&str>, CK_OBJECT_HANDLE, KeyAttributes),
) -> Result<(), Error> {
    for handle in find(session, &template(), MAX_KEYS_PER_TOKEN)? {
        if let Some((label, attributes)) = read(session, handle)? {
            each(label.as_deref(), handle.handle(), attributes);
        }
    }
    Ok(())
}

pub(super) fn find(
    session: &Session,
    template: &[Attribute],
    max_objects: usize,
) -> Result<Vec<ObjectHandle>, Error> {
    const BATCH: NonZeroUsize = NonZeroUsize::new(FIND_OBJECTS_BATCH).unwrap();
    // C_FindObjectsFinal is called when the iterator is dropped, whatever came before.
    session.iter_objects_with_cache_size(template, BATCH)?.take(max_objects).collect()
}

/// Label and attributes, `None` if the key is gone by now.
pub(super) fn read(
    session: &Session,
    handle: ObjectHandle,
) -> Result<Option<(Option<String>, KeyAttributes)>, Error> {
    let attributes = match session.get_attributes(handle, &ATTRIBUTES) {
        Ok(attributes) => attributes,
        Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => return Ok(None),
        Err(error) if !is_about_attributes(&error) => return Err(error),
        Err(_) => read_one_by_one(session, handle)?,
    };
    Ok(Some(digest(attributes)))
}

/// For a module that refuses the lot for the sake of one.
fn read_one_by_one(session: &Session, handle: ObjectHandle) -> Result<Vec<Attribute>, Error> {
    let mut attributes = Vec::new();
    for attribute in ATTRIBUTES {
        match session.get_attributes(handle, &[attribute]) {
            Ok(one) => attributes.extend(one),
            // A key without its label would be a key that isn't there.
            Err(error) if attribute == AttributeType::Label || !is_about_attributes(&error) => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(attributes)
}

fn is_about_attributes(error: &Error) -> bool {
    // Without a code, it is a value that is none of its type.
    code_of(error).is_none_or(|code| {
        matches!(class(code), Class::Request | Class::AmbiguousRequest | Class::Ambiguous)
    })
}

/// Where a token does not tell a usage flag, it is left to the operation to fail.
fn digest(attributes: Vec<Attribute>) -> (Option<String>, KeyAttributes) {
    let mut label = None;
    let mut key = KeyAttributes::UNTOLD;
    for attribute in attributes {
        match attribute {
            Attribute::Label(bytes) if bytes.len() <= MAX_LABEL_BYTES => {
                label = String::from_utf8(bytes).ok();
            }
            Attribute::ValueLen(bytes) => {
                let bits = u64::from(bytes).saturating_mul(8);
                key.bits = u32::try_from(bits).unwrap_or(u32::MAX);
            }
            Attribute::Encrypt(may) => key.encrypt = may,
            Attribute::Decrypt(may) => key.decrypt = may,
            Attribute::Sign(may) => key.sign = may,
            Attribute::Verify(may) => key.verify = may,
            Attribute::Wrap(may) => key.wrap = may,
            Attribute::Unwrap(may) => key.unwrap = may,
            Attribute::Derive(may) => key.derive = may,
            _ => {}
        }
    }
    (label, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a token does not tell is left to the operation; a label that is no text names nothing.
    #[test]
    fn attributes_that_are_missing() {
        let (label, key) = digest(vec![Attribute::Label(vec![0xff]), Attribute::Encrypt(false)]);
        assert_eq!(label, None);
        assert!(!key.encrypt && key.decrypt && !key.wrap);
        let (label, key) = digest(vec![
            Attribute::Label(b"k".to_vec()),
            Attribute::ValueLen(cryptoki::types::Ulong::new(32)),
        ]);
        assert_eq!((label.as_deref(), key.bits), (Some("k"), 256));
        let (label, _) = digest(vec![Attribute::Label(vec![b'x'; MAX_LABEL_BYTES + 1])]);
        assert_eq!(label, None);
    }
}

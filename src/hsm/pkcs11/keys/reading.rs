//! The attributes of a token's keys, as listings read them.

use cryptoki_sys::*;

use crate::hsm::key_date::KeyDate;
use crate::hsm::pkcs11::codes::{Class, class};
use crate::hsm::pkcs11::native::Error;
use crate::hsm::pkcs11::native_session::NativeSession;
use crate::job::KeyAttributes;
use crate::key_name::KeyName;
use crate::limits::{MAX_CKA_ID_BYTES, MAX_LABEL_BYTES};

/// Attributes that every listing needs: the kind of object, followed by the permitted uses.
const NEEDED: [CK_ATTRIBUTE_TYPE; 13] = [
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

/// A list of attributes with their values.
pub type Attributes = Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>;

/// A key found in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    pub handle: CK_OBJECT_HANDLE,
    /// Label; `None` if it is not UTF-8 or is too long, and so cannot be an external key id.
    pub label: Option<String>,
    /// CKA_ID; `None` if it is empty, too long to name a key, or has not been read.
    pub id: Option<Vec<u8>>,
    pub attributes: KeyAttributes,
    /// CKA_PRIVATE; `None` if the token does not report it.
    pub is_private: Option<bool>,
    pub end_date: KeyDate,
}

impl FoundKey {
    /// Returns whether the key has that name.
    pub fn has_name(&self, name: &KeyName<'_>) -> bool {
        match name {
            KeyName::Label(label) => self.label.as_deref() == Some(*label),
            KeyName::CkaId(id) => self.id.as_ref() == Some(id),
        }
    }
}

/// Reads the keys of one listing.
pub struct Reader {
    needs_id: bool,
    /// True once the module has refused to return the needed attributes together with others.
    refuses_others: bool,
}

/// The result of asking for several attributes at once.
enum Told {
    All(Attributes),
    /// The module returns none of them, although some may be available.
    Refused,
    /// The object no longer exists.
    Gone,
}

impl Reader {
    /// Creates a reader, which reads keys' CKA_IDs if `needs_id`.
    pub fn new(needs_id: bool) -> Self {
        Self { needs_id, refuses_others: false }
    }

    /// Reads a key. Returns `None` if it no longer exists, or is not an AES token key.
    ///
    /// This is one call, unless the module returns no attribute if one is unavailable.
    pub fn read(
        &mut self,
        session: &NativeSession,
        handle: CK_OBJECT_HANDLE,
    ) -> Result<Option<FoundKey>, Error> {
        let ids = if self.needs_id { &[CKA_ID][..] } else { &[] };
        if !self.refuses_others {
            let wanted = [&NEEDED[..], ids, &[CKA_END_DATE]].concat();
            match ask(session, handle, &wanted)? {
                Told::All(attributes) => return Ok(key_from(handle, attributes)),
                Told::Gone => return Ok(None),
                Told::Refused => self.refuses_others = true,
            }
        }
        let mut attributes = match ask(session, handle, &NEEDED)? {
            Told::All(attributes) => attributes,
            Told::Gone => return Ok(None),
            Told::Refused => read_one_by_one(session, handle, &NEEDED)?,
        };
        attributes.extend(read_one_by_one(session, handle, ids)?);
        Ok(key_from(handle, attributes))
    }
}

/// Reads attributes that include CKA_LABEL.
fn ask(
    session: &NativeSession,
    handle: CK_OBJECT_HANDLE,
    wanted: &[CK_ATTRIBUTE_TYPE],
) -> Result<Told, Error> {
    match session.attributes(handle, wanted) {
        Ok(attributes) if attributes.iter().any(|(kind, _)| *kind == CKA_LABEL) => {
            Ok(Told::All(attributes))
        }
        Ok(_) => Ok(Told::Refused),
        Err(Error { code: Some(CKR_OBJECT_HANDLE_INVALID), .. }) => Ok(Told::Gone),
        Err(error) if !is_about_attributes(&error) => Err(error),
        Err(_) => Ok(Told::Refused),
    }
}

/// Reads attributes one by one, for a module that refuses to return any if one is unavailable.
pub fn read_one_by_one(
    session: &NativeSession,
    handle: CK_OBJECT_HANDLE,
    wanted: &[CK_ATTRIBUTE_TYPE],
) -> Result<Attributes, Error> {
    let mut attributes = Vec::new();
    for attribute in wanted {
        match session.attributes(handle, &[*attribute]) {
            Ok(one) => attributes.extend(one),
            // A key read without its label would be considered missing.
            Err(error) if *attribute == CKA_LABEL || !is_about_attributes(&error) => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(attributes)
}

pub fn is_about_attributes(error: &Error) -> bool {
    error.code.is_some_and(|code| {
        matches!(class(code), Class::Request | Class::AmbiguousRequest | Class::Ambiguous)
    })
}

pub fn flag(value: &[u8]) -> bool {
    value.first().is_some_and(|byte| *byte != CK_FALSE)
}

fn number(value: &[u8]) -> Option<CK_ULONG> {
    value.try_into().ok().map(CK_ULONG::from_ne_bytes)
}

/// Creates a key from its attributes. A usage flag that the token does not report counts as set, so
/// that the operation decides. Returns `None` if the attributes are not those of an AES token key.
fn key_from(handle: CK_OBJECT_HANDLE, attributes: Attributes) -> Option<FoundKey> {
    let mut key = KeyAttributes::UNREPORTED;
    let (mut label, mut id, mut is_private) = (None, None, None);
    let mut end_date = KeyDate::Unreported;
    for (kind, value) in attributes {
        match kind {
            CKA_LABEL if value.len() <= MAX_LABEL_BYTES => label = String::from_utf8(value).ok(),
            CKA_ID if (1..=MAX_CKA_ID_BYTES).contains(&value.len()) => id = Some(value),
            CKA_CLASS if number(&value).is_some_and(|class| class != CKO_SECRET_KEY) => {
                return None;
            }
            CKA_KEY_TYPE if number(&value).is_some_and(|kind| kind != CKK_AES) => return None,
            CKA_TOKEN if !flag(&value) => return None,
            CKA_PRIVATE => is_private = Some(flag(&value)),
            CKA_END_DATE => end_date = KeyDate::of(&value),
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
    Some(FoundKey { handle, label, id, attributes: key, is_private, end_date })
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

    /// A key has the names that its label and its CKA_ID give it. Empty and long CKA_IDs name no
    /// key.
    #[test]
    fn names() {
        let found = of(&[(CKA_LABEL, b"id:0a"), (CKA_ID, &[0x0b])]).unwrap();
        assert!(found.has_name(&KeyName::CkaId(vec![0x0b])));
        assert!(!found.has_name(&KeyName::parse("id:0a")), "its label looks like a CKA_ID");
        assert!(found.has_name(&KeyName::Label("id:0a")));
        for id in [&[][..], &[7; MAX_CKA_ID_BYTES + 1]] {
            assert_eq!(of(&[(CKA_LABEL, b"k"), (CKA_ID, id)]).unwrap().id, None);
        }
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

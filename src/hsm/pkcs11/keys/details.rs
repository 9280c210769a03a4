//! The attributes of a key that an auditor asks for.

use cryptoki_sys::*;

use super::reading::{flag, is_about_attributes, read_one_by_one};
use crate::hsm::inventory::KeyDetails;
use crate::hsm::key_date::KeyDate;
use crate::hsm::pkcs11::native::Error;
use crate::hsm::pkcs11::native_session::NativeSession;

const ATTRIBUTES: [CK_ATTRIBUTE_TYPE; 15] = [
    CKA_PRIVATE,
    CKA_SENSITIVE,
    CKA_ALWAYS_SENSITIVE,
    CKA_EXTRACTABLE,
    CKA_NEVER_EXTRACTABLE,
    CKA_LOCAL,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_VERIFY,
    CKA_WRAP,
    CKA_UNWRAP,
    CKA_DERIVE,
    CKA_START_DATE,
    CKA_END_DATE,
];

/// Reads a key's details: in one call, unless the module returns none of them if one is
/// unavailable.
///
/// # Errors
/// Returns the token's error.
pub fn details(session: &NativeSession, handle: CK_OBJECT_HANDLE) -> Result<KeyDetails, Error> {
    let attributes = match session.attributes(handle, &ATTRIBUTES) {
        Ok(attributes) if !attributes.is_empty() => attributes,
        Err(error) if !is_about_attributes(&error) => return Err(error),
        Ok(_) | Err(_) => read_one_by_one(session, handle, &ATTRIBUTES)?,
    };
    let mut details = KeyDetails::default();
    for (kind, value) in attributes {
        // A flag of no bytes is none.
        let is_set = (!value.is_empty()).then(|| flag(&value));
        match kind {
            CKA_PRIVATE => details.private = is_set,
            CKA_SENSITIVE => details.sensitive = is_set,
            CKA_ALWAYS_SENSITIVE => details.always_sensitive = is_set,
            CKA_EXTRACTABLE => details.extractable = is_set,
            CKA_NEVER_EXTRACTABLE => details.never_extractable = is_set,
            CKA_LOCAL => details.local = is_set,
            CKA_ENCRYPT => details.encrypt = is_set,
            CKA_DECRYPT => details.decrypt = is_set,
            CKA_SIGN => details.sign = is_set,
            CKA_VERIFY => details.verify = is_set,
            CKA_WRAP => details.wrap = is_set,
            CKA_UNWRAP => details.unwrap = is_set,
            CKA_DERIVE => details.derive = is_set,
            CKA_START_DATE => details.start_date = KeyDate::of(&value),
            CKA_END_DATE => details.end_date = KeyDate::of(&value),
            _ => {}
        }
    }
    Ok(details)
}

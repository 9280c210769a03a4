//! Searches for a token's AES keys.

use cryptoki_sys::*;

use super::reading::{FoundKey, Reader};
use crate::hsm::pkcs11::native::{Attribute, Error};
use crate::hsm::pkcs11::native_session::NativeSession;
use crate::key_name::KeyName;
use crate::limits::MAX_KEYS_PER_TOKEN;

/// Calls `each` for every AES key of the token. Returns whether there are more keys than the limit.
pub fn list(
    session: &NativeSession,
    reader: &mut Reader,
    mut each: impl FnMut(FoundKey),
) -> Result<bool, Error> {
    let (handles, is_cut) = find(session, None, MAX_KEYS_PER_TOKEN)?;
    for handle in handles {
        if let Some(key) = reader.read(session, handle)? {
            each(key);
        }
    }
    Ok(is_cut)
}

/// Finds the token's AES keys with one name or all of them, but no session keys.
///
/// If a module refuses the template, simpler ones are tried, which also match other objects;
/// [`Reader::read`] leaves those out.
pub fn find(
    session: &NativeSession,
    name: Option<&KeyName<'_>>,
    max_objects: usize,
) -> Result<(Vec<CK_OBJECT_HANDLE>, bool), Error> {
    let name = name.map(|name| match name {
        KeyName::Label(label) => Attribute::Bytes(CKA_LABEL, label.as_bytes().to_vec()),
        KeyName::CkaId(id) => Attribute::Bytes(CKA_ID, id.clone()),
    });
    let class = Attribute::Number(CKA_CLASS, CKO_SECRET_KEY);
    let kind = [Attribute::Number(CKA_KEY_TYPE, CKK_AES), Attribute::Flag(CKA_TOKEN, CK_TRUE)];
    let simple: Vec<_> = [class].into_iter().chain(name).collect();
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

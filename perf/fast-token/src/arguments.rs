//! The application's memory: inputs, outputs, templates and mechanisms.

use std::ptr;
use std::slice;

use cryptoki_sys::*;

use crate::gcm::{IV_BYTES, TAG_BYTES};
use crate::keys::Key;

/// Returns the application's bytes.
///
/// # Safety
/// `data` has `length` readable bytes that nothing changes while the slice is in use, or is null.
pub unsafe fn bytes<'a>(data: *const CK_BYTE, length: CK_ULONG) -> Option<&'a [u8]> {
    match usize::try_from(length).ok()? {
        0 => Some(&[]),
        _ if data.is_null() => None,
        // SAFETY: by this function's contract.
        length => Some(unsafe { slice::from_raw_parts(data, length) }),
    }
}

/// Returns a template's types and values, or `None` if it is malformed.
///
/// # Safety
/// As PKCS#11 demands of a template: `count` attributes, each with a value of its length.
pub unsafe fn template<'a>(
    attributes: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> Option<Vec<(CK_ATTRIBUTE_TYPE, &'a [u8])>> {
    let count = usize::try_from(count).ok()?;
    if attributes.is_null() {
        return (count == 0).then(Vec::new);
    }
    (0..count)
        .map(|at| {
            // SAFETY: by this function's contract.
            let attribute = unsafe { attributes.add(at).read_unaligned() };
            // SAFETY: likewise.
            let value = unsafe { bytes(attribute.pValue.cast(), attribute.ulValueLen) }?;
            Some((attribute.type_, value))
        })
        .collect()
}

/// Fills a template with a key's attributes, as C_GetAttributeValue does.
///
/// # Safety
/// As PKCS#11 demands of a template: `count` attributes, each with null or memory of its length.
pub unsafe fn fill(key: &Key, attributes: CK_ATTRIBUTE_PTR, count: CK_ULONG) -> CK_RV {
    let mut code = CKR_OK;
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: by this function's contract.
        let attribute = unsafe { &mut *attributes.add(at) };
        let Some(value) = key.attribute(attribute.type_) else {
            attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            code = CKR_ATTRIBUTE_TYPE_INVALID;
            continue;
        };
        let room = usize::try_from(attribute.ulValueLen).unwrap_or(0);
        if attribute.pValue.is_null() || value.len() <= room {
            attribute.ulValueLen = value.len() as CK_ULONG;
        } else {
            attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            code = CKR_BUFFER_TOO_SMALL;
            continue;
        }
        if !attribute.pValue.is_null() {
            // SAFETY: there is room for the value, and it is not the application's memory.
            unsafe {
                ptr::copy_nonoverlapping(value.as_ptr(), attribute.pValue.cast(), value.len());
            }
        }
    }
    code
}

/// Copies the AAD of an AES-GCM mechanism into `aad`. Returns the IV, or the code for a mechanism or
/// parameters that are not supported.
///
/// # Safety
/// As PKCS#11 demands of a mechanism: null, or parameters of their length, whose pointers have the
/// bytes that go with them.
pub unsafe fn gcm_parameters(
    mechanism: CK_MECHANISM_PTR,
    aad: &mut Vec<u8>,
) -> Result<[u8; IV_BYTES], CK_RV> {
    // SAFETY: by this function's contract.
    let given = unsafe { mechanism.as_ref() }.ok_or(CKR_ARGUMENTS_BAD)?;
    if given.mechanism != CKM_AES_GCM {
        return Err(CKR_MECHANISM_INVALID);
    }
    let is_sized = usize::try_from(given.ulParameterLen) == Ok(size_of::<CK_GCM_PARAMS>());
    if given.pParameter.is_null() || !is_sized {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: AES-GCM's parameters, with the right size; the sample proxy packs them.
    let parameters = unsafe { given.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() };
    if usize::try_from(parameters.ulTagBits) != Ok(8 * TAG_BYTES) {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: the parameters' pointers and lengths.
    let (iv, given_aad) = unsafe {
        (bytes(parameters.pIv, parameters.ulIvLen), bytes(parameters.pAAD, parameters.ulAADLen))
    };
    let iv = iv.and_then(|iv| iv.try_into().ok()).ok_or(CKR_MECHANISM_PARAM_INVALID)?;
    aad.clear();
    aad.extend_from_slice(given_aad.ok_or(CKR_ARGUMENTS_BAD)?);
    Ok(iv)
}

/// Space for an output, by the convention of PKCS#11 (v2.40, 5.2).
pub struct Output {
    buffer: CK_BYTE_PTR,
    length: CK_ULONG_PTR,
}

/// Answers of [`Output::has_room`].
pub enum Room {
    /// The result can be written.
    Enough,
    /// The call ends with this code, and the operation goes on.
    Return(CK_RV),
}

impl Output {
    /// # Safety
    /// `length` points to a length, and `buffer` is null or has that many writable bytes, while the
    /// output is in use.
    pub unsafe fn new(buffer: CK_BYTE_PTR, length: CK_ULONG_PTR) -> Option<Self> {
        (!length.is_null()).then_some(Self { buffer, length })
    }

    /// Returns whether a result of this size can be written; if not, tells the application the size.
    pub fn has_room(&self, needed: usize) -> Room {
        // SAFETY: by the contract of `new`.
        let length = unsafe { &mut *self.length };
        if !self.buffer.is_null() && usize::try_from(*length).is_ok_and(|room| room >= needed) {
            return Room::Enough;
        }
        *length = needed as CK_ULONG;
        Room::Return(if self.buffer.is_null() { CKR_OK } else { CKR_BUFFER_TOO_SMALL })
    }

    /// Writes the result, if [`Self::has_room`] for it.
    pub fn write(&self, result: &[u8]) {
        if let Room::Enough = self.has_room(result.len()) {
            // SAFETY: by the contract of `new`, and there is room. The result is in memory of ours.
            unsafe {
                ptr::copy_nonoverlapping(result.as_ptr(), self.buffer, result.len());
                *self.length = result.len() as CK_ULONG;
            }
        }
    }
}

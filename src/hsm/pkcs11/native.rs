//! A module's calls in Rust's terms: errors, attributes, sessions.

use cryptoki_sys::*;

use crate::limits::MAX_GCM_IV_BYTES;

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// By the standard's name.
    pub function: &'static str,
    /// `None` if the module has no such function, or was not called.
    pub code: Option<CK_RV>,
}

impl Error {
    /// Tells success from failure.
    ///
    /// # Errors
    /// Any code but CKR_OK.
    pub fn check(function: &'static str, code: CK_RV) -> Result<(), Self> {
        if code == CKR_OK { Ok(()) } else { Err(Self { function, code: Some(code) }) }
    }
}

/// An attribute that an object is looked for by, or is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A boolean.
    Flag(CK_ATTRIBUTE_TYPE, CK_BBOOL),
    /// A number.
    Number(CK_ATTRIBUTE_TYPE, CK_ULONG),
    /// Text or bytes.
    Bytes(CK_ATTRIBUTE_TYPE, Vec<u8>),
}

/// The argument of C_Initialize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// CKF_OS_LOCKING_OK: threads call as they like.
    OsLocking,
    /// The same, with the module's own parameter string.
    Parameters(&'a str),
    /// No locks and no flags: one call at a time.
    NoLocking,
    /// A null pointer, which says the same.
    Null,
}

/// A cryptographic operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawError {
    /// C_EncryptInit or C_DecryptInit: there is no operation.
    Init(CK_RV),
    /// C_Encrypt or C_Decrypt. The operation is over, unless the code is CKR_BUFFER_TOO_SMALL
    /// (PKCS#11 v2.40, 5.2).
    Operation(CK_RV),
    /// The module says that it wrote more than there was room for, or has no such function.
    Malformed,
}

/// `CK_GCM_PARAMS` but for the AAD: the IV's buffer and what is said of it.
pub struct GcmIv {
    /// The IV, or room for the one that the HSM writes.
    pub bytes: [u8; MAX_GCM_IV_BYTES],
    /// `ulIvLen`; at most [`MAX_GCM_IV_BYTES`].
    pub length: u8,
    /// `ulIvBits`
    pub bits: u32,
}

//! Arguments and errors of a module's calls, in Rust types.
//!
//! Calls go through `cryptoki-sys`, the C half of the `cryptoki` crate, because all calls to a
//! module must use one function list: some modules (p11-kit-proxy) return an independent instance
//! from each call of C_GetFunctionList. `cryptoki`'s safe layer fetches its own list, and can
//! neither accept nor provide one; a second list would belong to another instance.

use cryptoki_sys::*;

use crate::limits::MAX_GCM_IV_BYTES;

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Name of the function, as in the standard.
    pub function: &'static str,
    /// Return code; `None` if the module lacks the function or was not called.
    pub code: Option<CK_RV>,
}

impl Error {
    /// Turns a return code into a result.
    ///
    /// # Errors
    /// Returns any code but CKR_OK as an [`Error`].
    pub fn check(function: &'static str, code: CK_RV) -> Result<(), Self> {
        if code == CKR_OK { Ok(()) } else { Err(Self { function, code: Some(code) }) }
    }
}

/// Reason, for the operator, why a file could not be loaded as a PKCS#11 module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub String);

impl std::fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// An attribute of a search template or of a new object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A boolean.
    Flag(CK_ATTRIBUTE_TYPE, CK_BBOOL),
    /// A number.
    Number(CK_ATTRIBUTE_TYPE, CK_ULONG),
    /// Text or bytes.
    Bytes(CK_ATTRIBUTE_TYPE, Vec<u8>),
}

/// Argument of C_Initialize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// CKF_OS_LOCKING_OK is set: any thread may make calls at any time.
    OsLocking,
    /// CKF_OS_LOCKING_OK is set, and a vendor-defined parameter string is passed.
    Parameters(&'a str),
    /// No locks or flags are passed: calls are made one at a time.
    NoLocking,
    /// A null pointer is passed: calls are also made one at a time.
    Null,
}

/// A cryptographic operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawError {
    /// C_EncryptInit or C_DecryptInit failed, so no operation was started.
    Init(CK_RV),
    /// C_Encrypt or C_Decrypt failed, which ends the operation unless the code is
    /// CKR_BUFFER_TOO_SMALL (PKCS#11 v2.40, 5.2).
    Operation(CK_RV),
    /// The module reported more output than fits into the buffer, or lacks the function.
    Malformed,
}

/// The part of `CK_GCM_PARAMS` that describes the IV.
pub struct GcmIv {
    /// The IV, or the buffer into which the HSM writes one.
    pub bytes: [u8; MAX_GCM_IV_BYTES],
    /// `ulIvLen`; at most [`MAX_GCM_IV_BYTES`].
    pub length: u8,
    /// `ulIvBits`
    pub bits: u32,
}

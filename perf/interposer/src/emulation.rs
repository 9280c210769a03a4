//! Ways of other HSMs that the real module does not have.

use cryptoki_sys::{
    CK_FLAGS, CK_RV, CKF_RW_SESSION, CKR_AEAD_DECRYPT_FAILED, CKR_ENCRYPTED_DATA_INVALID,
    CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR,
    CKR_TOKEN_WRITE_PROTECTED,
};
use serde::Deserialize;

use crate::functions::Function;

/// Properties of an HSM to emulate; none by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulation {
    /// Way in which IVs of AES-GCM are made; `None` if the application makes them.
    pub iv: Option<IvMode>,
    /// Return code of C_Decrypt for a bad tag.
    pub bad_tag: Option<CK_RV>,
    /// Return code of C_GenerateKey and C_CreateObject.
    pub no_session_keys: Option<CK_RV>,
    /// There are read-write sessions alone (AWS CloudHSM).
    pub needs_rw: bool,
    /// There are read-only sessions alone.
    pub no_rw_sessions: bool,
}

/// Way in which an HSM hands out the IV that it has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvMode {
    /// In the place of the application's 12 zero bytes, when this function succeeds.
    ZeroedBuffer(WrittenBy),
    /// At the end of the output. Bytes; `None`: as the application's `ulIvBits` says.
    Appended(Option<usize>),
}

/// The function that writes the IV into the application's buffer.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum WrittenBy {
    #[default]
    #[serde(rename = "C_EncryptInit")]
    EncryptInit,
    #[serde(rename = "C_Encrypt")]
    Encrypt,
}

impl Emulation {
    /// Returns the code with which a call of this function is refused without being forwarded.
    pub fn refuses(&self, function: Function) -> Option<CK_RV> {
        match function {
            Function::C_GenerateKey | Function::C_CreateObject => self.no_session_keys,
            _ => None,
        }
    }

    /// Returns the code with which C_OpenSession with these flags is refused without being
    /// forwarded.
    pub fn refuses_session(&self, flags: CK_FLAGS) -> Option<CK_RV> {
        match flags & CKF_RW_SESSION {
            0 if self.needs_rw => Some(CKR_FUNCTION_FAILED),
            0 => None,
            _ if self.no_rw_sessions => Some(CKR_TOKEN_WRITE_PROTECTED),
            _ => None,
        }
    }

    /// Returns the code of C_Decrypt for a `code` of the real module.
    pub fn decrypted(&self, code: CK_RV) -> CK_RV {
        match (code, self.bad_tag) {
            (
                CKR_GENERAL_ERROR
                | CKR_ENCRYPTED_DATA_INVALID
                | CKR_ENCRYPTED_DATA_LEN_RANGE
                | CKR_AEAD_DECRYPT_FAILED,
                Some(bad_tag),
            ) => bad_tag,
            _ => code,
        }
    }
}

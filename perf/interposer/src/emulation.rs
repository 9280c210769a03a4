//! Ways of other HSMs that the real module does not have.

use cryptoki_sys::{
    CK_FLAGS, CK_RV, CKF_RW_SESSION, CKR_AEAD_DECRYPT_FAILED, CKR_ENCRYPTED_DATA_INVALID,
    CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR,
    CKR_TOKEN_WRITE_PROTECTED,
};
use serde::Deserialize;

use crate::functions::Function;

/// What is emulated. By default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulation {
    /// How IVs of AES-GCM are made; `None`: by the application.
    pub iv: Option<IvMode>,
    /// What C_Decrypt says of a bad tag.
    pub bad_tag: Option<CK_RV>,
    /// What C_GenerateKey and C_CreateObject say.
    pub no_session_keys: Option<CK_RV>,
    /// There are read-write sessions alone (AWS CloudHSM).
    pub needs_rw: bool,
    /// There are read-only sessions alone.
    pub no_rw_sessions: bool,
}

/// How an HSM hands out the IV that it has made.
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
    /// What a call of this function returns without being forwarded, if so.
    pub fn refuses(&self, function: Function) -> Option<CK_RV> {
        match function {
            Function::C_GenerateKey | Function::C_CreateObject => self.no_session_keys,
            _ => None,
        }
    }

    /// What C_OpenSession with these flags returns without being forwarded, if so.
    pub fn refuses_session(&self, flags: CK_FLAGS) -> Option<CK_RV> {
        match flags & CKF_RW_SESSION {
            0 if self.needs_rw => Some(CKR_FUNCTION_FAILED),
            0 => None,
            _ if self.no_rw_sessions => Some(CKR_TOKEN_WRITE_PROTECTED),
            _ => None,
        }
    }

    /// What C_Decrypt returns where the real module returned `code`.
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

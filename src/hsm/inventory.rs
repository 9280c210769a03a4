//! What an operator wants to know of the fleet: for the log at start, `check` and `keys`.

use std::path::PathBuf;

use crate::job::KeyAttributes;

/// One token of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenInventory {
    /// The module's path.
    pub module: PathBuf,
    /// C_GetInfo's description, manufacturer and versions; `None` if it would not say.
    pub library: Option<String>,
    /// The slot that the settings chose.
    pub slot: Option<SlotInventory>,
    /// All tokens of the module, the chosen one among them.
    pub slots: Vec<SlotInventory>,
    /// Sessions at the most.
    pub max_sessions: usize,
    /// Why the token cannot be used, if it can't.
    pub trouble: Option<String>,
    /// The AES keys that it holds, in its own order.
    pub keys: Vec<KeyInventory>,
    /// Configured labels that no AES key has, in the order of the settings.
    pub missing: Vec<Box<str>>,
    /// Configured labels that several keys have, and how many.
    pub ambiguous: Vec<(Box<str>, u32)>,
}

/// A slot with a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotInventory {
    /// `CK_SLOT_ID`
    pub id: u64,
    /// `CK_TOKEN_INFO.label`, trimmed.
    pub label: String,
    /// `CK_TOKEN_INFO.serialNumber`, trimmed.
    pub serial: String,
    /// `CK_TOKEN_INFO.model`, trimmed.
    pub model: String,
    /// `CK_TOKEN_INFO.manufacturerID`, trimmed.
    pub manufacturer: String,
    /// `CK_TOKEN_INFO.firmwareVersion`
    pub firmware: String,
    /// `CK_TOKEN_INFO.hardwareVersion`
    pub hardware: String,
    /// CKF_TOKEN_INITIALIZED
    pub is_initialized: bool,
    /// CKF_LOGIN_REQUIRED
    pub login_required: bool,
    /// CKF_USER_PIN_LOCKED
    pub is_pin_locked: bool,
    /// Sessions that this process has open, if the token says.
    pub sessions: Option<u64>,
}

/// An AES key of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInventory {
    /// `CKA_LABEL`
    pub label: Box<str>,
    /// Size and permitted uses.
    pub attributes: KeyAttributes,
    /// CKA_PRIVATE; `None` if the token does not tell.
    pub is_private: Option<bool>,
    /// Whether the settings name the label.
    pub is_configured: bool,
    /// AES keys of this token that have the label and are as good as each other: public ones do not
    /// count beside private ones.
    pub keys_of_label: u32,
}

//! The fleet's inventory, as shown to an operator: in the log at start, and by `check` and `keys`.

use std::path::PathBuf;

use super::key_date::KeyDate;
use crate::job::KeyAttributes;

/// One token of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenInventory {
    /// Path of the module.
    pub module: PathBuf,
    /// Description, manufacturer and versions from C_GetInfo; `None` if it failed.
    pub library: Option<String>,
    /// The slot selected by the settings.
    pub slot: Option<SlotInventory>,
    /// All slots of the module that have a token, including the selected one.
    pub slots: Vec<SlotInventory>,
    /// Maximum number of sessions.
    pub max_sessions: usize,
    /// Reason why the token cannot be used; `None` if it can.
    pub trouble: Option<String>,
    /// The token's AES keys, in the order in which the token lists them.
    pub keys: Vec<KeyInventory>,
    /// Configured names that no AES key has, in the order of the settings (see
    /// [`crate::key_name`]).
    pub missing: Vec<Box<str>>,
    /// Configured names that several keys have, with the number of keys.
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
    /// Number of sessions that this process has open, if the token reports it.
    pub sessions: Option<u64>,
}

/// An AES key of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInventory {
    /// Its handle in the session of the inventory.
    pub handle: u64,
    /// `CKA_LABEL`
    pub label: Box<str>,
    /// `CKA_ID`; empty if the key has none or one that is too long to name it.
    pub id: Vec<u8>,
    /// The configured names that it has: several if the settings name it by label and by CKA_ID.
    pub names: Vec<Box<str>>,
    /// Size and permitted uses.
    pub attributes: KeyAttributes,
    /// CKA_PRIVATE; `None` if the token does not report it.
    pub is_private: Option<bool>,
    /// Number of the token's AES keys that the label may refer to. If some are private, public keys
    /// are not counted.
    pub keys_of_label: u32,
    /// Its details, if the inventory was taken with them.
    pub details: Option<KeyDetails>,
}

/// The attributes of a key that an auditor asks for. `None` stands for an attribute that the token
/// does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyDetails {
    /// CKA_PRIVATE
    pub private: Option<bool>,
    /// CKA_SENSITIVE
    pub sensitive: Option<bool>,
    /// CKA_ALWAYS_SENSITIVE
    pub always_sensitive: Option<bool>,
    /// CKA_EXTRACTABLE
    pub extractable: Option<bool>,
    /// CKA_NEVER_EXTRACTABLE
    pub never_extractable: Option<bool>,
    /// CKA_LOCAL: the key was generated on a token, and not imported.
    pub local: Option<bool>,
    /// CKA_ENCRYPT
    pub encrypt: Option<bool>,
    /// CKA_DECRYPT
    pub decrypt: Option<bool>,
    /// CKA_SIGN
    pub sign: Option<bool>,
    /// CKA_VERIFY
    pub verify: Option<bool>,
    /// CKA_WRAP
    pub wrap: Option<bool>,
    /// CKA_UNWRAP
    pub unwrap: Option<bool>,
    /// CKA_DERIVE
    pub derive: Option<bool>,
    /// CKA_START_DATE
    pub start_date: KeyDate,
    /// CKA_END_DATE
    pub end_date: KeyDate,
}

impl KeyDetails {
    /// Returns the names of the permitted uses, with whether each is permitted.
    #[must_use]
    pub fn uses(&self) -> [(&'static str, Option<bool>); 7] {
        [
            ("encrypt", self.encrypt),
            ("decrypt", self.decrypt),
            ("sign", self.sign),
            ("verify", self.verify),
            ("wrap", self.wrap),
            ("unwrap", self.unwrap),
            ("derive", self.derive),
        ]
    }

    /// Returns the names of the permitted uses that the proxy does not need.
    #[must_use]
    pub fn surplus_uses(&self) -> Vec<&'static str> {
        let is_surplus = |(name, is_permitted): &(&str, Option<bool>)| {
            *is_permitted == Some(true) && !matches!(*name, "encrypt" | "decrypt")
        };
        self.uses().into_iter().filter(is_surplus).map(|(name, _)| name).collect()
    }
}

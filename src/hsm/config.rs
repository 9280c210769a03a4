//! What the HSM side is started with.

use std::path::PathBuf;

use crate::observe::redaction::Secret;

/// The whole fleet.
#[derive(Clone, Debug)]
pub struct Config {
    /// In the order of [`crate::job::TokenIndex`]; at least one.
    pub tokens: Vec<TokenConfig>,
    /// `CKA_LABEL`s that jobs may name, in the order of [`crate::job::KeyIndex`].
    pub labels: Vec<Box<str>>,
    /// A label that fits several keys means the first of them, as in the reference proxy.
    pub allow_ambiguous_labels: bool,
}

/// One token.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The PKCS#11 module's path.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub select: TokenSelector,
    /// PIN, passphrase of a card set, or "user:password" (AWS CloudHSM). May be empty.
    pub user_pin: Secret<String>,
    /// Sessions at the most, at least one.
    pub max_sessions: usize,
    /// Where IVs come from.
    pub iv_mode: IvMode,
    /// For C_Initialize (`CK_C_INITIALIZE_ARGS`, the reserved pointer): NSS softokn takes
    /// "configdir='sql:...' certPrefix='' keyPrefix='' secmod='secmod.db' flags=...". Nothing
    /// else does.
    pub initialize_parameters: Option<String>,
}

/// Names a token of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSelector {
    /// The first slot with an initialised token.
    #[default]
    First,
    /// `CK_TOKEN_INFO.label`
    Label(String),
    /// `CK_TOKEN_INFO.serialNumber`
    Serial(String),
    /// `CK_SLOT_ID`
    Slot(u64),
}

/// `[hsm_capabilities]` `can_generate_iv`, `is_zero_iv_required`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvMode {
    /// 12 bytes from C_GenerateRandom (SoftHSM2).
    Random,
    /// A zeroed 12-byte buffer that the HSM overwrites (AWS CloudHSM, nShield).
    ZeroedBuffer,
    /// None given; the HSM appends it to the output, after the tag (Thales Luna).
    Appended,
}

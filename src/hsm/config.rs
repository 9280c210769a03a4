//! Configuration of the HSM side.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::usage::Usage;
use super::witness::Witnesses;
use crate::job::KeyIndex;
use crate::limits::DEFAULT_HEDGE_BUDGET_PERCENT;
use crate::observe::redaction::Secret;

/// Configuration of the fleet.
#[derive(Clone)]
pub struct Config {
    /// The tokens, at least one, in the order of [`crate::job::TokenIndex`].
    pub tokens: Vec<TokenConfig>,
    /// `CKA_LABEL`s of the keys that jobs may use, in the order of [`crate::job::KeyIndex`].
    pub labels: Vec<Box<str>>,
    /// True if a label that several keys share stands for the first of them, as in the reference
    /// proxy.
    pub allow_ambiguous_labels: bool,
    /// True if a key that is not a private object is ignored.
    pub require_private_keys: bool,
    /// The key that health checks and known-good operations use, on tokens that have it.
    pub health_key: Option<KeyIndex>,
    /// Keys in `labels` that no store uses: the health key and the audit log's key.
    pub storeless_keys: Vec<KeyIndex>,
    /// The condition for repeating a slow call on another session.
    pub hedging: Hedging,
    /// The witnesses with which tokens prove that they hold the same keys.
    pub witnesses: Arc<Witnesses>,
    /// The counters of the keys' uses.
    pub usage: Arc<Usage>,
}

/// The settings `hedge_after_milli` and `hedge_budget_percent` of `[pkcs11]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// Duration after which a slow call is repeated on another session.
    pub after: HedgeAfter,
    /// Maximum percentage of calls that are repeated, over time.
    pub budget_percent: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { after: HedgeAfter::Automatic, budget_percent: DEFAULT_HEDGE_BUDGET_PERCENT }
    }
}

/// The setting `hedge_after_milli` of `[pkcs11]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// The duration is derived from the recent latency of the fleet's best token.
    Automatic,
    /// The duration is fixed.
    Fixed(Duration),
    /// Slow calls are never repeated.
    Off,
}

/// Configuration of one token.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Path of the PKCS#11 module.
    pub module: PathBuf,
    /// Selects the token among those of the module.
    pub select: TokenSelector,
    /// PIN, passphrase of a card set, or "user:password" (AWS CloudHSM). May be empty.
    pub user_pin: Secret<String>,
    /// Maximum number of sessions, at least one.
    pub max_sessions: usize,
    /// Weight that determines the token's share of the work, at least 1.
    pub weight: u32,
    /// Priority; tokens with a higher number are standbys. They get jobs only if no token with a
    /// lower number is usable and working, and second attempts at slow calls.
    pub priority: u32,
    /// Source of the IVs.
    pub iv_mode: IvMode,
    /// Other properties of this make of HSM.
    pub rules: Rules,
    /// Parameter of C_Initialize (`CK_C_INITIALIZE_ARGS`, the reserved pointer). Only NSS softokn
    /// uses one: "configdir='sql:...' certPrefix='' keyPrefix='' secmod='secmod.db' flags=...".
    pub initialize_parameters: Option<String>,
}

/// Selects a token of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSelector {
    /// The first slot with an initialized token.
    #[default]
    First,
    /// The token with this `CK_TOKEN_INFO.label`.
    Label(String),
    /// The token with this `CK_TOKEN_INFO.serialNumber`.
    Serial(String),
    /// The slot with this `CK_SLOT_ID`.
    Slot(u64),
}

/// The source of IVs: the settings `can_generate_iv` and `is_zero_iv_required` of
/// `[hsm_capabilities]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvMode {
    /// The proxy makes the IV: 12 bytes from C_GenerateRandom (SoftHSM2).
    Random,
    /// The HSM makes the IV, and writes it into a zeroed 12-byte buffer (AWS CloudHSM, nShield).
    ZeroedBuffer,
    /// The HSM makes the IV, and appends it to the output, after the tag (Thales Luna).
    Appended,
}

/// The way in which a module must be called for AES-GCM. The default takes as few calls as
/// possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcmForm {
    /// True if the module must be asked for the output's length first, which takes one more call
    /// per operation.
    pub asks_length: bool,
    /// True if the module accepts only the `CK_GCM_PARAMS` without `ulIvBits` of the first PKCS#11
    /// v2.40.
    pub has_no_iv_bits: bool,
}

/// Properties of a make of HSM. The default makes no assumptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The codes that this HSM returns for a bad tag, among those that can also mean that the
    /// device is in trouble. After one of them, a known-good operation decides; any other such code
    /// means trouble. With `None`, each such code may mean a bad tag. (Codes that can only mean a
    /// bad tag need not be listed.)
    pub bad_tag_codes: Option<&'static [u64]>,
    /// The largest plaintext of one operation, in bytes.
    pub max_operation_bytes: Option<usize>,
    /// True if the HSM allows read-write sessions only: a refused one is not tried again read-only.
    pub is_read_write_only: bool,
    /// The way in which the HSM's module must be called for AES-GCM.
    pub form: GcmForm,
    /// `ulIvBits` for an HSM that appends the IV; 0 stands for the default, 96. Otherwise
    /// `ulIvBits` is 8 x `ulIvLen`.
    pub appended_iv_bits: u32,
    /// True if the HSM makes IVs by the deterministic construction (NIST SP 800-38D, 8.2.1), so that
    /// no two can be the same.
    pub makes_deterministic_ivs: bool,
    /// True if the handle of an object is valid only in the session that found it, so that each
    /// session searches for the keys that it uses.
    pub has_handles_of_sessions: bool,
}

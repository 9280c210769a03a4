//! What the HSM side is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::witness::Witnesses;
use crate::job::KeyIndex;
use crate::limits::DEFAULT_HEDGE_BUDGET_PERCENT;
use crate::observe::redaction::Secret;

/// The whole fleet.
#[derive(Clone)]
pub struct Config {
    /// In the order of [`crate::job::TokenIndex`]; at least one.
    pub tokens: Vec<TokenConfig>,
    /// `CKA_LABEL`s that jobs may name, in the order of [`crate::job::KeyIndex`].
    pub labels: Vec<Box<str>>,
    /// A label that fits several keys means the first of them, as in the reference proxy.
    pub allow_ambiguous_labels: bool,
    /// A key that is no private object is as good as absent.
    pub require_private_keys: bool,
    /// The key that health checks and known-good operations use, on tokens that have it.
    pub health_key: Option<KeyIndex>,
    /// Keys among `labels` that no store names: the health key, the audit log's.
    pub storeless_keys: Vec<KeyIndex>,
    /// When a slow call is made a second time, elsewhere.
    pub hedging: Hedging,
    /// By which tokens show that they hold the same keys.
    pub witnesses: Arc<Witnesses>,
}

/// `[pkcs11]` `hedge_after_milli`, `hedge_budget_percent`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// A call that lasts longer is also sent to another session.
    pub after: HedgeAfter,
    /// How many calls in a hundred may be, over time.
    pub budget_percent: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { after: HedgeAfter::Automatic, budget_percent: DEFAULT_HEDGE_BUDGET_PERCENT }
    }
}

/// `[pkcs11] hedge_after_milli`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// By what the fleet's best token took lately.
    Automatic,
    /// Always the same.
    Fixed(Duration),
    /// Never.
    Off,
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
    /// Its share of the work, beside the other tokens' weights; at least 1.
    pub weight: u32,
    /// Tokens of a higher number are standbys: they get jobs when none of a lower one is usable and
    /// gets on, and second attempts.
    pub priority: u32,
    /// Where IVs come from.
    pub iv_mode: IvMode,
    /// What else is known of this make of HSM.
    pub rules: Rules,
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

/// How a module wants AES-GCM called; by default in as few calls as it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcmForm {
    /// It wants to be asked for the output's length first: one call more each time.
    pub asks_length: bool,
    /// It knows `CK_GCM_PARAMS` without `ulIvBits` alone, as PKCS#11 v2.40 had it first.
    pub has_no_iv_bits: bool,
}

/// What a make of HSM does differently. The default takes nothing for granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which of the codes that can also mean a device in trouble this HSM gives for a bad tag.
    /// After one of these, a known-good operation tells; any other is trouble at once. `None`:
    /// each of them may be a bad tag. (Codes that mean nothing else need not be named.)
    pub bad_tag_codes: Option<&'static [u64]>,
    /// The largest plaintext of one operation, in bytes.
    pub max_operation_bytes: Option<usize>,
    /// It has read-write sessions only: a refused one is not tried again read-only.
    pub is_read_write_only: bool,
    /// How its module wants AES-GCM called.
    pub form: GcmForm,
    /// `ulIvBits` where the HSM makes the IV and appends it; 0 stands for the default, 96. In all
    /// other cases it is 8 x `ulIvLen`.
    pub appended_iv_bits: u32,
}

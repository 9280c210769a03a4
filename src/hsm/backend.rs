//! The interface through which the queue and the workers use a token, independent of PKCS#11.

use crate::job::{Failure, KeyAttributes, KeyIndex, Operation, Request, Success};

use super::inventory::TokenInventory;
use super::key_date::Date;

/// A token with which sessions can be opened. Calls may block for as long as the HSM does, unless
/// stated otherwise.
pub trait Backend: Send + Sync {
    /// Opens a session and logs in.
    ///
    /// # Errors
    /// Returns [`OpenError`] if no session could be opened.
    fn open(&self) -> Result<Box<dyn Session>, OpenError>;

    /// Returns whether the token had the key when it was last listed; true if it has not been
    /// listed yet. Never blocks on the token.
    fn has_key(&self, key: KeyIndex) -> bool;

    /// Returns the key's status: whether it is known to be the same as on the other tokens. A key
    /// that may not be used in that direction counts as absent. Never blocks on the token.
    fn key_status(&self, key: KeyIndex, _direction: Option<Direction>) -> KeyStatus {
        if self.has_key(key) { KeyStatus::Proven } else { KeyStatus::Absent }
    }

    /// Returns whether an unproven key cannot be proven now, because it may not decrypt or was
    /// tried a moment ago.
    fn is_untestable(&self, _key: KeyIndex) -> bool {
        false
    }

    /// Returns the index of the key with that label, if requests may use it.
    fn index_of(&self, _label: &str) -> Option<KeyIndex> {
        None
    }

    /// Returns the keys that the token has and whose status is not [`KeyStatus::Proven`].
    fn not_proven(&self) -> NotProven {
        NotProven::default()
    }

    /// Returns whether tokens disagree about the key and it is undecided which token is right.
    fn is_disputed(&self, _key: KeyIndex) -> bool {
        false
    }

    /// Returns whether the settings trust this token when tokens disagree.
    fn is_trusted(&self) -> bool {
        false
    }

    /// Returns whether the token has keys that stores use and `is_out` reports all of them out of
    /// use, in every direction that their attributes allow.
    fn serves_no_key(&self, _is_out: &dyn Fn(KeyIndex, Direction) -> bool) -> bool {
        false
    }

    /// Returns the key's `CKA_LABEL`.
    fn label_of(&self, key: KeyIndex) -> String {
        format!("#{}", key.0)
    }

    /// Returns whether the keys should be listed early, because a handle was found to be stale.
    /// Clears the flag.
    fn take_stale(&self) -> bool;

    /// Replaces the list of key labels by a longer one. `labels` are all labels, in the order of
    /// [`KeyIndex`]; existing ones keep their index. Never blocks on the token.
    fn extend_labels(&self, _labels: &[Box<str>]) {}

    /// Returns whether keys with new labels have not been listed yet.
    fn has_new_labels(&self) -> bool {
        false
    }

    /// Returns the token's identity, as far as it is known. Never blocks on the token.
    fn identity(&self) -> Identity;

    /// Returns the number of keys that have disappeared while it is not yet known whether they were
    /// deleted or the token is in trouble.
    fn missed_keys(&self) -> usize {
        0
    }

    /// Initializes the token's module again, as the last step of recovery, if none of its tokens
    /// has a session left and no call is outstanding. The backend enforces the intervals between
    /// initializations, which grow up to [`crate::limits::MAX_REINITIALIZE_WAIT`], so this is
    /// called in every failed round. Returns whether the module was initialized.
    fn reinitialize(&self) -> bool;

    /// Returns the return codes of failures since the start, by name, with their counts. Codes that
    /// never occurred are left out.
    fn failure_codes(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Returns the number of encryptions since the start whose verifying decryption did not return
    /// the plaintext.
    fn cdiv_mismatches(&self) -> u64;

    /// Returns the names and end dates (CKA_END_DATE) of up to `max` keys that have one, the
    /// earliest first, as of the last listing. Never blocks on the token.
    fn end_dates(&self, _max: usize) -> Vec<(Box<str>, Date)> {
        Vec::new()
    }

    /// Opens a session and takes an inventory of the token for an operator.
    fn inventory(&self) -> TokenInventory;

    /// Opens a session and searches for keys by name. The answers are in the order of `names`.
    ///
    /// # Errors
    /// Returns the reason why the token cannot be searched.
    fn search(&self, _names: &[Box<str>]) -> Result<Vec<Option<FoundKey>>, String> {
        Err("it cannot be searched".to_owned())
    }

    /// Takes an inventory with the details of each key, in at least one more call for each.
    fn detailed_inventory(&self) -> TokenInventory {
        self.inventory()
    }

    /// Releases the module, unless a call is outstanding. All sessions must have been closed.
    fn close(&self);
}

/// The key that a token has under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundKey {
    /// Size and permitted uses.
    pub attributes: KeyAttributes,
    /// Several keys have the name, and the settings do not allow that.
    pub is_ambiguous: bool,
}

/// A session. Dropping it closes it.
pub trait Session {
    /// Performs an operation. `output` must be empty before the call, and is empty after an error.
    ///
    /// # Errors
    /// Returns [`Fault`] if the operation failed.
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault>;

    /// Checks whether the token works, using the health key, a session key, or configured keys that
    /// `keys` admits.
    ///
    /// # Errors
    /// Returns [`Fault`] if it does not.
    fn check_health(&mut self, keys: &dyn KeyChoice) -> Result<Health, Fault>;

    /// Performs a known-good operation, in the session where an operation has just failed, with a
    /// key other than the one that failed.
    fn known_good(&mut self, _failed: Failed, _keys: &dyn KeyChoice) -> Evidence {
        Evidence::Unavailable
    }

    /// Performs a known-good operation with one of the configured keys.
    fn try_configured_key(&mut self, _keys: &dyn KeyChoice) -> Evidence {
        Evidence::Unavailable
    }

    /// Performs a known-good operation with that key in that direction.
    fn try_key(&mut self, _key: KeyIndex, _direction: Direction) -> Evidence {
        Evidence::Unavailable
    }

    /// Proves the next unproven key that can be proven now, with its witness, or by making one if
    /// `may_make` allows it. Returns `None` if there is no such key.
    fn prove_next(
        &mut self,
        _may_make: &dyn Fn(KeyIndex) -> bool,
        _keys: &dyn KeyChoice,
    ) -> Option<Proof> {
        None
    }

    /// Proves that key, or makes its witness if there is none.
    fn prove(&mut self, _key: KeyIndex) -> Proof {
        Proof::Absent
    }

    /// Records that a failure is attributed to the session or the token, so that state shared by
    /// the token's sessions, such as handles, may be invalid.
    fn on_broken(&mut self, _fault: &Fault) {}

    /// Checks whether the token itself reports that it is present.
    ///
    /// # Errors
    /// Returns [`Fault`] if it does not, or [`Fault::KEYS_MISSED`] if its keys are missing.
    fn token_is_present(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Lists the token's keys.
    ///
    /// # Errors
    /// Returns [`Fault`] if listing failed, or [`Fault::KEYS_MISSED`] if keys have disappeared.
    fn refresh_keys(&mut self) -> Result<(), Fault>;
}

/// The degree to which a token's key is known to be the same as on the other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStatus {
    /// The token decrypted the key's witness, or made it.
    Proven,
    /// The token will be tested with the key's witness before its next encryption.
    Provable,
    /// There is no witness, the key could not be tested with it, or the token has not been searched
    /// for the key yet.
    Unproven,
    /// The key differs: it does not decrypt the witness.
    Disagrees,
    /// The token does not have the key, or may not use it in that direction.
    Absent,
}

/// The keys of a token that are not proven to be the same as the other tokens' keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotProven {
    /// Number of unproven keys, including those that have not been searched for yet.
    pub unproven: usize,
    /// Labels of the keys that disagree.
    pub disagreeing: Vec<Box<str>>,
}

/// The result of an attempt to prove a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The token decrypts the key's witness.
    Agrees,
    /// There was no witness, and the token made it.
    Made,
    /// The token holds a different key under this label.
    Disagrees,
    /// Tokens disagree, and no witness decides which one is right.
    Disputed,
    /// The key could not be tested, for the given reason.
    Unproven(String),
    /// The token does not have the key.
    Absent,
}

/// The direction in which a key is used. A key may work in one direction only; for example, an
/// expired key often still decrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// C_Encrypt, including the C_Decrypt that verifies its output.
    Encrypt,
    /// C_Decrypt for a request.
    Decrypt,
}

impl Direction {
    /// Returns the direction of an operation; `None` if it only reads the key's attributes.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<Self> {
        match operation {
            Operation::Describe => None,
            Operation::Encrypt { .. } => Some(Self::Encrypt),
            Operation::Decrypt { .. } => Some(Self::Decrypt),
        }
    }

    /// Returns the opposite direction.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Encrypt => Self::Decrypt,
            Self::Decrypt => Self::Encrypt,
        }
    }

    /// Returns the name for logs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

/// A key and the direction in which it is used.
pub type KeyUse = (KeyIndex, Direction);

/// The key and direction of a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The key.
    pub key: KeyIndex,
    /// The direction; `None` if only the attributes were read.
    pub direction: Option<Direction>,
}

/// Selects configured keys for known-good operations, and is notified of each one used.
pub trait KeyChoice {
    /// Returns whether the key may be used, that is, whether it is not failing itself.
    fn may_use(&self, key: KeyIndex) -> bool;

    /// Records that an operation with this key begins; `None` stands for a session key.
    fn uses(&self, _key: Option<KeyIndex>) {}
}

/// Admits every key.
pub struct AnyKey;

impl KeyChoice for AnyKey {
    fn may_use(&self, _: KeyIndex) -> bool {
        true
    }
}

/// The result of a known-good operation with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The operation succeeded in the session that had just failed.
    Passed,
    /// The operation failed as well.
    Failed,
    /// There is no other key to try.
    Unavailable,
}

impl Evidence {
    /// Combines two results. One success suffices, and a failure outweighs the lack of a result.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Passed, _) | (_, Self::Passed) => Self::Passed,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Unavailable, Self::Unavailable) => Self::Unavailable,
        }
    }
}

/// The result of a successful health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The token works.
    Good,
    /// The token does not encrypt in the configured way; the text gives the reason and the remedy.
    /// Existing ciphertexts may still decrypt.
    CannotEncrypt(String),
}

/// The reason why no session could be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A later attempt may succeed.
    Unavailable(String),
    /// The token allows no more sessions; those that are open remain usable.
    TooManySessions(String),
    /// The PIN was refused. HSMs lock after a few wrong PINs, so it is not tried again until the
    /// token is unlocked, an operator allows it, or the settings change.
    PinRefused(String),
    /// The token permanently lacks something that the proxy needs.
    Unfit(String),
}

impl OpenError {
    /// Returns the reason, for the operator.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unavailable(reason)
            | Self::TooManySessions(reason)
            | Self::PinRefused(reason)
            | Self::Unfit(reason) => reason,
        }
    }
}

/// A failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The answer to the request, unless another attempt succeeds.
    pub failure: Failure,
    /// The party to blame.
    pub blame: Blame,
}

/// The party to blame for a failure, which determines the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request itself: the failure is its answer.
    Request,
    /// Probably the ciphertext: a known-good operation succeeded in the same session. But the
    /// token's return code may also mean trouble, so the request is tried again before this failure
    /// becomes its answer.
    Suspect,
    /// The key: this token lacks it, but another may have it.
    Key,
    /// The token, which was too busy or computed a wrong result. The session works; the request may
    /// be tried again.
    Busy,
    /// The session: it is unusable; the request may be tried again on another session.
    Session,
    /// The token, and therefore the session too.
    Token,
}

impl Fault {
    /// Keys have disappeared, perhaps because the token is in trouble. KMS receives the answer that
    /// the HSM is unavailable until it is known that the keys were deleted.
    pub const KEYS_MISSED: Self = Self { failure: Failure::NoToken, blame: Blame::Token };

    /// Creates a fault for which the request itself is to blame.
    #[must_use]
    pub const fn answer(failure: Failure) -> Self {
        Self { failure, blame: Blame::Request }
    }

    /// Returns whether the session must be closed.
    #[must_use]
    pub const fn breaks_session(&self) -> bool {
        matches!(self.blame, Blame::Session | Blame::Token)
    }
}

/// Identity of a token. Each string is printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Serial number; if there is none, the label; if that is unknown, the name in the settings.
    pub id: String,
    /// `CK_TOKEN_INFO.label`
    pub label: String,
    /// Model with firmware and hardware version.
    pub model: String,
    /// `CK_TOKEN_INFO.manufacturerID`
    pub manufacturer: String,
}

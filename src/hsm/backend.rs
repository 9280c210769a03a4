//! What the queue and the workers know of a token: nothing of PKCS#11.

use crate::job::{Failure, KeyIndex, Operation, Request, Success};

use super::inventory::TokenInventory;

/// A token that sessions can be opened with. Calls may block, for as long as the HSM likes.
pub trait Backend: Send + Sync {
    /// Opens a session that is logged in.
    ///
    /// # Errors
    /// [`OpenError`]
    fn open(&self) -> Result<Box<dyn Session>, OpenError>;

    /// Whether the token had the key when it was last listed; true if it was not listed yet. Never
    /// blocks on the token.
    fn has_key(&self, key: KeyIndex) -> bool;

    /// Whether the token's key of that label is known to be the same as the others'. A key that may
    /// not be used in that direction is as good as absent. Never blocks on the token.
    fn key_status(&self, key: KeyIndex, _direction: Option<Direction>) -> KeyStatus {
        if self.has_key(key) { KeyStatus::Proven } else { KeyStatus::Absent }
    }

    /// Whether a key that is unproven cannot be proven at present, as far as is known: it may not
    /// decrypt, or was tried a moment ago.
    fn is_untestable(&self, _key: KeyIndex) -> bool {
        false
    }

    /// The key of that label, if requests may name it.
    fn index_of(&self, _label: &str) -> Option<KeyIndex> {
        None
    }

    /// Keys of the token whose standing is not [`KeyStatus::Proven`], and that it has.
    fn not_proven(&self) -> NotProven {
        NotProven::default()
    }

    /// Whether tokens disagree about the key, and nobody knows which is right.
    fn is_disputed(&self, _key: KeyIndex) -> bool {
        false
    }

    /// Whether the settings trust this token where tokens disagree.
    fn is_trusted(&self) -> bool {
        false
    }

    /// Whether all keys of the stores that the token has, of which there is at least one, are out
    /// of use by `is_out`, in each direction that their attributes allow.
    fn serves_no_key(&self, _is_out: &dyn Fn(KeyIndex, Direction) -> bool) -> bool {
        false
    }

    /// The `CKA_LABEL` of the key.
    fn label_of(&self, key: KeyIndex) -> String {
        format!("#{}", key.0)
    }

    /// Whether the keys should be listed again before the next regular time: a handle was found
    /// stale. Asking clears it.
    fn take_stale(&self) -> bool;

    /// Jobs may name more keys from now on: `labels` are all that there are, in the order of
    /// [`KeyIndex`]; those that were known keep their places. Never blocks on the token.
    fn extend_labels(&self, _labels: &[Box<str>]) {}

    /// Whether keys of such labels have not been listed yet.
    fn has_new_labels(&self) -> bool {
        false
    }

    /// Who the token is, as far as it ever said. Never blocks on the token.
    fn identity(&self) -> Identity;

    /// How many keys that were there are missed: it is not known yet whether they were deleted or
    /// the token is in trouble.
    fn missed_keys(&self) -> usize {
        0
    }

    /// The last rung of recovery: initialises the token's module anew if no session of any of its
    /// tokens is left and no call is outstanding, after waits that grow up to
    /// [`crate::limits::MAX_REINITIALIZE_WAIT`]. To be called in each round that failed.
    /// Says whether it was done.
    fn reinitialize(&self) -> bool;

    /// The codes of failure that the token's module gave, by name, and how often each came since
    /// the start. Those that never came are left out.
    fn failure_codes(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Encryptions so far whose verifying decryption did not give the plaintext again.
    fn cdiv_mismatches(&self) -> u64;

    /// Opens a session and lists all that an operator wants to know. Blocks.
    fn inventory(&self) -> TokenInventory;

    /// No session is left; what the backend holds is given back, unless a call is outstanding.
    fn close(&self);
}

/// One session. Dropping it closes it.
pub trait Session {
    /// Does what is asked. `output` comes empty, and is empty after an error.
    ///
    /// # Errors
    /// [`Fault`]
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault>;

    /// Finds out whether the token works, with the health key, a key of the session's own, or
    /// configured keys that `keys` admits.
    ///
    /// # Errors
    /// [`Fault`]
    fn check_health(&mut self, keys: &dyn KeyChoice) -> Result<Health, Fault>;

    /// Does a known-good operation with another key than the one that has just failed in this
    /// session.
    fn known_good(&mut self, _failed: Failed, _keys: &dyn KeyChoice) -> Evidence {
        Evidence::Unavailable
    }

    /// Does a known-good operation with one of the keys that requests name.
    fn try_configured_key(&mut self, _keys: &dyn KeyChoice) -> Evidence {
        Evidence::Unavailable
    }

    /// Does a known-good operation with that key, in that direction.
    fn try_key(&mut self, _key: KeyIndex, _direction: Direction) -> Evidence {
        Evidence::Unavailable
    }

    /// Proves a key that has not been proven, if there is one to be proven now: by its witness, or
    /// by making one, if `may_make` it. `None` if there is none.
    fn prove_next(
        &mut self,
        _may_make: &dyn Fn(KeyIndex) -> bool,
        _keys: &dyn KeyChoice,
    ) -> Option<Proof> {
        None
    }

    /// Proves that key, or makes its witness.
    fn prove(&mut self, _key: KeyIndex) -> Proof {
        Proof::Absent
    }

    /// Takes in that this failure is held to be the session's or the token's: what the token's
    /// sessions share, such as handles, may be of no use any more.
    fn on_broken(&mut self, _fault: &Fault) {}

    /// Finds out whether the token itself says that it is there.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::KEYS_MISSED`]: and its keys are not.
    fn token_is_present(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Lists the token's keys.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::KEYS_MISSED`]: keys that were there are not.
    fn refresh_keys(&mut self) -> Result<(), Fault>;
}

/// How far a token's key is known to be the same as the key of that label on the other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStatus {
    /// It has decrypted the key's witness, or made it.
    Proven,
    /// It will be tried by the key's witness before the next encryption.
    Provable,
    /// There is no witness, it could not be tried by that, or it was not looked for yet.
    Unproven,
    /// It is another key: it does not decrypt the witness.
    Disagrees,
    /// The token does not have it, or not for that use.
    Absent,
}

/// Keys of a token that are not proven to be the same as the other tokens'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotProven {
    /// How many are unproven; those that have not been looked for yet count.
    pub unproven: usize,
    /// Labels of those that disagree.
    pub disagreeing: Vec<Box<str>>,
}

/// The outcome of an attempt to prove a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The token decrypts the key's witness.
    Agrees,
    /// There was no witness: the token has made it.
    Made,
    /// The token holds another key under this label.
    Disagrees,
    /// Tokens disagree, and no witness says which one is right.
    Disputed,
    /// It could not be tried; why.
    Unproven(String),
    /// The token does not have the key.
    Absent,
}

/// The use that is made of a key. A key may serve one direction and not the other: an expired one
/// often still decrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// C_Encrypt, and the C_Decrypt that verifies it.
    Encrypt,
    /// C_Decrypt of a request's own.
    Decrypt,
}

impl Direction {
    /// The direction of a request; `None` if it only reads the key's attributes.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<Self> {
        match operation {
            Operation::Describe => None,
            Operation::Encrypt { .. } => Some(Self::Encrypt),
            Operation::Decrypt { .. } => Some(Self::Decrypt),
        }
    }

    /// The opposite one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Encrypt => Self::Decrypt,
            Self::Decrypt => Self::Encrypt,
        }
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

/// A key and the direction that it is used in.
pub type KeyUse = (KeyIndex, Direction);

/// Which key has failed, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The key.
    pub key: KeyIndex,
    /// `None` if only its attributes were asked for.
    pub direction: Option<Direction>,
}

/// Chooses among the configured keys for known-good operations, and hears of each that is used.
pub trait KeyChoice {
    /// Whether the key may be used: it has not been failing itself.
    fn may_use(&self, key: KeyIndex) -> bool;

    /// An operation begins with this key; `None`: with one of the session's own.
    fn uses(&self, _key: Option<KeyIndex>) {}
}

/// The choice that admits every key.
pub struct AnyKey;

impl KeyChoice for AnyKey {
    fn may_use(&self, _: KeyIndex) -> bool {
        true
    }
}

/// The outcome of the known-good operation with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It succeeded in the session that had just failed.
    Passed,
    /// It failed as well.
    Failed,
    /// There is no other key to try it with.
    Unavailable,
}

impl Evidence {
    /// Both together: one success is enough, and a failure tells more than nothing.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Passed, _) | (_, Self::Passed) => Self::Passed,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Unavailable, Self::Unavailable) => Self::Unavailable,
        }
    }
}

/// What a health check found of a token that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Good,
    /// It does not encrypt, as it is asked to; why, and what to do about it, for the operator.
    /// What was encrypted before it may well decrypt.
    CannotEncrypt(String),
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It may work later.
    Unavailable(String),
    /// The token has no more sessions to give; those that are open go on.
    TooManySessions(String),
    /// The PIN was refused, and HSMs lock after a few wrong ones: it is not tried again before the
    /// token is unlocked, an operator says so, or the settings have another.
    PinRefused(String),
    /// The token cannot do what is needed, and never will.
    Unfit(String),
}

impl OpenError {
    /// Why, for the operator.
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

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The answer, if nobody else can do it.
    pub failure: Failure,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault a failure is, and so what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request's own: this is the answer.
    Request,
    /// The ciphertext's, as it seems: a known-good operation succeeded on the same session. But
    /// the token's code may also mean trouble, so it is tried again before it is the answer.
    Suspect,
    /// The token lacks the key; another one may have it.
    Key,
    /// The token has too much to do, or did it wrong. The session is well; the request may be
    /// tried again.
    Busy,
    /// The session is of no further use; the request may be tried again on another.
    Session,
    /// The token is in trouble, and the session with it.
    Token,
}

impl Fault {
    /// Keys that were there are not found, which may be the token's trouble: KMS hears of an HSM
    /// that is not available, until it is known that they were deleted.
    pub const KEYS_MISSED: Self = Self { failure: Failure::NoToken, blame: Blame::Token };

    /// The request's own fault.
    #[must_use]
    pub const fn answer(failure: Failure) -> Self {
        Self { failure, blame: Blame::Request }
    }

    /// Whether the session must be given up.
    #[must_use]
    pub const fn breaks_session(&self) -> bool {
        matches!(self.blame, Blame::Session | Blame::Token)
    }
}

/// Who a token is. Each string is printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Serial number, or the label where there is none, or what the settings call it.
    pub id: String,
    /// `CK_TOKEN_INFO.label`
    pub label: String,
    /// Model with firmware and hardware version.
    pub model: String,
    /// `CK_TOKEN_INFO.manufacturerID`
    pub manufacturer: String,
}

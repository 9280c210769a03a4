//! Keys that were there and are not found any more: were they deleted, or is the token in trouble?
//!
//! A token whose storage was taken away may say that all is well and show no keys, and go on so
//! after its storage is back, until the module is initialised again. So a key that was there is held
//! to be deleted only if the token is well and still has another one, or if neither a new session
//! nor, where that can be, a new initialisation of the module brought it back.

use super::Calls;
use crate::hsm::backend::{Blame, Fault};
use crate::hsm::pkcs11::missed::Tried;
use crate::hsm::pkcs11::shared::Shared;
use crate::job::{Failure, KeyIndex};
use crate::limits::MAX_EVIDENCE_KEYS;

const NO_SUCH_KEY: Fault = Fault { failure: Failure::KeyNotFound, blame: Blame::Key };

/// All that bears on why a key that was there is not found.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// C_GetTokenInfo succeeds.
    is_token_well: bool,
    /// Another key that was there is found.
    is_another_found: bool,
    tried: Tried,
    /// The module can be initialised again: it is ours, and none of its other tokens works.
    may_reinitialize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Deleted,
    /// Or so it is to be held, until more was tried.
    TokenInTrouble,
}

fn judge(facts: Facts) -> Verdict {
    let was_all_tried = match facts.tried {
        Tried::Nothing => false,
        Tried::Session => !facts.may_reinitialize,
        Tried::Initialization => true,
    };
    if facts.is_token_well && (facts.is_another_found || was_all_tried) {
        Verdict::Deleted
    } else {
        Verdict::TokenInTrouble
    }
}

impl Calls {
    /// The fault of a request whose key a look-up did not find.
    pub fn not_found(&self, token: &Shared, key: KeyIndex) -> Fault {
        // A token that lost its login shows no private keys: that is no key missing.
        if let Err(fault) = self.require_login(token) {
            return fault;
        }
        // While keys are missed there is no telling which others there would be.
        if token.missed.keys() > 0 {
            return Fault::KEYS_MISSED;
        }
        if !token.keys.was_there(key) {
            return NO_SUCH_KEY;
        }
        let is_token_well = self.ask_for_token(token).is_ok();
        let is_another_found = match self.is_another_found(token, Some(key)) {
            Ok(is_found) => is_found,
            Err(fault) => return fault,
        };
        match self.verdict(token, is_token_well, is_another_found) {
            Verdict::Deleted => {
                token.hold_deleted(&[key]);
                NO_SUCH_KEY
            }
            Verdict::TokenInTrouble => {
                token.missed.note(1, &self.opened);
                Fault::KEYS_MISSED
            }
        }
    }

    /// Finds out whether the token is there. One that does not say so and shows none of a few keys
    /// that were there has lost them.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn token_is_present(&self, token: &Shared) -> Result<(), Fault> {
        let Err(fault) = self.ask_for_token(token) else {
            if token.missed.keys() == 0 {
                token.module.works(token.user);
            }
            return Ok(());
        };
        self.require_login(token)?;
        let known = token.keys.known();
        if known > 0 && !self.is_another_found(token, None)? {
            token.missed.note(known, &self.opened);
            return Err(Fault::KEYS_MISSED);
        }
        Err(fault)
    }

    /// Lists the keys.
    ///
    /// # Errors
    /// [`Fault::KEYS_MISSED`] if keys that were there are not, and it is not known yet why; or the
    /// token's.
    pub fn refresh_keys(&self, token: &Shared) -> Result<(), Fault> {
        self.require_login(token)?;
        let listed = token.keys.refresh(self.session()?).map_err(|error| token.fault(&error))?;
        // All handles were forgotten meanwhile: the next listing tells.
        let Some(listed) = listed else { return Ok(()) };
        if listed.missing.is_empty() {
            token.missed.is_over();
            return Ok(());
        }
        // The login may have gone meanwhile.
        self.require_login(token)?;
        let is_token_well = self.ask_for_token(token).is_ok();
        match self.verdict(token, is_token_well, listed.is_any_left) {
            Verdict::Deleted => {
                token.hold_deleted(&listed.missing);
                token.missed.is_over();
                Ok(())
            }
            Verdict::TokenInTrouble => {
                token.missed.note(listed.missing.len(), &self.opened);
                Err(Fault::KEYS_MISSED)
            }
        }
    }

    fn verdict(&self, token: &Shared, is_token_well: bool, is_another_found: bool) -> Verdict {
        judge(Facts {
            is_token_well,
            is_another_found,
            tried: token.missed.tried(&self.opened),
            may_reinitialize: token.module.may_be_reinitialized(token.user),
        })
    }

    /// C_GetTokenInfo.
    fn ask_for_token(&self, token: &Shared) -> Result<(), Fault> {
        let info = token.module.raw.token_info(self.opened.slot);
        info.map(drop).map_err(|error| token.fault(&error))
    }

    /// Whether one of a few keys that were there, other ones each time, is found by a look-up.
    fn is_another_found(&self, token: &Shared, than: Option<KeyIndex>) -> Result<bool, Fault> {
        for index in token.keys.some_known(MAX_EVIDENCE_KEYS, than) {
            let found = token.keys.look_up(self.session()?, index);
            if found.map_err(|error| token.fault(&error))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Shared {
    /// Keys that were there are held to be deleted from now on.
    fn hold_deleted(&self, keys: &[KeyIndex]) {
        let gone = self.keys.hold_deleted(keys);
        let Some(first) = gone.first() else { return };
        let labels = self.keys.labels().now();
        tracing::warn!(
            token = self.identity().label,
            key = labels.get(*first),
            keys = gone.len(),
            "HSM keys that were there were deleted: calls for them get KeyNotFoundException"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the rule.
    #[test]
    fn table() {
        use Tried::{Initialization, Nothing, Session};
        let (deleted, in_trouble) = (Verdict::Deleted, Verdict::TokenInTrouble);
        // Whether C_GetTokenInfo succeeds, another key is found, the module can be initialised.
        for (is_token_well, is_another_found, may_reinitialize, tried, verdict) in [
            // One of many, as an administrator deletes them.
            (true, true, true, Nothing, deleted),
            (true, true, false, Nothing, deleted),
            (true, true, true, Initialization, deleted),
            // The token is away, whatever its library remembers.
            (false, true, true, Nothing, in_trouble),
            (false, true, true, Initialization, in_trouble),
            (false, false, true, Nothing, in_trouble),
            (false, false, true, Session, in_trouble),
            (false, false, true, Initialization, in_trouble),
            (false, false, false, Session, in_trouble),
            // All keys are gone: first all is tried that may bring them back.
            (true, false, true, Nothing, in_trouble),
            (true, false, true, Session, in_trouble),
            (true, false, true, Initialization, deleted),
            (true, false, false, Nothing, in_trouble),
            (true, false, false, Session, deleted),
            (true, false, false, Initialization, deleted),
        ] {
            let facts = Facts { is_token_well, is_another_found, tried, may_reinitialize };
            assert_eq!(judge(facts), verdict, "{facts:?}");
        }
    }
}

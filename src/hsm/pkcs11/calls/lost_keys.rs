//! Keys that were found before and are missing now, and the decision whether they were deleted or
//! the token is failing.
//!
//! A token that lost its storage may report success and show no keys, even after the storage has
//! returned, until the module is initialised again. So a missing key is considered deleted only if
//! the token is healthy and still has another key, or if neither a new session nor, where possible,
//! a new initialisation of the module brought the key back.

use std::time::SystemTime;

use super::Calls;
use crate::hsm::backend::{Blame, Fault};
use crate::hsm::key_date::Date;
use crate::hsm::pkcs11::missed::Attempted;
use crate::hsm::pkcs11::shared::Shared;
use crate::job::{Failure, KeyIndex};
use crate::limits::MAX_EVIDENCE_KEYS;
use crate::observe::timestamp::unix_secs;

const NO_SUCH_KEY: Fault = Fault { failure: Failure::KeyNotFound, blame: Blame::Key };

/// The facts that decide why a key is missing.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// C_GetTokenInfo succeeds.
    is_token_well: bool,
    /// Another key that was found before is still there.
    is_another_found: bool,
    attempted: Attempted,
    /// The module can be initialised again: the proxy initialised it, and no other token works.
    may_reinitialize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Deleted,
    /// Assumed until every means of recovery has been attempted.
    TokenInTrouble,
}

fn judge(facts: Facts) -> Verdict {
    let was_all_tried = match facts.attempted {
        Attempted::Nothing => false,
        Attempted::Session => !facts.may_reinitialize,
        Attempted::Initialization => true,
    };
    if facts.is_token_well && (facts.is_another_found || was_all_tried) {
        Verdict::Deleted
    } else {
        Verdict::TokenInTrouble
    }
}

impl Calls {
    /// Returns the fault of a request whose key was not found.
    pub fn not_found(&self, token: &Shared, key: KeyIndex) -> Fault {
        // A token that lost its login hides private keys, which are then not missing.
        if let Err(fault) = self.require_login(token) {
            return fault;
        }
        // While keys are missing, this key may be one of them.
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
                token.mark_deleted(&[key]);
                NO_SUCH_KEY
            }
            Verdict::TokenInTrouble => {
                token.missed.record(1, &self.opened);
                Fault::KEYS_MISSED
            }
        }
    }

    /// Checks that the token is present. If the token does not report that and shows none of a few
    /// keys that were found before, its keys count as missing.
    ///
    /// # Errors
    /// Returns [`Fault::KEYS_MISSED`] if the keys are missing, or the token's fault.
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
            token.missed.record(known, &self.opened);
            return Err(Fault::KEYS_MISSED);
        }
        Err(fault)
    }

    /// Lists the keys.
    ///
    /// # Errors
    /// Returns [`Fault::KEYS_MISSED`] if keys are missing for an unknown reason, or the token's
    /// fault.
    pub fn refresh_keys(&self, token: &Shared) -> Result<(), Fault> {
        self.require_login(token)?;
        let listed = token.keys.refresh(self.session()?).map_err(|error| token.fault(&error))?;
        // The handles were forgotten during the listing, so the next listing decides.
        let Some(listed) = listed else { return Ok(()) };
        let today = Date::of_unix_secs(unix_secs(SystemTime::now()));
        token.keys.warn_of_end_dates(&token.name(), today);
        if listed.missing.is_empty() {
            token.missed.clear();
            return Ok(());
        }
        // The login may have been lost during the listing.
        self.require_login(token)?;
        let is_token_well = self.ask_for_token(token).is_ok();
        match self.verdict(token, is_token_well, listed.is_any_left) {
            Verdict::Deleted => {
                token.mark_deleted(&listed.missing);
                token.missed.clear();
                Ok(())
            }
            Verdict::TokenInTrouble => {
                token.missed.record(listed.missing.len(), &self.opened);
                Err(Fault::KEYS_MISSED)
            }
        }
    }

    fn verdict(&self, token: &Shared, is_token_well: bool, is_another_found: bool) -> Verdict {
        judge(Facts {
            is_token_well,
            is_another_found,
            attempted: token.missed.attempted_since(&self.opened),
            may_reinitialize: token.module.may_be_reinitialized(token.user),
        })
    }

    /// Calls C_GetTokenInfo.
    fn ask_for_token(&self, token: &Shared) -> Result<(), Fault> {
        let info = token.module.raw.token_info(self.opened.slot);
        info.map(drop).map_err(|error| token.fault(&error))
    }

    /// Looks up a few keys that were found before, different ones each time. Returns whether any of
    /// them is still there.
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
    /// Considers the keys deleted from now on.
    fn mark_deleted(&self, keys: &[KeyIndex]) {
        let gone = self.keys.mark_deleted(keys);
        let Some(first) = gone.first() else { return };
        let labels = self.keys.labels().now();
        tracing::warn!(
            token = self.identity().label,
            key = labels.get(*first),
            keys = gone.len(),
            "HSM keys were deleted: calls for them get KeyNotFoundException"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows of the rule's table.
    #[test]
    fn table() {
        use Attempted::{Initialization, Nothing, Session};
        let (deleted, in_trouble) = (Verdict::Deleted, Verdict::TokenInTrouble);
        // The columns: C_GetTokenInfo succeeds, another key is found, the module can be initialised
        // again, the attempts at recovery, the verdict.
        for (is_token_well, is_another_found, may_reinitialize, attempted, verdict) in [
            // An administrator deleted one of several keys.
            (true, true, true, Nothing, deleted),
            (true, true, false, Nothing, deleted),
            (true, true, true, Initialization, deleted),
            // The token is absent, whatever its library has cached.
            (false, true, true, Nothing, in_trouble),
            (false, true, true, Initialization, in_trouble),
            (false, false, true, Nothing, in_trouble),
            (false, false, true, Session, in_trouble),
            (false, false, true, Initialization, in_trouble),
            (false, false, false, Session, in_trouble),
            // All keys are gone: everything that may bring them back is attempted first.
            (true, false, true, Nothing, in_trouble),
            (true, false, true, Session, in_trouble),
            (true, false, true, Initialization, deleted),
            (true, false, false, Nothing, in_trouble),
            (true, false, false, Session, deleted),
            (true, false, false, Initialization, deleted),
        ] {
            let facts = Facts { is_token_well, is_another_found, attempted, may_reinitialize };
            assert_eq!(judge(facts), verdict, "{facts:?}");
        }
    }
}

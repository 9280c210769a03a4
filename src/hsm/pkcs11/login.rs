//! The login, which all sessions of a token share. A refused PIN is not tried again.

use cryptoki_sys::*;
use parking_lot::Mutex;

use super::codes::{self, Class};
use super::native_session::NativeSession;
use super::pin_tries::{self, Denied, PinFlags, PinId, Refusal};
use crate::hsm::backend::OpenError;
use crate::limits::{MAX_LOGIN_WAIT, MAX_OTHER_LOGIN_REFUSALS};
use crate::observe::redaction::Secret;

/// The properties from CK_TOKEN_INFO on which a login depends.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginRules {
    /// CKF_LOGIN_REQUIRED
    pub is_required: bool,
    /// CKF_PROTECTED_AUTHENTICATION_PATH: the PIN can be entered at the device.
    pub has_protected_path: bool,
    /// State of the user PIN.
    pub pin: PinFlags,
}

/// The token as verified immediately before a login.
pub struct TokenAtLogin {
    /// Rules for the login.
    pub rules: LoginRules,
    /// Identity of the PIN on this token.
    pub pin_id: PinId,
    /// The token's label, for the log.
    pub name: String,
}

/// A token's login.
pub struct Login {
    pin: Secret<String>,
    /// Locked by the session that is logging in.
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Needed,
    /// The token has no password.
    NotNeeded,
}

impl Login {
    /// Creates the login with a PIN, which may be empty.
    #[must_use]
    pub fn new(pin: Secret<String>) -> Self {
        Self { pin, state: Mutex::default() }
    }

    /// Returns the PIN, from which its identity is derived.
    #[must_use]
    pub fn pin(&self) -> &Secret<String> {
        &self.pin
    }

    /// Logs the session's token in, unless it is already logged in. `ask` verifies the token
    /// immediately before it receives the PIN. The code of a failed login is counted in `counts`.
    ///
    /// # Errors
    /// Returns [`OpenError::PinRefused`] if the token refused the PIN, now or earlier,
    /// [`OpenError::Unavailable`] if the login failed otherwise, or the error of `ask`.
    pub fn ensure(
        &self,
        session: &NativeSession,
        ask: impl FnOnce() -> Result<TokenAtLogin, OpenError>,
        counts: &codes::Counts,
    ) -> Result<(), OpenError> {
        // Another thread's login may hang, so the wait is limited.
        let Some(mut state) = self.state.try_lock_for(MAX_LOGIN_WAIT) else {
            return Err(busy());
        };
        match &*state {
            State::NotNeeded => return Ok(()),
            State::Needed => {}
        }
        match session.is_logged_in() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(OpenError::Unavailable(codes::describe_error(&error))),
        }
        let TokenAtLogin { rules, pin_id, name } = ask()?;
        let may_need_none = !rules.is_required && self.pin.expose().is_empty();
        let attempt = match pin_tries::begin(pin_id, rules.pin) {
            Ok(attempt) => attempt,
            Err(Denied::Busy) => return Err(busy()),
            Err(Denied::NotNeeded(_)) if may_need_none => {
                *state = State::NotNeeded;
                return Ok(());
            }
            Err(Denied::Spent(reason) | Denied::NotNeeded(reason)) => {
                return Err(OpenError::PinRefused(reason));
            }
        };
        if rules.pin.is_count_low {
            tracing::warn!(
                token = name,
                "a wrong PIN was entered since the last login, by this or another client: a few more \
                 lock the token (CKF_USER_PIN_COUNT_LOW)"
            );
        }
        let pin = self.pin.expose();
        let is_by_device = pin.is_empty() && rules.has_protected_path;
        let Err(error) = session.login((!is_by_device).then_some(pin.as_str())) else {
            attempt.succeeded();
            return Ok(());
        };
        let code = error.code;
        if code == Some(CKR_USER_ALREADY_LOGGED_IN) {
            // Dropping the attempt records that no PIN was checked.
            drop(attempt);
            return Ok(());
        }
        if let Some(code) = code {
            counts.count(code);
        }
        let reason = codes::describe_error(&error);
        let (refusal, told) = refused(code, is_by_device, &reason);
        if may_need_none && code.is_some_and(wants_no_login) {
            // The token may have counted the empty PIN as a wrong PIN.
            attempt.refused(Refusal::NotNeeded, &told);
            *state = State::NotNeeded;
            return Ok(());
        }
        attempt.refused(refusal, &told);
        Err(match refusal {
            Refusal::Final | Refusal::NotNeeded => OpenError::PinRefused(told),
            Refusal::Other | Refusal::BeforeTheCheck => OpenError::Unavailable(reason),
        })
    }

    /// Returns whether sessions must be logged in.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.state.try_lock().is_none_or(|state| !matches!(*state, State::NotNeeded))
    }
}

fn busy() -> OpenError {
    OpenError::Unavailable("another login has not returned".to_owned())
}

/// Returns whether this code is a possible answer of a token without a password to an empty PIN.
fn wants_no_login(code: CK_RV) -> bool {
    let is_answer = code == CKR_USER_PIN_NOT_INITIALIZED || !is_before_the_check(code);
    is_answer
        && matches!(
            codes::class(code),
            Class::Pin | Class::Request | Class::AmbiguousRequest | Class::Token
        )
}

/// Returns whether a C_Login that returned this code failed before the PIN was checked.
fn is_before_the_check(code: CK_RV) -> bool {
    matches!(
        code,
        CKR_CRYPTOKI_NOT_INITIALIZED
            | CKR_DEVICE_REMOVED
            | CKR_LIBRARY_LOAD_FAILED
            | CKR_OPERATION_ACTIVE
            | CKR_SESSION_CLOSED
            | CKR_SESSION_COUNT
            | CKR_SESSION_HANDLE_INVALID
            | CKR_SESSION_READ_ONLY_EXISTS
            | CKR_SLOT_ID_INVALID
            | CKR_TOKEN_NOT_INITIALIZED
            | CKR_TOKEN_NOT_PRESENT
            | CKR_TOKEN_NOT_RECOGNIZED
            | CKR_USER_PIN_NOT_INITIALIZED
    )
}

/// Returns whether the login may be tried again, and the message in case it is not. Without a code,
/// the module was not called.
fn refused(code: Option<CK_RV>, is_by_device: bool, reason: &str) -> (Refusal, String) {
    const RETRY: &str = "then run `xks-proxy hsm retry-login`";
    let Some(code) = code.filter(|code| !is_before_the_check(*code)) else {
        return (Refusal::BeforeTheCheck, reason.to_owned());
    };
    let told = match (code, codes::class(code)) {
        (CKR_USER_ANOTHER_ALREADY_LOGGED_IN, _) => format!(
            "another user, such as the security officer, is logged in to the token ({reason}): log \
            that user out, {RETRY}"
        ),
        _ if is_by_device => format!(
            "the token takes its PIN only at the device (CKF_PROTECTED_AUTHENTICATION_PATH), and \
            the login failed ({reason}); it is not tried again: get ready to enter the PIN there, \
            {RETRY}"
        ),
        (CKR_PIN_LOCKED, _) => format!(
            "the token's user PIN is locked ({reason}): once it is unlocked, the PIN (user_pin) is \
            tried once more"
        ),
        (_, Class::Pin) => format!(
            "the PIN (user_pin) was refused ({reason}); it is not tried again on this token by \
            this process: correct it in the settings and reload them; or repair the token, {RETRY}"
        ),
        _ => {
            let told = format!(
                "the login was refused {MAX_OTHER_LOGIN_REFUSALS} times ({reason}), and each may \
                have used up a try of the PIN; it is not tried again: find out why, {RETRY}"
            );
            return (Refusal::Other, told);
        }
    };
    (Refusal::Final, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes that PKCS#11 lists for C_Login, some that it does not list, and a vendor-defined one.
    #[test]
    fn refusals() {
        let of = |code| refused(Some(code), false, "C_Login: no").0;
        for code in
            [CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED]
        {
            assert_eq!(of(code), Refusal::Final, "{code:x}");
        }
        assert_eq!(of(CKR_USER_ANOTHER_ALREADY_LOGGED_IN), Refusal::Final);
        for code in
            [CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR, CKR_DEVICE_ERROR, CKR_HOST_MEMORY, 0x8000_0001]
        {
            assert_eq!(of(code), Refusal::Other, "{code:x}");
            assert_eq!(refused(Some(code), true, "no").0, Refusal::Final, "at the device");
        }
        for code in [CKR_TOKEN_NOT_PRESENT, CKR_DEVICE_REMOVED, CKR_SESSION_HANDLE_INVALID] {
            assert_eq!(of(code), Refusal::BeforeTheCheck, "{code:x}");
        }
        assert_eq!(refused(None, false, "no").0, Refusal::BeforeTheCheck);
    }
}

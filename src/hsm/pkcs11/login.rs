//! The login: one for all sessions of a token, done by one of them, and a wrong PIN only once.

use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::AuthPin;
use cryptoki_sys::CKR_USER_ALREADY_LOGGED_IN;
use parking_lot::Mutex;

use super::codes::{self, Class};
use crate::hsm::backend::OpenError;
use crate::limits::MAX_LOGIN_WAIT;
use crate::observe::redaction::Secret;

/// What the token said of itself in CK_TOKEN_INFO that a login depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginRules {
    /// CKF_LOGIN_REQUIRED
    pub is_required: bool,
    /// CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is entered at the device.
    pub has_protected_path: bool,
}

/// A token's login.
pub struct Login {
    pin: Secret<String>,
    /// Held by the one that logs in.
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Needed,
    /// The token has no password, and said so.
    NotNeeded,
    /// The PIN was refused.
    Refused(String),
}

impl Login {
    /// With that PIN, which may be empty.
    #[must_use]
    pub fn new(pin: Secret<String>) -> Self {
        Self { pin, state: Mutex::default() }
    }

    /// Sees to it that the session's token is logged in. A login that fails is counted in `counts`.
    ///
    /// # Errors
    /// [`OpenError::PinRefused`] now and for ever after if the token refused the PIN.
    pub fn ensure(
        &self,
        session: &Session,
        rules: LoginRules,
        counts: &codes::Counts,
    ) -> Result<(), OpenError> {
        // Another thread's login may hang.
        let Some(mut state) = self.state.try_lock_for(MAX_LOGIN_WAIT) else {
            return Err(OpenError::Unavailable("another login does not return".to_owned()));
        };
        match &*state {
            State::Refused(reason) => return Err(OpenError::PinRefused(reason.clone())),
            State::NotNeeded => return Ok(()),
            State::Needed => {}
        }
        match is_logged_in(session) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(reason) => return Err(OpenError::Unavailable(reason)),
        }
        let pin = self.pin.expose();
        let by_device = pin.is_empty() && rules.has_protected_path;
        let pin_for_call = (!by_device).then(|| AuthPin::new(pin.as_str().into()));
        let Err(error) = session.login(UserType::User, pin_for_call.as_ref()) else {
            return Ok(());
        };
        let code = codes::code_of(&error);
        if code == Some(CKR_USER_ALREADY_LOGGED_IN) {
            return Ok(());
        }
        if let Some(code) = code {
            counts.count(code);
        }
        let reason = codes::describe_error(&error);
        match code.map(codes::class) {
            Some(Class::Pin | Class::Request | Class::AmbiguousRequest | Class::Token)
                if !rules.is_required && pin.is_empty() =>
            {
                *state = State::NotNeeded;
                Ok(())
            }
            Some(Class::Pin) => {
                let reason = format!(
                    "the PIN (user_pin) was refused ({reason}); it is not tried again before a restart, or a \
                     reload that changes the HSM's settings"
                );
                *state = State::Refused(reason.clone());
                Err(OpenError::PinRefused(reason))
            }
            _ => Err(OpenError::Unavailable(reason)),
        }
    }

    /// Whether a session that isn't logged in is of no use.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.state.try_lock().is_none_or(|state| !matches!(*state, State::NotNeeded))
    }
}

/// Whether the user is logged in, by the session's own word.
///
/// # Errors
/// The token did not say; the text says why.
pub fn is_logged_in(session: &Session) -> Result<bool, String> {
    match session.get_session_info() {
        Ok(info) => Ok(matches!(info.session_state(), SessionState::RwUser | SessionState::RoUser)),
        Err(error) => Err(codes::describe_error(&error)),
    }
}

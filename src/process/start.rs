//! Sockets and channels that the process inherits, besides its settings.

use super::inherited::{self, Given};
use super::notify::{self, Notifier};
use super::takeover::{self, Takeover};
use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::hsm::pkcs11::ffi::remove_environment;

/// Sockets and channels that the process inherits.
pub(crate) struct Start {
    pub(super) given: Vec<Given>,
    pub(super) takeover: Option<Takeover>,
    pub(super) notifier: Notifier,
}

impl Start {
    /// Reads the environment, and removes the variables meant for this process alone.
    ///
    /// # Errors
    /// The previous process hands over no usable sockets.
    pub(crate) fn new() -> Result<Self, Failed> {
        let taken = match takeover::from_environment() {
            None => Ok((inherited::from_systemd(), None)),
            Some(taken) => taken.map(|(takeover, given)| (given, Some(takeover))),
        };
        let notifier = Notifier::from_environment();
        // No thread has been started yet.
        remove_environment(&inherited::VARIABLES);
        remove_environment(&notify::VARIABLES);
        remove_environment(&[takeover::VARIABLE]);
        let (given, takeover) = taken.map_err(|message| Failed::new(EXIT_UNAVAILABLE, message))?;
        Ok(Self { given, takeover, notifier })
    }
}

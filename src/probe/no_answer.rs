//! The reason there is no answer, classified by the kind of the error and not by its text, which is
//! the kernel's or a library's.

use std::{fmt, io};

use crate::client::{UnusableAnswer, wants_certificate};

/// The reason there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// The class of the reason.
    pub cause: Cause,
    text: String,
}

/// The class of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing came in time, or not all of the answer.
    TimedOut,
    /// The server wants a client certificate.
    ClientCertificate,
    /// Bytes came that are not an answer.
    Unusable,
    /// The network or TLS failed otherwise.
    Network,
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        let cause = Cause::of(&error);
        let hint = match cause {
            Cause::ClientCertificate => " (mTLS: --client-cert, --client-key)",
            _ => "",
        };
        Self { cause, text: format!("no answer: {error}{hint}") }
    }
}

impl Cause {
    fn of(error: &io::Error) -> Self {
        let is_unusable = || error.get_ref().is_some_and(|source| source.is::<UnusableAnswer>());
        if is_timeout(error) {
            Self::TimedOut
        } else if wants_certificate(error) {
            Self::ClientCertificate
        } else if is_unusable() {
            Self::Unusable
        } else {
            Self::Network
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Returns whether an error of the client is a time-out.
#[must_use]
pub fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

//! Exit codes of the process, and the error that a command ends with.

/// A policy under test denies (`policy test`).
pub const EXIT_DENIED: u8 = 1;
/// A check of `probe` failed.
pub const EXIT_FAILED: u8 = 1;
/// The audit log is not what the proxy wrote (`audit verify`).
pub const EXIT_TAMPERED: u8 = 1;
/// The arguments are wrong; clap uses the same code.
pub const EXIT_ARGUMENTS: u8 = 2;
/// An address is in use, or a check failed (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// An event loop ended by itself (`EX_SOFTWARE`).
pub const EXIT_SOFTWARE: u8 = 70;
/// Calls to the HSM do not return, and `[pkcs11] exit_when_wedged` is on (`EX_TEMPFAIL`): a
/// supervisor should start the process again.
pub const EXIT_WEDGED: u8 = 75;
/// The settings have mistakes (`EX_CONFIG`): a supervisor need not try again.
pub const EXIT_SETTINGS: u8 = 78;

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failed {
    /// Exit code of the process.
    pub exit_code: u8,
    /// Text for the terminal.
    pub message: String,
}

impl Failed {
    /// Returns a failure with that exit code.
    #[must_use]
    pub fn new(exit_code: u8, message: String) -> Self {
        Self { exit_code, message }
    }

    /// Returns a failure with [`EXIT_UNAVAILABLE`].
    #[must_use]
    pub fn unavailable(message: String) -> Self {
        Self::new(EXIT_UNAVAILABLE, message)
    }
}

//! Exit codes of the process, and the error with which a command ends.

/// The policy that was tested denies the request (`policy test`).
pub const EXIT_DENIED: u8 = 1;
/// A check of `probe` failed that has no code of its own, or checks of several classes.
pub const EXIT_FAILED: u8 = 1;
/// `probe`: KMS would not accept the proxy's TLS or certificate.
pub const EXIT_PROBE_TLS: u8 = 10;
/// `probe`: the proxy refuses the credential, or does not verify signatures as it has to.
pub const EXIT_PROBE_AUTHENTICATION: u8 = 11;
/// `probe`: the proxy does not know the path or the key, or KMS cannot use the key.
pub const EXIT_PROBE_CONFIGURATION: u8 = 12;
/// `probe`: KMS cannot interpret an answer.
pub const EXIT_PROBE_RESPONSE: u8 = 13;
/// `probe`: answers come later than KMS waits.
pub const EXIT_PROBE_SLOW: u8 = 14;
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
/// The settings have mistakes (`EX_CONFIG`): a supervisor should not start the process again.
pub const EXIT_SETTINGS: u8 = 78;

/// The reason why a command fails.
#[derive(Debug)]
pub struct Failed {
    /// Exit code of the process.
    pub exit_code: u8,
    /// Text for the terminal.
    pub message: String,
}

impl Failed {
    /// Returns a failure with this exit code.
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

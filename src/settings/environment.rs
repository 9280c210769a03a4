//! The environment variables that go before the settings file.

use std::ffi::OsString;
use std::path::PathBuf;

/// Names the settings file.
pub const XKS_PROXY_SETTINGS_TOML: &str = "XKS_PROXY_SETTINGS_TOML";
/// Names the PKCS#11 module, in place of the member of that name.
pub const PKCS11_HSM_MODULE: &str = "PKCS11_HSM_MODULE";

/// Looks up an environment variable: [`std::env::var_os`], or a test's own. A variable that is
/// set to nothing counts as one that is not set.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// Returns the settings file that the environment names.
pub(super) fn settings_file(environment: Environment<'_>) -> Option<PathBuf> {
    path(environment, XKS_PROXY_SETTINGS_TOML)
}

/// Returns the PKCS#11 module that the environment names.
pub(super) fn module(environment: Environment<'_>) -> Option<PathBuf> {
    path(environment, PKCS11_HSM_MODULE)
}

fn path(environment: Environment<'_>, name: &str) -> Option<PathBuf> {
    environment(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

//! Environment variables that override the settings.

use std::ffi::OsString;
use std::path::PathBuf;

/// Variable that names the settings file.
pub const XKS_PROXY_SETTINGS_TOML: &str = "XKS_PROXY_SETTINGS_TOML";
/// Variable that names the PKCS#11 module, overriding the member with that name.
pub const PKCS11_HSM_MODULE: &str = "PKCS11_HSM_MODULE";

/// A lookup of environment variables: [`std::env::var_os`], or that of a test. An empty variable
/// counts as unset.
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

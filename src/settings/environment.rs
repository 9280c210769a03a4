//! Environment variables that override the settings.

use std::ffi::OsString;
use std::path::PathBuf;

/// Variable that contains the path of the settings file.
pub const XKS_PROXY_SETTINGS_TOML: &str = "XKS_PROXY_SETTINGS_TOML";
/// Variable that contains the path of the PKCS#11 module, and overrides the member in the settings.
pub const PKCS11_HSM_MODULE: &str = "PKCS11_HSM_MODULE";

/// Variable that every container in Kubernetes has: the address of the cluster's API.
const KUBERNETES_SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// A lookup of environment variables: [`std::env::var_os`], or a test's own. An empty variable
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

/// Returns whether this process is in a pod of Kubernetes.
pub(super) fn is_in_kubernetes(environment: Environment<'_>) -> bool {
    environment(KUBERNETES_SERVICE_HOST).is_some_and(|value| !value.is_empty())
}

fn path(environment: Environment<'_>, name: &str) -> Option<PathBuf> {
    environment(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

//! A hint for a failure of SoftHSM2 that says nothing of its cause.

use std::env;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cryptoki_sys::CKR_GENERAL_ERROR;

use super::native::Error;

/// Environment variable with the path of its configuration.
const VARIABLE: &str = "SOFTHSM2_CONF";
/// The path without that variable, below the user's home, and as distributions build it.
const IN_HOME: &str = ".config/softhsm2/softhsm2.conf";
const DEFAULT_FILES: [&str; 2] = ["/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf"];

/// Returns what to look at if C_Initialize of that module has failed; empty for other modules and
/// other failures. SoftHSM2 returns CKR_GENERAL_ERROR if it cannot read its configuration or the
/// tokens' directory, and writes the reason to syslog alone.
pub(super) fn hint(module: &Path, error: &Error) -> String {
    if error.code != Some(CKR_GENERAL_ERROR) || !is_softhsm(module) {
        return String::new();
    }
    let (name, file) = match env::var_os(VARIABLE) {
        Some(file) => (VARIABLE, PathBuf::from(file)),
        None => {
            let in_home = env::var_os("HOME").map(|home| Path::new(&home).join(IN_HOME));
            let defaults = DEFAULT_FILES.into_iter().map(PathBuf::from);
            let there = in_home.into_iter().chain(defaults).find(|file| file.exists());
            let [usual, _] = DEFAULT_FILES;
            ("SOFTHSM2_CONF is not set", there.unwrap_or_else(|| usual.into()))
        }
    };
    advice(name, &file, File::open(&file).map(drop))
}

fn is_softhsm(module: &Path) -> bool {
    let name = module.file_name().unwrap_or_default().to_string_lossy();
    name.to_ascii_lowercase().contains("softhsm")
}

fn advice(name: &str, file: &Path, opened: io::Result<()>) -> String {
    let file = file.display();
    match opened {
        Err(error) => format!(
            "; SoftHSM2's configuration, {file} ({name}), cannot be read by this process: {error}"
        ),
        Ok(()) => format!(
            "; see whether this process may read and write directories.tokendir of {file} ({name})"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u64) -> Error {
        Error { function: "C_Initialize", code: Some(code) }
    }

    /// The hint is for SoftHSM2 and its one code, and names the file and why it cannot be read.
    #[test]
    fn for_softhsm_alone() {
        let softhsm = Path::new("/usr/lib/softhsm/libsofthsm2.so");
        assert!(hint(softhsm, &error(CKR_GENERAL_ERROR)).contains(VARIABLE));
        assert_eq!(hint(softhsm, &error(CKR_GENERAL_ERROR + 1)), "");
        assert_eq!(hint(Path::new("/opt/libCryptoki2.so"), &error(CKR_GENERAL_ERROR)), "");
        let refused =
            advice(VARIABLE, Path::new("/a"), Err(io::ErrorKind::PermissionDenied.into()));
        assert!(refused.contains("/a (SOFTHSM2_CONF), cannot be read"), "{refused}");
        assert!(refused.contains("permission denied"), "{refused}");
        assert!(advice(VARIABLE, Path::new("/a"), Ok(())).contains("directories.tokendir of /a"));
    }
}

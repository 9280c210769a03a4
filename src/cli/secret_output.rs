//! Output of secrets to a new file that no other user can read.

use std::io;
use std::path::Path;

use crate::new_file;

/// Writes a new file of mode 0600. An existing file or symbolic link is left unchanged.
///
/// # Errors
/// The file cannot be written; the error is a text for the terminal. No new file is left behind.
pub(super) fn to_new_file(path: &Path, secret: &[u8]) -> Result<(), String> {
    new_file::write(path, 0o600, secret).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists already: remove it, or name another file", path.display())
        }
        _ => format!("{} cannot be written: {error}", path.display()),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A secret must not be written to an existing file, nor to one that others can read.
    #[test]
    fn new_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        to_new_file(&path, b"hush").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hush");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(to_new_file(&path, b"other").unwrap_err().contains("already"));
        assert_eq!(fs::read(&path).unwrap(), b"hush");
        let nowhere = directory.path().join("no/such");
        assert!(to_new_file(&nowhere, b"other").unwrap_err().contains("cannot be written"));
    }
}

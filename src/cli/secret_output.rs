//! Output of secrets, to standard output or to a new file that no other user can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes to standard output without an intermediate buffer, which would not be zeroed.
///
/// # Errors
/// The output cannot be written.
pub(super) fn to_stdout(secret: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    stdout.lock().flush()?;
    File::from(stdout.as_fd().try_clone_to_owned()?).write_all(secret)
}

/// Writes a new file of mode 0600. An existing file or symbolic link is left unchanged.
///
/// # Errors
/// The file cannot be written; the error is a text for the terminal. No new file is left behind.
pub(super) fn to_new_file(path: &Path, secret: &[u8]) -> Result<(), String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists already: remove it, or name another file", path.display())
        }
        _ => format!("{} cannot be written: {error}", path.display()),
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    file.write_all(secret).and_then(|()| file.sync_all()).map_err(|error| {
        // A truncated secret is useless.
        let _ = fs::remove_file(path);
        told(error)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
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
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        assert!(to_new_file(&link, b"other").unwrap_err().contains("already"));
        assert!(!directory.path().join("nowhere").exists());
        assert_eq!(fs::read(&path).unwrap(), b"hush");
        let nowhere = directory.path().join("no/such");
        assert!(to_new_file(&nowhere, b"other").unwrap_err().contains("cannot be written"));
    }
}

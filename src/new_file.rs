//! New files whose content is secret, and useless unless it is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a new file of this mode and waits until it is on the disk. An existing file or symbolic
/// link is left unchanged ([`io::ErrorKind::AlreadyExists`]).
///
/// # Errors
/// The file exists or cannot be written. No new file is left behind: the next attempt would find it
/// in its way, and its half a secret could be taken for a whole one.
pub(crate) fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Neither a file nor what a link leads to is overwritten or made.
    #[test]
    fn new_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, 0o400, b"hush").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        for path in [&path, &link] {
            let error = write(path, 0o600, b"other").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&path).unwrap(), b"hush");
        assert!(!directory.path().join("nowhere").exists());
    }
}

//! New files whose content is secret, and useless unless it is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
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
    // Not by a buffer, in which a secret would stay.
    keep(path, file.write_all(content).and_then(|()| file.sync_all()))
}

/// Writes a new file as [`write`] does, with the content that `write` gives. It is not secret.
///
/// # Errors
/// Those of [`write`].
pub(crate) fn write_by(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let mut file = BufWriter::new(file);
    let written = write(&mut file).and_then(|()| file.flush());
    keep(path, written.and_then(|()| file.get_ref().sync_all()))
}

/// Removes the file unless it was written.
fn keep(path: &Path, written: io::Result<()>) -> io::Result<()> {
    written.inspect_err(|_| {
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

    /// A file that is not whole is removed, however much of it is there.
    #[test]
    fn whole_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report");
        let half = |out: &mut dyn Write| {
            out.write_all(&[b'x'; 100_000])?;
            Err(io::Error::other("the second half is missing"))
        };
        assert!(write_by(&path, 0o640, half).is_err() && !path.exists());
        write_by(&path, 0o640, |out| out.write_all(b"whole")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7137, 0);
        let error = write_by(&path, 0o640, |out| out.write_all(b"other")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }
}

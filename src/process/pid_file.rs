//! `[server] pid_file`, by which others find the process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// The file of a serving process. Dropping it removes the file, unless another process has written
/// its own id since.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id atomically: a reader during a takeover finds one id or the other,
    /// never an empty file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        let id = process::id();
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{id}"));
        let beside = PathBuf::from(beside);
        let text = format!("{id}\n");
        if fs::write(&beside, &text).and_then(|()| fs::rename(&beside, path)).is_err() {
            // The file may be writable where its directory is not.
            let _ = fs::remove_file(&beside);
            fs::write(path, text)?;
        }
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Where the file cannot be removed, an empty one says that no process serves.
        if read(&self.0).is_ok_and(|id| id == process::id()) && fs::remove_file(&self.0).is_err() {
            let _ = fs::write(&self.0, "");
        }
    }
}

/// Returns the process id in the file.
///
/// # Errors
/// The file is missing, or holds no process id.
pub(crate) fn read(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    let no_id = |_| io::Error::other("there is no process id in it");
    text.trim().parse().map_err(no_id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A reader during a takeover finds an id, the old one or the new one.
    #[test]
    fn never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        // A reader that has opened the old file and not read it yet.
        let mut former = fs::File::open(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(io::read_to_string(&mut former).unwrap(), "1\n");
        assert_eq!(read(&path).unwrap(), process::id());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// The file is removed at the end, unless it belongs to another process by then.
    #[test]
    fn only_our_own_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(read(&path).unwrap(), process::id());
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(read(&path).unwrap(), 1);
    }
}

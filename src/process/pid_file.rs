//! `[server] pid_file`: where others find the process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// The file while the process serves. Dropping it removes it, unless another process has written
/// its own id there since.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id, in one step: who reads it while one process takes over from
    /// another finds either of them, and not an empty file.
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
            // Only the file may be written, and not its directory.
            let _ = fs::remove_file(&beside);
            fs::write(path, text)?;
        }
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A file that stays, as where only the file and not its directory may be written, says
        // that nobody is there.
        if read(&self.0).is_ok_and(|id| id == process::id()) && fs::remove_file(&self.0).is_err() {
            let _ = fs::write(&self.0, "");
        }
    }
}

/// The process id in the file.
///
/// # Errors
/// It is not there, or there is none in it.
pub(crate) fn read(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    let no_id = |_| io::Error::other("there is no process id in it");
    text.trim().parse().map_err(no_id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Whoever looks while a process takes over finds an id, the former's or its own.
    #[test]
    fn never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        // Open at the former one, as a reader is that has not read yet.
        let mut former = fs::File::open(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(io::read_to_string(&mut former).unwrap(), "1\n");
        assert_eq!(read(&path).unwrap(), process::id());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// It goes with the process, unless it is another one's by then.
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

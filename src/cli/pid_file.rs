//! `[server] pid_file`: where others find the process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// The file while the process serves. Dropping it removes it, unless another process has written
/// its own id there since.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        fs::write(path, format!("{}\n", process::id()))?;
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
pub(super) fn read(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    let no_id = |_| io::Error::other("there is no process id in it");
    text.trim().parse().map_err(no_id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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

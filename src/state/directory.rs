//! Files that are replaced as a whole, so that after a crash either the old or the new file exists,
//! and a lock for read-modify-write.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::MAX_STATE_LOCK_WAIT;

/// Interval between attempts to take a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// `[state] directory`
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The exclusive right to change the files; released when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl Directory {
    /// Opens the directory, and creates it with mode 0700 if it is missing. Errors are reported
    /// when files are read or written.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        // A failure recurs, and is logged, when a file is written.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(path);
        Self { path: path.to_owned() }
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether users other than the owner have access; false if that is unknown.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|it| it.permissions().mode() & 0o077 != 0)
    }

    /// Reads a file of up to `max_bytes`; returns `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be read, or is larger.
    pub fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(max_bytes + 1).read_to_end(&mut content)?;
        if content.len() as u64 > max_bytes {
            let message = format!("it is larger than {max_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(Some(content))
    }

    /// Replaces or creates a file, with mode 0600.
    ///
    /// # Errors
    /// The file cannot be written or made durable. If it cannot be written, the old one remains.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let (path, next) = (self.path.join(name), self.path.join(format!("{name}.next")));
        let write = || {
            // A file left by a crash, possibly a symbolic link, must not be written to.
            match fs::remove_file(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = self.create_new(&format!("{name}.next"))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            self.sync()
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&next);
        })
    }

    /// Creates a file with mode 0600. If root creates it, it belongs to the owner of the directory,
    /// so that a command that an administrator runs does not lock the proxy out.
    ///
    /// # Errors
    /// The file exists or cannot be created.
    pub fn create_new(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(self.path.join(name))?;
        self.give_to_owner(&file);
        Ok(file)
    }

    fn give_to_owner(&self, file: &File) {
        if let (Ok(directory), Ok(made)) = (fs::metadata(&self.path), file.metadata())
            && directory.uid() != made.uid()
        {
            // Only root may do so; others' directories cannot be written to anyway.
            let _ = fchown(file, Some(directory.uid()), Some(directory.gid()));
        }
    }

    /// Makes a file's new or lost name durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Copies a damaged file that is about to be replaced, and returns the copy's path.
    ///
    /// # Errors
    /// The file cannot be copied.
    pub fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        let copy = self.path.join(format!("{name}.damaged"));
        fs::copy(self.path.join(name), &copy)?;
        Ok(copy)
    }

    /// Waits until no other process is changing the files, for at most [`MAX_STATE_LOCK_WAIT`].
    ///
    /// # Errors
    /// The lock file cannot be created, or another process still holds the lock.
    pub fn lock(&self) -> io::Result<Lock> {
        let path = self.path.join("lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        self.give_to_owner(&file);
        let end = Instant::now() + MAX_STATE_LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                    let message = "another process holds the lock";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Only the owner has access, files are replaced as a whole, and a file left by a crash does no
    /// harm.
    #[test]
    fn files_are_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(&parent.path().join("state"));
        assert!(!directory.is_open_to_others());
        assert_eq!(directory.read("file", 10).unwrap(), None);
        fs::write(directory.path().join("file.next"), "half").unwrap();
        directory.write("file", b"one").unwrap();
        directory.write("file", b"two").unwrap();
        assert_eq!(directory.read("file", 3).unwrap().unwrap(), b"two");
        assert!(directory.read("file", 2).is_err(), "too large");
        let mode = fs::metadata(directory.path().join("file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!directory.path().join("file.next").exists());
    }

    /// Two processes cannot hold the lock at the same time.
    #[test]
    fn the_lock_is_one_owners() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path());
        let lock = directory.lock().unwrap();
        let other = OpenOptions::new().write(true).open(parent.path().join("lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }
}

//! `[server] pid_file`, by which other programs find the process.
//!
//! Its directory may be one in which others can write, so symbolic links are not followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;

use crate::limits::MAX_PID_FILE_BYTES;

/// The pid file of a serving process. Dropping this removes the file, unless another process has
/// written its own id in the meantime.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id atomically: during a takeover, a reader finds one id or the other,
    /// never an empty file.
    ///
    /// # Errors
    /// The file cannot be written, or is a symbolic link.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        let id = process::id();
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{id}"));
        let beside = PathBuf::from(beside);
        let text = format!("{id}\n");
        if !path.is_symlink() && replace(&beside, path, &text).is_ok() {
            return Ok(Self(path.to_owned()));
        }
        // The file may be writable even though its directory is not.
        let _ = fs::remove_file(&beside);
        write_over(path, &text)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // If the file cannot be removed, emptying it shows that no process serves.
        if read(&self.0).is_ok_and(|id| id == process::id()) && fs::remove_file(&self.0).is_err() {
            let _ = write_over(&self.0, "");
        }
    }
}

fn replace(beside: &Path, path: &Path, text: &str) -> io::Result<()> {
    // One of that name is left from a process that ended at this point.
    let _ = fs::remove_file(beside);
    open(OpenOptions::new().write(true).create_new(true), beside)?.write_all(text.as_bytes())?;
    fs::rename(beside, path)
}

fn write_over(path: &Path, text: &str) -> io::Result<()> {
    open(OpenOptions::new().write(true).create(true).truncate(true), path)?
        .write_all(text.as_bytes())
}

/// Creates an empty file unless there is one.
///
/// # Errors
/// The file cannot be created, or is a symbolic link.
pub(super) fn create(path: &Path) -> io::Result<()> {
    open(OpenOptions::new().append(true).create(true), path).map(drop)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let opened = options.mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link, which is not followed"),
        _ => error,
    })
}

/// Returns the process id in the file.
///
/// # Errors
/// The file is missing, is a symbolic link, or holds no process id.
pub(crate) fn read(path: &Path) -> io::Result<u32> {
    let mut text = String::new();
    open(OpenOptions::new().read(true), path)?
        .take(MAX_PID_FILE_BYTES)
        .read_to_string(&mut text)?;
    let no_id = |_| io::Error::other("there is no process id in it");
    text.trim().parse().map_err(no_id)
}

/// Returns the other proxy whose id the file holds and that is running, unless it is `former`, the
/// process that this one takes over from.
pub(super) fn running_proxy(path: &Path, former: Option<u32>) -> Option<u32> {
    let id = read(path).ok()?;
    let is_other = id != process::id() && Some(id) != former;
    (is_other && is_proxy(id) == Ok(true) && !has_ended(id)).then_some(id)
}

/// Returns whether a process is a proxy, by its name. Another version may have another file name,
/// such as "xks-proxy-2".
///
/// # Errors
/// There is no such process.
pub(crate) fn is_proxy(id: u32) -> Result<bool, NoProcess> {
    let name = name_of(&id.to_string())?;
    Ok(name.starts_with("xks-proxy") || name_of("self").is_ok_and(|own| own == name))
}

/// There is no such process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoProcess;

/// Returns the name of a process as the system knows it, cut to 15 bytes.
///
/// # Errors
/// There is no such process.
pub(crate) fn name_of(process: &str) -> Result<String, NoProcess> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).map_err(|_| NoProcess)?;
    Ok(name.trim_end().to_owned())
}

/// Returns whether the process has ended although its parent has not waited for it.
fn has_ended(id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return true };
    // The name, in parentheses, may contain any character.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// During a takeover, a reader finds the old id or the new one.
    #[test]
    fn never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        // A reader that has opened the old file but not yet read it.
        let mut former = fs::File::open(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(io::read_to_string(&mut former).unwrap(), "1\n");
        assert_eq!(read(&path).unwrap(), process::id());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// A symbolic link leads neither to a file that is written nor to one that is read, and stays.
    #[test]
    fn no_symbolic_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("pid"), directory.path().join("victim"));
        fs::write(&victim, "1\n").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        for outcome in [
            PidFile::write(&path).map(drop),
            create(&path),
            write_over(&path, ""),
            read(&path).map(drop),
        ] {
            assert!(outcome.unwrap_err().to_string().contains("symbolic link"));
        }
        assert!(path.is_symlink());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "1\n");
        // Nor one at the name under which the file is prepared.
        fs::remove_file(&path).unwrap();
        let beside = directory.path().join(format!("pid.{}", process::id()));
        std::os::unix::fs::symlink(&victim, &beside).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(read(&path).unwrap(), process::id());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "1\n");
    }

    /// A process that has ended, runs another program, or is the one to take over from does not keep
    /// the file.
    #[test]
    fn who_keeps_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let sleep = fs::canonicalize("/bin/sleep").unwrap();
        let same_name = directory.path().join(name_of("self").unwrap());
        for (program, is_ours) in [(sleep.clone(), false), (same_name, true)] {
            if program != sleep {
                fs::copy(&sleep, &program).unwrap();
            }
            let mut child = process::Command::new(&program).arg("60").spawn().unwrap();
            fs::write(&path, child.id().to_string()).unwrap();
            assert_eq!(running_proxy(&path, None), is_ours.then_some(child.id()), "{program:?}");
            assert_eq!(running_proxy(&path, Some(child.id())), None);
            child.kill().unwrap();
            // Until it is waited for, its id is taken.
            while !has_ended(child.id()) {
                std::thread::yield_now();
            }
            assert_eq!(running_proxy(&path, None), None);
            child.wait().unwrap();
            assert_eq!(running_proxy(&path, None), None);
        }
        fs::write(&path, process::id().to_string()).unwrap();
        assert_eq!(running_proxy(&path, None), None);
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

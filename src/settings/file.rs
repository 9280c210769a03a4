//! Files that may contain secrets, and checks of who else can access them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::fifo::{self, Patience};
use super::replaceable::{Weak, weak_directory};
use super::report::{Location, Report};
use super::section::{shown, shown_path};
use crate::limits::{FIFO_WARNING_WAIT, MAX_FIFO_WAIT};

/// Group: write.
const GROUP_WRITE: u32 = 0o020;
/// Group: read.
const GROUP_READ: u32 = 0o040;
/// Others: write.
const OTHERS_WRITE: u32 = 0o002;
/// Others: read.
const OTHERS_READ: u32 = 0o004;

const FIFO_PATIENCE: Patience = Patience { warning: FIFO_WARNING_WAIT, end: MAX_FIFO_WAIT };

/// Owner and permissions of a file at the time it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ownership {
    owner: u32,
    mode: u32,
}

/// Reads a file into memory that is zeroed when dropped.
///
/// # Errors
/// The file cannot be read, or is larger than `max_bytes`.
pub(super) fn read(path: &Path, max_bytes: u64) -> io::Result<(Zeroizing<Vec<u8>>, Ownership)> {
    // Opening a FIFO would wait for a writer otherwise; on other files this has no effect.
    let not_blocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let mut open = File::options().read(true).custom_flags(not_blocking).open(path)?;
    // The metadata is that of the open file, so replacing the file or its symbolic link has no
    // effect.
    let metadata = open.metadata()?;
    let too_large = || io::Error::other(format!("it is larger than {max_bytes} bytes"));
    if metadata.file_type().is_fifo() {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX - 1);
        let bytes = fifo::read(&open, path, max_bytes, FIFO_PATIENCE)?;
        let ownership = Ownership { owner: metadata.uid(), mode: metadata.mode() };
        return if bytes.len() > max_bytes { Err(too_large()) } else { Ok((bytes, ownership)) };
    }
    if metadata.len() > max_bytes {
        return Err(too_large());
    }
    // One more byte, so that reading to the end does not reallocate.
    let capacity = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    open.by_ref().take(max_bytes).read_to_end(&mut bytes)?;
    Ok((bytes, Ownership { owner: metadata.uid(), mode: metadata.mode() }))
}

/// Reports a file that users other than root and the proxy's user can change, replace or, if it
/// contains a secret, read.
///
/// The rules are those of PostgreSQL for its private key, and slightly stricter than those of sshd:
/// root or the proxy's user must own the file, no other user may write it, and a group may read it
/// only if root owns it. The last rule is for Kubernetes (`fsGroup`) and systemd
/// (`LoadCredential=`), which pass secrets to a non-root process in this way.
pub(super) fn check(
    ownership: &Ownership,
    path: &Path,
    holds_secret: bool,
    location: &Location,
    report: &Report<'_>,
) {
    let user = geteuid().as_raw();
    check_directories(path, user, location, report);
    let Some(problem) = exposure(ownership, user, holds_secret) else { return };
    let name = shown_path(path);
    let mode = ownership.mode & 0o7777;
    let problem = format!("{name} (mode {mode:04o}, owner {}) {problem}", ownership.owner);
    let remedy = if holds_secret {
        "chown it to the proxy's user and chmod 0400, or root with the proxy's group and 0440"
    } else {
        "chown it to root or the proxy's user and chmod go-w"
    };
    report.exposed(location, problem, remedy.to_owned());
}

/// Reports a directory on the way to the file in which other users can replace the file, once for
/// each directory.
fn check_directories(path: &Path, user: u32, location: &Location, report: &Report<'_>) {
    let Some(weak) = weak_directory(path, user) else { return };
    if !report.is_new_directory(&weak.directory) {
        return;
    }
    let Weak { directory, owner, mode, problem } = weak;
    let problem = format!(
        "{} can be replaced by other users: the directory \"{}\" (mode {mode:04o}, owner {owner}) \
         {problem}",
        shown_path(path),
        shown(&directory.to_string_lossy())
    );
    let remedy = "chown the directory to root or the proxy's user and chmod go-w, or +t";
    report.exposed(location, problem, remedy.to_owned());
}

/// Does the same as [`check`] for a file without a secret that the proxy does not read itself, such
/// as a module. One that is missing is not reported.
pub(super) fn check_unread(path: &Path, location: &Location, report: &Report<'_>) {
    if let Ok(metadata) = fs::metadata(path) {
        let ownership = Ownership { owner: metadata.uid(), mode: metadata.mode() };
        check(&ownership, path, false, location, report);
    }
}

fn exposure(ownership: &Ownership, user: u32, holds_secret: bool) -> Option<&'static str> {
    let Ownership { owner, mode } = *ownership;
    if owner != 0 && owner != user {
        Some("belongs to another user, who can change it")
    } else if mode & (GROUP_WRITE | OTHERS_WRITE) != 0 {
        Some("can be changed by other users")
    } else if !holds_secret {
        None
    } else if mode & OTHERS_READ != 0 {
        Some("can be read by everyone")
    } else if mode & GROUP_READ != 0 && owner != 0 {
        Some("can be read by its group")
    } else {
        None
    }
}

/// Returns the directories of `files` and of the targets of symbolic links among them. A replaced
/// file is a new file with the same name in the same directory. For a file in the root directory,
/// returns the file itself: access to its directory would be access to everything.
pub(super) fn directories(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for file in files {
        for path in [Some(file.clone()), fs::canonicalize(file).ok()].into_iter().flatten() {
            match path.parent() {
                Some(parent) if is_root(parent) => found.insert(path),
                Some(parent) if parent.as_os_str().is_empty() => found.insert(PathBuf::from(".")),
                Some(parent) => found.insert(parent.to_owned()),
                None => false,
            };
        }
    }
    found.into_iter().collect()
}

/// Returns whether the directory is the root; the empty path is the working directory.
fn is_root(directory: &Path) -> bool {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    fs::canonicalize(directory).is_ok_and(|directory| directory == Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u32 = 1000;

    /// A file in the root directory does not make everything accessible, however it is named.
    #[test]
    fn never_the_root() {
        let files = ["/pin", "/etc/../pin", "/etc/passwd"].map(PathBuf::from);
        let found = directories(&files);
        assert!(!found.iter().any(|directory| is_root(directory)), "{found:?}");
        assert!(found.contains(&PathBuf::from("/pin")) && found.contains(&PathBuf::from("/etc")));
    }

    /// Owners and modes that are accepted for a file with a secret, and for one without.
    #[test]
    fn who_may_do_what() {
        for (owner, mode, secret, plain) in [
            (US, 0o400, true, true),
            (US, 0o600, true, true),
            (US, 0o700, true, true),
            (US, 0o640, false, true),
            (US, 0o604, false, true),
            (US, 0o644, false, true),
            (US, 0o620, false, false),
            (US, 0o602, false, false),
            (0, 0o400, true, true),
            // Kubernetes with fsGroup and defaultMode 0400, and a systemd credential.
            (0, 0o440, true, true),
            // The same with Kubernetes's default mode.
            (0, 0o644, false, true),
            (0, 0o460, false, false),
            (US + 1, 0o600, false, false),
        ] {
            let ownership = Ownership { owner, mode: 0o100_000 | mode };
            let is_good = |holds_secret| exposure(&ownership, US, holds_secret).is_none();
            assert_eq!((is_good(true), is_good(false)), (secret, plain), "{owner} {mode:04o}");
        }
    }
}

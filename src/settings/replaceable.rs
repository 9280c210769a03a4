//! Files that other users can replace because they can change a directory on the path to them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::limits::MAX_SYMBOLIC_LINKS;

/// Group or others: write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit, only the owner of a file can replace it.
const STICKY: u32 = 0o1000;

/// The mounts of this process's namespace (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// A directory through which other users can replace a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Weak {
    pub(super) directory: PathBuf,
    pub(super) owner: u32,
    pub(super) mode: u32,
    pub(super) problem: &'static str,
}

/// Owner and mode of a directory, or of an entry of it.
#[derive(Clone, Copy)]
struct Access {
    owner: u32,
    mode: u32,
}

impl From<&Metadata> for Access {
    fn from(metadata: &Metadata) -> Self {
        Self { owner: metadata.uid(), mode: metadata.mode() }
    }
}

/// Returns the first directory through which users other than root and `user` can replace the file:
/// among all in which a name is looked up on the way to it, symbolic links included. Returns `None`
/// if there is none, or if the way cannot be followed, in which case the file cannot be opened
/// either.
pub(super) fn weak_directory(path: &Path, user: u32) -> Option<Weak> {
    walk(path, user).unwrap_or_default()
}

fn walk(path: &Path, user: u32) -> io::Result<Option<Weak>> {
    let mounts = || fs::read_to_string(MOUNTS).unwrap_or_default();
    let mut rest = parts(&std::path::absolute(path)?);
    let (mut directory, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let entry_path = directory.join(&name);
        let (parent, entry) = (fs::metadata(&directory)?, fs::symlink_metadata(&entry_path)?);
        let parent = Access::from(&parent);
        if let Some(problem) = weakness(parent, Access::from(&entry), user)
            && !is_read_only_volume(&directory, &mounts())
        {
            let Access { owner, mode } = parent;
            return Ok(Some(Weak { directory, owner, mode: mode & 0o7777, problem }));
        }
        if !entry.is_symlink() {
            directory = entry_path;
            continue;
        }
        links += 1;
        if links > MAX_SYMBOLIC_LINKS {
            return Ok(None);
        }
        let target = fs::read_link(&entry_path)?;
        if target.is_absolute() {
            directory = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(None)
}

/// Returns the names on the path; ".." is one of them.
fn parts(path: &Path) -> VecDeque<OsString> {
    let names = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
}

/// Returns whether the directory is a volume that is mounted read-only into this process's
/// container: a read-only mount of a directory of another file system. Kubernetes gives all users
/// write access to the directories of ConfigMaps and emptyDirs. A file system that is read-only as
/// a whole does not count: systemd's `ProtectSystem=strict` makes all of them so for the service
/// alone.
fn is_read_only_volume(directory: &Path, mounts: &str) -> bool {
    // A later mount hides an earlier one.
    let mount = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
        (Path::new(point) == directory).then_some((root, options))
    });
    mount.is_some_and(|(root, options)| root != "/" && options.split(',').any(|it| it == "ro"))
}

/// Returns why other users can make the entry's name in the directory lead to another file.
fn weakness(directory: Access, entry: Access, user: u32) -> Option<&'static str> {
    let is_trusted = |owner: u32| owner == 0 || owner == user;
    if !is_trusted(directory.owner) {
        Some("belongs to another user")
    } else if directory.mode & OTHERS_WRITE == 0 {
        None
    } else if directory.mode & STICKY == 0 {
        Some("can be changed by other users")
    } else if !is_trusted(entry.owner) {
        Some("can be changed by other users, and its entry belongs to one")
    } else {
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const US: u32 = 1000;
    const THEM: u32 = 1001;

    /// Owner and mode of a directory, and owner of a file in it. A Kubernetes volume with a secret
    /// is root's, of mode 1777 or 3777.
    #[test]
    fn who_can_replace() {
        for (owner, mode, of_file, is_safe) in [
            (0, 0o755, 0, true),
            (US, 0o700, US, true),
            (0, 0o755, THEM, true),
            (US, 0o775, US, false),
            (US, 0o757, US, false),
            (0, 0o777, 0, false),
            (0, 0o2777, US, false),
            (0, 0o1777, 0, true),
            (0, 0o3777, US, true),
            (0, 0o1777, THEM, false),
            (THEM, 0o755, 0, false),
            (THEM, 0o1777, 0, false),
        ] {
            let directory = Access { owner, mode };
            let problem = weakness(directory, Access { owner: of_file, mode: 0o600 }, US);
            assert_eq!(problem.is_none(), is_safe, "{owner} {mode:o} {of_file}: {problem:?}");
        }
    }

    /// The way includes the directories of symbolic links: here those of a Kubernetes secret, and
    /// of a link whose target is a link.
    #[test]
    fn every_directory_on_the_way() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let us = rustix::process::geteuid().as_raw();
        for name in ["volume", "volume/..2026", "middle", "links", "links/below"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::write(place.join("volume/..2026/pin"), "1234").unwrap();
        symlink("..2026", place.join("volume/..data")).unwrap();
        symlink("..data/pin", place.join("volume/pin")).unwrap();
        symlink(place.join("volume/pin"), place.join("middle/pin")).unwrap();
        symlink("../../middle/pin", place.join("links/below/pin")).unwrap();
        let start = place.join("links/below/pin");
        let set = |name: &str, mode| {
            fs::set_permissions(place.join(name), Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(weak_directory(&start, us), None);
        for name in ["volume", "volume/..2026", "middle", "links", "links/below"] {
            set(name, 0o777);
            let weak = weak_directory(&start, us).unwrap();
            assert_eq!((&*weak.directory, weak.mode), (&*place.join(name), 0o777));
            set(name, 0o1777);
            assert_eq!(weak_directory(&start, us), None, "{name}");
            set(name, 0o755);
        }
    }

    /// Mounts as a container has them, and a service of systemd's: only a volume that is mounted
    /// read-only is safe although others may write to it.
    #[test]
    fn volumes() {
        let mounts = "\
22 1 0:30 / / rw,relatime - overlay overlay rw
23 22 8:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/s /etc/xks-proxy ro - ext4 /dev/sda1 rw
24 22 8:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/h /opt/hsm ro,relatime - ext4 /dev/sda1 rw
25 22 8:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/t /tmp rw,relatime - ext4 /dev/sda1 rw
26 22 8:2 / /opt/vendor ro,relatime - ext4 /dev/sda2 rw
27 22 8:1 /a /twice ro - ext4 /dev/sda1 rw
28 27 8:1 /b /twice rw - ext4 /dev/sda1 rw
";
        for (directory, is_safe) in [
            ("/etc/xks-proxy", true),
            ("/opt/hsm", true),
            ("/opt/hsm/lib", false),
            ("/tmp", false),
            ("/opt/vendor", false),
            ("/twice", false),
            ("/", false),
        ] {
            assert_eq!(is_read_only_volume(Path::new(directory), mounts), is_safe, "{directory}");
        }
    }

    /// A way that leads nowhere or in a circle ends.
    #[test]
    fn ways_without_an_end() {
        let place = tempfile::tempdir().unwrap();
        symlink("circle", place.path().join("circle")).unwrap();
        for name in ["circle", "missing", "missing/../circle"] {
            assert_eq!(weak_directory(&place.path().join(name), 0), None, "{name}");
        }
    }
}

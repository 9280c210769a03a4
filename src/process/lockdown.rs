//! Restrictions that the process imposes on itself before it serves: no core dumps, no tracing by
//! others, and, if the settings require it, no access to files that it does not need.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::observe::redaction::shown_path;
use crate::settings::{Confinement, LandlockPaths, Settings};
use crate::state::directory::Directory;

/// Paths that any program reads: libraries, the settings of the resolver and of OpenSSL, the number
/// of cores, time zones, random bytes. `/proc/self` is this process's own directory.
const SYSTEM_READ: [&str; 12] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/random",
    "/dev/urandom",
];
/// Paths to which any program writes.
const SYSTEM_WRITE: [&str; 1] = ["/dev/null"];

/// Forbids core dumps, and forbids other processes of the same user to trace this one or read its
/// memory (prctl(2), PR_SET_DUMPABLE). Must be called at the very start, before the first secret is
/// read.
///
/// # Errors
/// The system refuses; the error is a text for the log.
pub(crate) fn forbid_dumps() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("PR_SET_DUMPABLE: {error}"))
}

/// Undoes [`forbid_dumps`] if the settings allow core dumps. Otherwise also limits the size of core
/// files to 0, for kernels that ignore the first setting.
///
/// # Errors
/// The system refuses; the error is a text for the log.
pub(super) fn dumps(confinement: &Confinement) -> Result<(), String> {
    if confinement.allow_core_dumps {
        return set_dumpable_behavior(DumpableBehavior::Dumpable)
            .map_err(|error| format!("PR_SET_DUMPABLE: {error}"));
    }
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| format!("RLIMIT_CORE: {error}"))
}

/// Restricts this thread, and all threads that it starts, to the files that the settings name and
/// that the proxy itself needs (Landlock). Must be called after the PKCS#11 modules are loaded and
/// while the process has only one thread. Sockets are not restricted.
///
/// # Errors
/// The kernel has no Landlock, or it is disabled: a control that was requested is never silently
/// omitted.
pub(super) fn landlock(settings: &Settings) -> Result<(), String> {
    let Some(paths) = &settings.confinement.landlock else { return Ok(()) };
    restrict(settings, paths).map_err(|error| {
        format!(
            "[security] landlock: {error}; the kernel needs Landlock (Linux 5.13, and \
             \"landlock\" among its lsm=), or set landlock to false"
        )
    })
}

fn restrict(settings: &Settings, paths: &LandlockPaths) -> Result<(), String> {
    // Each kernel enforces the rights that it supports; one that supports none is rejected below.
    let all = AccessFs::from_all(ABI::V5);
    let read = AccessFs::from_read(ABI::V5);
    let write = all & !AccessFs::Execute;
    let mut rules: Vec<(PathBuf, landlock::BitFlags<AccessFs>)> = Vec::new();
    rules.extend(SYSTEM_READ.iter().map(|path| (PathBuf::from(path), read)));
    rules.extend(SYSTEM_WRITE.iter().map(|path| (PathBuf::from(path), write)));
    rules.extend(paths.reload.iter().chain(&paths.read).cloned().map(|path| (path, read)));
    rules.extend(paths.write.iter().cloned().map(|path| (path, write)));
    for token in &settings.pkcs11.tokens {
        rules.push((token.module.clone(), read));
    }
    if let Some(file) = &settings.tracing.file {
        make_directory(&file.directory)?;
        rules.push((file.directory.clone(), write));
    }
    if let Some(pid_file) = &settings.server.pid_file {
        // A rule requires an existing file. Only the file is writable, not its directory, so it is
        // emptied at the end rather than removed.
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(pid_file)
            .map_err(|error| format!("[server] pid_file {}: {error}", shown_path(pid_file)))?;
        rules.push((pid_file.clone(), write));
    }
    if let Some(audit) = &settings.audit {
        make_directory(&audit.directory)?;
        rules.push((audit.directory.clone(), write));
    }
    if let Some(directory) = &settings.state_directory {
        // If the directory cannot be created, the proxy serves without it.
        let directory = Directory::new(directory);
        rules.push((directory.path().to_owned(), write));
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(Ruleset::create)
        .map_err(|error| error.to_string())?;
    for (path, access) in rules {
        // A missing path needs no rule; paths named in the settings have been checked before.
        let Ok(open) = PathFd::new(&path) else { continue };
        let is_file = fs::metadata(&path).is_ok_and(|metadata| !metadata.is_dir());
        let access = if is_file { access & AccessFs::from_file(ABI::V5) } else { access };
        ruleset = ruleset
            .add_rule(PathBeneath::new(open, access))
            .map_err(|error| format!("{}: {error}", shown_path(&path)))?;
    }
    let status = ruleset.restrict_self().map_err(|error| error.to_string())?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("the kernel does not enforce it".to_owned());
    }
    Ok(())
}

/// Creates a log directory. The log itself would create it only when it starts, too late for a
/// rule.
fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", shown_path(path)))
}

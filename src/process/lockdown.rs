//! Restrictions that the process imposes on itself before it serves: no core dumps, no tracing by
//! others, and, if the settings require it, no access to files that it does not need.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::notify::Notifier;
use super::pid_file;
use crate::observe::redaction::shown_path;
use crate::settings::{Confinement, LandlockPaths, Settings};
use crate::state::directory::Directory;

/// Paths that any program reads: libraries, the settings of the resolver and of OpenSSL, the number
/// of cores, time zones, random bytes. `/proc/self` is this process's own directory.
const SYSTEM_READ: [&str; 13] = [
    "/etc",
    // Where /etc/resolv.conf may lead to.
    "/run/systemd/resolve",
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
/// The CAs that the system trusts, where `/etc` has links to them. A reload reads them again for
/// `[otlp]` and `[[syslog]]` without a file of their own.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
];
/// Variables that name these CAs instead: files, and directories between colons.
const AUTHORITIES_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
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
/// while the process has only one thread. Where the kernel can (Linux 6.12), also forbids signals to
/// other processes and connections to their abstract Unix sockets, unless systemd is notified
/// through one. Other sockets are not restricted.
///
/// # Errors
/// The kernel has no Landlock, or it is disabled: a control that was requested is never silently
/// omitted.
pub(super) fn landlock(settings: &Settings, notifier: &Notifier) -> Result<(), String> {
    let Some(paths) = &settings.confinement.landlock else { return Ok(()) };
    let mut scopes = Scope::from_all(ABI::V6);
    if notifier.is_abstract() {
        scopes.remove(Scope::AbstractUnixSocket);
    }
    let outcome = rules(settings, paths).and_then(|rules| restrict(rules, scopes));
    outcome.map_err(|error| {
        format!(
            "[security] landlock: {error}; the kernel needs Landlock (Linux 5.13, and \
             \"landlock\" among its lsm=), or set landlock to false"
        )
    })
}

/// A path, with what may be done to it and to everything below it.
type Rule = (PathBuf, BitFlags<AccessFs>);

fn rules(settings: &Settings, paths: &LandlockPaths) -> Result<Vec<Rule>, String> {
    let read = AccessFs::from_read(ABI::V5);
    let write = AccessFs::from_all(ABI::V5) & !AccessFs::Execute;
    let mut rules: Vec<Rule> = Vec::new();
    rules.extend(SYSTEM_READ.iter().map(|path| (PathBuf::from(path), read)));
    rules.extend(SYSTEM_AUTHORITIES.iter().map(|path| (PathBuf::from(path), read)));
    for named in AUTHORITIES_VARIABLES.iter().filter_map(std::env::var_os) {
        rules.extend(std::env::split_paths(&named).map(|path| (path, read)));
    }
    rules.extend(SYSTEM_WRITE.iter().map(|path| (PathBuf::from(path), write)));
    // Neither to list these nor to execute what is in them.
    rules.extend(paths.reload.iter().cloned().map(|path| (path, AccessFs::ReadFile.into())));
    rules.extend(paths.read.iter().cloned().map(|path| (path, read)));
    rules.extend(paths.write.iter().cloned().map(|path| (path, write)));
    for token in &settings.pkcs11.tokens {
        rules.push((token.module.clone(), read));
    }
    if let Some(file) = &settings.tracing.file {
        make_directory(&file.directory)?;
        rules.push((file.directory.clone(), write));
    }
    if let Some(path) = &settings.server.pid_file {
        // A rule requires an existing file. Only the file is writable, not its directory, so it is
        // emptied at the end rather than removed.
        pid_file::create(path)
            .map_err(|error| format!("[server] pid_file {}: {error}", shown_path(path)))?;
        rules.push((path.clone(), write));
    }
    if let Some(audit) = &settings.audit {
        make_directory(&audit.directory)?;
        rules.push((audit.directory.clone(), write));
        if !audit.state_file().exists() {
            rules.push((audit.key_file.clone(), AccessFs::ReadFile.into()));
        }
    }
    if let Some(directory) = &settings.state_directory {
        // If the directory cannot be created, the proxy serves without it.
        let directory = Directory::new(directory);
        rules.push((directory.path().to_owned(), write));
    }
    Ok(rules)
}

/// Restricts this thread and those that it starts.
fn restrict(rules: Vec<Rule>, scopes: BitFlags<Scope>) -> Result<(), String> {
    // Each kernel enforces what it supports; one that supports none is rejected below.
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.scope(scopes))
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};

    use super::*;

    /// In a restricted thread: signals another process, and connects to an abstract socket of a
    /// thread that is not restricted. Returns the outcome of the one, and whether the other worked.
    fn reach_out(scopes: BitFlags<Scope>) -> (Result<(), Errno>, bool) {
        let name = format!("xks-proxy-lockdown-{}-{}", std::process::id(), scopes.bits());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let restricted = thread::spawn(move || {
            restrict(Vec::new(), scopes).unwrap();
            (test_kill_process(pid), UnixStream::connect_addr(&address).is_ok())
        });
        let outcome = restricted.join().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        outcome
    }

    /// A process that was taken over can neither signal others nor connect to abstract sockets,
    /// which have no permissions.
    #[test]
    fn signals_and_abstract_sockets() {
        let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if required.scope(Scope::from_all(ABI::V6)).is_err() {
            // Not tested: the kernel has no scopes (before Linux 6.12).
            return;
        }
        assert_eq!(reach_out(Scope::AbstractUnixSocket.into()), (Ok(()), false));
        assert_eq!(reach_out(Scope::Signal.into()), (Err(Errno::PERM), true));
        assert_eq!(reach_out(Scope::from_all(ABI::V6)), (Err(Errno::PERM), false));
    }
}

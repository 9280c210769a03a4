//! The running proxy that a command is about: which process it is, and that it is one of ours.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

use crate::exit::Failed;
use crate::process::pid_file;

/// The process that `pid` or else the settings' `[server] pid_file` names.
///
/// # Errors
/// There is none, or it is not a proxy.
pub(super) fn find(pid: Option<u32>, pid_file: Option<&Path>) -> Result<(u32, Pid), Failed> {
    let pid = match (pid, pid_file) {
        (Some(pid), _) => pid,
        (None, Some(path)) => pid_file::read(path)
            .map_err(|error| Failed::unavailable(format!("{}: {error}", path.display())))?,
        (None, None) => {
            let message =
                "which process? Name it by --pid, or have the settings say [server] pid_file";
            return Err(Failed::unavailable(message.to_owned()));
        }
    };
    own_kind(pid).map(|process| (pid, process))
}

/// A file may outlive its process, and a signal ends most programs: only one of our own name
/// gets it.
fn own_kind(pid: u32) -> Result<Pid, Failed> {
    let name_of = |process: &str| fs::read_to_string(format!("/proc/{process}/comm"));
    let no_such = || Failed::unavailable(format!("there is no process {pid}"));
    let name = name_of(&pid.to_string()).map_err(|_| no_such())?;
    // Another version may have a file of another name, as "xks-proxy-2".
    let is_ours = name.starts_with("xks-proxy") || name_of("self").is_ok_and(|own| own == name);
    if !is_ours {
        let message = format!("process {pid} is not an xks-proxy, but {}", name.trim_end());
        return Err(Failed::unavailable(message));
    }
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(no_such)
}

/// Whether the process has a handler for the signal: another version may know no such signal, and
/// would be ended by it.
pub(super) fn handles(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    has_bit(&status, signal)
}

/// The same, of a file of proc_pid_status(5).
fn has_bit(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let shift = signal.checked_sub(1).and_then(|shift| u32::try_from(shift).ok());
    mask.zip(shift).is_some_and(|(mask, shift)| mask.checked_shr(shift).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As proc_pid_status(5) has it: signal 1 is the lowest bit.
    #[test]
    fn masks() {
        let status = "SigIgn:\tffffffffffffffff\nSigCgt:\t0000000000008001\n";
        assert!(has_bit(status, 1) && has_bit(status, 16));
        assert!(!has_bit(status, 2) && !has_bit(status, 0) && !has_bit(status, 65));
        assert!(!has_bit("", 1));
    }
}

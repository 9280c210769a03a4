//! The running proxy that a command refers to.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

use crate::exit::Failed;
use crate::observe::redaction::shown_path;
use crate::process::pid_file;

/// Returns the process `pid`, or by default the one in the settings' `[server] pid_file`.
///
/// # Errors
/// There is no such process, or it is not a proxy.
pub(super) fn find(pid: Option<u32>, pid_file: Option<&Path>) -> Result<(u32, Pid), Failed> {
    let pid = match (pid, pid_file) {
        (Some(pid), _) => pid,
        (None, Some(path)) => pid_file::read(path)
            .map_err(|error| Failed::unavailable(format!("{}: {error}", shown_path(path))))?,
        (None, None) => {
            let message =
                "which process? Name it with --pid, or set [server] pid_file in the settings";
            return Err(Failed::unavailable(message.to_owned()));
        }
    };
    own_kind(pid).map(|process| (pid, process))
}

/// Returns the process if it is a proxy. A pid file may outlive its process, and the signal would
/// end most other programs.
fn own_kind(pid: u32) -> Result<Pid, Failed> {
    let no_such = || Failed::unavailable(format!("there is no process {pid}"));
    if !pid_file::is_proxy(pid).map_err(|_| no_such())? {
        let name = pid_file::name_of(&pid.to_string()).map_err(|_| no_such())?;
        let message = format!("process {pid} is not an xks-proxy, but {name}");
        return Err(Failed::unavailable(message));
    }
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(no_such)
}

/// Returns whether the process has a handler for the signal, which would end a version without one.
pub(super) fn handles(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    has_bit(&status, signal)
}

/// Returns whether the text of proc_pid_status(5) lists a handler for the signal.
fn has_bit(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let shift = signal.checked_sub(1).and_then(|shift| u32::try_from(shift).ok());
    mask.zip(shift).is_some_and(|(mask, shift)| mask.checked_shr(shift).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signal 1 is the lowest bit (proc_pid_status(5)).
    #[test]
    fn masks() {
        let status = "SigIgn:\tffffffffffffffff\nSigCgt:\t0000000000008001\n";
        assert!(has_bit(status, 1) && has_bit(status, 16));
        assert!(!has_bit(status, 2) && !has_bit(status, 0) && !has_bit(status, 65));
        assert!(!has_bit("", 1));
    }
}

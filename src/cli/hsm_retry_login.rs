//! `xks-proxy hsm retry-login`: the operator's permission for one more attempt with a PIN that was
//! refused, or is held back because one more wrong PIN would lock the token.

use std::path::Path;

use rustix::process::{Signal, kill_process};

use super::{running, settings_file};
use crate::exit::Failed;
use crate::output::outln;
use crate::process::retry_login::SIGNAL;

/// Signals the process `pid`, or the one in the settings' `pid_file`.
///
/// # Errors
/// [`Failed`]: there is no such process, or its version lacks this command.
pub(super) fn run(file: Option<&Path>, pid: Option<u32>) -> Result<(), Failed> {
    let pid_file = match pid {
        Some(_) => None,
        None => settings_file::load(file, false)?.0.server.pid_file,
    };
    let (pid, process) = running::find(pid, pid_file.as_deref())?;
    if !running::handles(pid, SIGNAL) {
        let message = format!("process {pid} is a version without this command");
        return Err(Failed::unavailable(message));
    }
    kill_process(process, Signal::STKFLT)
        .map_err(|error| Failed::unavailable(format!("process {pid}: {error}")))?;
    outln!(
        "process {pid} was told: each PIN that was held back is tried once more within seconds; \
         the outcome is in its log"
    );
    Ok(())
}

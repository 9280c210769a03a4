//! `xks-proxy hsm retry-login`: an operator's word that a PIN which was refused, or is not tried for
//! fear of the lock, may be tried once more.

use std::path::Path;

use rustix::process::{Signal, kill_process};

use super::{running, settings_file};
use crate::exit::Failed;
use crate::output::outln;
use crate::process::retry_login::SIGNAL;

/// Tells the process `pid`, or the one that the settings' `pid_file` names.
///
/// # Errors
/// [`Failed`]: there is no such process, or it is of a version that knows nothing of this.
pub(super) fn run(file: Option<&Path>, pid: Option<u32>) -> Result<(), Failed> {
    let pid_file = match pid {
        Some(_) => None,
        None => settings_file::load(file, false)?.0.server.pid_file,
    };
    let (pid, process) = running::find(pid, pid_file.as_deref())?;
    if !running::handles(pid, SIGNAL) {
        let message = format!("process {pid} is of a version that has no such command");
        return Err(Failed::unavailable(message));
    }
    kill_process(process, Signal::STKFLT)
        .map_err(|error| Failed::unavailable(format!("process {pid}: {error}")))?;
    outln!(
        "process {pid} was told: each PIN that is not tried again is tried once more, within some \
         seconds; what came of it is in its log"
    );
    Ok(())
}

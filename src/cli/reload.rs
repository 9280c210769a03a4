//! `xks-proxy reload`: makes a running proxy read its settings again, and prints the outcome.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde::Deserialize;

use super::{admin_client, running, settings_file};
use crate::client::{Endpoint, Trust};
use crate::exit::{EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::limits::RELOAD_COMMAND_TIMEOUT;
use crate::output::Report;

/// Interval between requests for the outcome.
const POLL: Duration = Duration::from_millis(50);

/// The part of `/status.json` that concerns the settings.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SettingsStatus {
    reload_tries: u64,
    refused: Vec<String>,
    needs_restart: Vec<String>,
}

#[derive(Deserialize)]
struct Status {
    settings: SettingsStatus,
}

fn ask(admin: &Endpoint) -> Option<SettingsStatus> {
    let status: Status = admin_client::status(admin, &Trust::default()).ok()?;
    Some(status.settings)
}

/// Checks the settings file and, if it has no mistakes, makes a process read it again: `pid`, or
/// the one in the file's `pid_file`. The outcome is printed if the settings have an `[admin]`
/// listener without TLS; otherwise it is in the log.
///
/// # Errors
/// [`Failed`]: the file has mistakes, and nothing was sent; there is no such process; or it
/// refused the settings.
pub fn run(file: Option<&Path>, pid: Option<u32>) -> Result<(), Failed> {
    let (settings, findings) = settings_file::load(file, false).map_err(|failed| {
        let message = format!("{}\nnothing was sent: the file has mistakes", failed.message);
        Failed::new(failed.exit_code, message)
    })?;
    let (pid, process) = running::find(pid, settings.server.pid_file.as_deref())?;
    let admin = admin_client::of_settings(settings.admin.as_ref()).ok().filter(|it| it.port > 0);
    let before = admin.as_ref().and_then(ask);
    kill_process(process, Signal::HUP)
        .map_err(|error| Failed::unavailable(format!("process {pid}: {error}")))?;
    // Only now, because the reload must not depend on anybody reading this.
    let mut report = Report::default();
    for finding in &findings {
        report.line(format_args!("{finding}"));
    }
    if let (Some(admin), Some(before)) = (admin, before) {
        tell_outcome(&mut report, pid, wait(&admin, before.reload_tries)?)?;
    } else {
        report.line(format_args!("process {pid} was told; the outcome is in its log"));
    }
    report.end_if_failed();
    Ok(())
}

fn tell_outcome(report: &mut Report, pid: u32, status: SettingsStatus) -> Result<(), Failed> {
    if !status.refused.is_empty() {
        let reasons = status.refused.join("\n");
        let message =
            format!("{reasons}\nprocess {pid} refused the settings; the former ones stay in use");
        return Err(Failed::new(EXIT_SETTINGS, message));
    }
    for member in &status.needs_restart {
        report.line(format_args!("{member}: no effect until a restart"));
    }
    report.line(format_args!("process {pid} uses the new settings"));
    Ok(())
}

fn wait(admin: &Endpoint, before: u64) -> Result<SettingsStatus, Failed> {
    let end = Instant::now() + RELOAD_COMMAND_TIMEOUT;
    while Instant::now() < end {
        thread::sleep(POLL);
        if let Some(status) = ask(admin)
            && status.reload_tries > before
        {
            return Ok(status);
        }
    }
    let message = format!(
        "the process was told, and has not reported the outcome within {RELOAD_COMMAND_TIMEOUT:?}; \
         see its log"
    );
    Err(Failed::new(EXIT_UNAVAILABLE, message))
}

//! `xks-proxy reload`: has a running proxy read its settings again, and says what came of it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::cli::client::{Endpoint, Trust};
use crate::cli::{EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed, admin_client, load, pid_file};
use crate::limits::RELOAD_COMMAND_TIMEOUT;
use crate::settings::Settings;

/// Between two looks at what came of it.
const POLL: Duration = Duration::from_millis(50);

/// The part of `/status.json` that is about the settings.
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

/// Checks the settings file and, if it is good, has the process `pid` read it again; without `pid`,
/// the one that the file's `pid_file` names. The outcome is known where the settings have an
/// `[admin]` listener without TLS; else it is in the log.
///
/// # Errors
/// [`Failed`]: the file has mistakes, and nothing was sent; there is no such process; or it
/// refused the settings.
pub fn run(file: Option<&Path>, pid: Option<u32>) -> Result<(), Failed> {
    let (settings, findings) = load(file, false).map_err(|failed| {
        let message = format!("{}\nnothing was sent: the file has mistakes", failed.message);
        Failed::new(failed.exit_code, message)
    })?;
    for finding in &findings {
        println!("{finding}");
    }
    let pid = match pid {
        Some(pid) => pid,
        None => pid_of(&settings)?,
    };
    let process = own_kind(pid)?;
    let admin = admin_client::of_settings(settings.admin.as_ref()).ok().filter(|it| it.port > 0);
    let before = admin.as_ref().and_then(ask);
    kill_process(process, Signal::HUP)
        .map_err(|error| Failed::unavailable(format!("process {pid}: {error}")))?;
    let (Some(admin), Some(before)) = (admin, before) else {
        println!("process {pid} was told; what came of it is in its log");
        return Ok(());
    };
    report(pid, wait(&admin, before.reload_tries)?)
}

fn report(pid: u32, status: SettingsStatus) -> Result<(), Failed> {
    if !status.refused.is_empty() {
        let reasons = status.refused.join("\n");
        let message =
            format!("{reasons}\nprocess {pid} refused the settings; the former ones stay");
        return Err(Failed::new(EXIT_SETTINGS, message));
    }
    for member in &status.needs_restart {
        println!("{member}: no effect until a restart");
    }
    println!("process {pid} has taken the settings up");
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
        "the process was told, and has not said what came of it within {RELOAD_COMMAND_TIMEOUT:?}; \
         see its log"
    );
    Err(Failed::new(EXIT_UNAVAILABLE, message))
}

fn pid_of(settings: &Settings) -> Result<u32, Failed> {
    let Some(path) = &settings.server.pid_file else {
        let message = "which process? Name it by --pid, or have the settings say [server] pid_file";
        return Err(Failed::unavailable(message.to_owned()));
    };
    pid_file::read(path)
        .map_err(|error| Failed::unavailable(format!("{}: {error}", path.display())))
}

/// A file may outlive its process, and the signal ends most programs: only one of our own name
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

//! One run of the daemon, from the settings to the exit code.

use std::sync::Arc;

use signal_hook::consts::SIGXFSZ;

use super::assemble::Assembled;
use super::bind::Bound;
use super::drain::{End, drain};
use super::events::Events;
use super::notify::Notifier;
use super::run::Running;
use super::start::Start;
use super::telemetry::Telemetry;
use super::{audit, lockdown, pid_file, startup_log};
use crate::exit::{EXIT_SETTINGS, EXIT_SOFTWARE, EXIT_WEDGED, Failed};
use crate::hsm::pkcs11::ffi::{RawModule, set_environment};
use crate::observe::otlp::Otlp;
use crate::observe::redaction::shown_path;
use crate::observe::syslog::{LostAtStop, Syslog};
use crate::observe::{log, panics};
use crate::settings::{Finding, Settings};

/// Serves until SIGTERM or SIGINT, or until another process serves in its place (SIGUSR2), then
/// drains.
///
/// # Errors
/// [`Failed`]: nothing was started, or an event loop ended by itself.
pub(crate) fn run(start: Start, settings: Settings, findings: &[Finding]) -> Result<(), Failed> {
    refuse_second_process(&start, &settings)?;
    // No thread has been started yet.
    set_environment(&settings.pkcs11.environment);
    let dumps = lockdown::dumps(&settings.confinement);
    let modules = lock_down(&settings, &start.notifier)?;
    let otlp = settings.otlp.as_ref().map(|config| Arc::new(Otlp::new(config)));
    let lines = otlp.as_ref().and_then(|otlp| otlp.lines());
    let syslog = Syslog::start(&settings.syslog)
        .map_err(|error| Failed::unavailable(format!("[[syslog]]: no thread: {error}")))?;
    let log = log::start(&settings.tracing, syslog.log(), lines)
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[tracing]: {error}")))?;
    let log = Arc::new(log);
    let panics = panics::count_panics();
    // With a handler, exceeding the file size limit (RLIMIT_FSIZE) makes a write fail instead of
    // ending the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    if let Err(error) = dumps {
        tracing::warn!(error, "core dumps cannot be set as in the settings");
    }
    let audit = audit::open(&settings, start.takeover.as_ref(), syslog.audit());
    let outcome = audit.and_then(|audit| {
        let (log, syslog, otlp) = (Arc::clone(&log), syslog.clone(), otlp.clone());
        let telemetry = Telemetry { log, audit, syslog, otlp, panics };
        let outcome = serve(start, settings, findings, &telemetry);
        if !telemetry.audit.stop() {
            tracing::error!("the audit log's last lines could not be written in time");
        }
        outcome
    });
    drop(modules);
    if let Err(failed) = &outcome {
        tracing::error!("{}", failed.message);
    }
    tracing::info!("stopped");
    end_exports(otlp.as_deref(), &syslog);
    log.stop();
    // A normal exit could hang: a module's exit handler might wait for the calls that are stuck in
    // it.
    match outcome {
        Ok(End::Clean) => Ok(()),
        Ok(End::Stuck) => signal_hook::low_level::exit(0),
        Ok(End::Wedged) => signal_hook::low_level::exit(EXIT_WEDGED.into()),
        Err(failed) => Err(failed),
    }
}

/// Sends what the collectors have not got yet, within a bounded time, and logs what they will not get:
/// no metric shows it any more. These lines are only in the log's own outputs.
fn end_exports(otlp: Option<&Otlp>, syslog: &Syslog) {
    for (signal, lost) in otlp.map(Otlp::stop).unwrap_or_default() {
        tracing::warn!(signal, lost, "the last of these could not be exported in time by OTLP");
    }
    for LostAtStop { server, log, lines } in syslog.stop() {
        tracing::warn!(
            server,
            log,
            dropped_lines = lines,
            "the syslog collector did not take the last lines in time"
        );
    }
}

/// Refuses to start beside a proxy that has the same pid file: `reload` would find only one of the
/// two. Must be called before Landlock hides other processes.
fn refuse_second_process(start: &Start, settings: &Settings) -> Result<(), Failed> {
    let Some(path) = &settings.server.pid_file else { return Ok(()) };
    let former = start.takeover.as_ref().and_then(|takeover| takeover.from.parse().ok());
    match pid_file::running_proxy(path, former) {
        None => Ok(()),
        Some(id) => Err(Failed::unavailable(format!(
            "[server] pid_file {}: the proxy in it, process {id}, is running; end it first, or give \
             this one another pid file",
            shown_path(path)
        ))),
    }
}

/// Applies Landlock if the settings require it. The modules are loaded first, because a vendor's
/// library may load files from anywhere; they stay loaded while the returned values live.
fn lock_down(settings: &Settings, notifier: &Notifier) -> Result<Vec<RawModule>, Failed> {
    if settings.confinement.landlock.is_none() {
        return Ok(Vec::new());
    }
    // A module that cannot be loaded is reported when it is used.
    let modules = settings.pkcs11.tokens.iter().filter_map(|it| RawModule::load(&it.module).ok());
    let modules = modules.collect();
    lockdown::landlock(settings, notifier).map_err(Failed::unavailable)?;
    Ok(modules)
}

fn serve(
    start: Start,
    settings: Settings,
    findings: &[Finding],
    telemetry: &Telemetry,
) -> Result<End, Failed> {
    let Start { given, takeover, notifier } = start;
    // The signal thread starts first, so that signals do not interrupt other threads.
    let (events, reload_requests) = Events::of_signals(&telemetry.log, &telemetry.audit)
        .map_err(|error| Failed::new(EXIT_SOFTWARE, format!("signals: {error}")))?;
    startup_log::settings(&settings, findings);
    let bound = Bound::new(&settings, given)?;
    let assembled = Assembled::new(settings, bound, telemetry, notifier)?;
    let Some(running) = Running::start(assembled, takeover, &events, reload_requests)? else {
        return Ok(End::Clean);
    };
    let successor = running.wait(&events);
    drain(running, successor, &events)
}

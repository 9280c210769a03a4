//! `xks-proxy serve`: from the settings to the event loops, and through the drain to the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::pid_file::PidFile;
use super::reload::{self, InUse, Reloader};
use super::{
    EXIT_SETTINGS, EXIT_SOFTWARE, EXIT_UNAVAILABLE, EXIT_WEDGED, Failed, lockdown, startup_log,
};
use crate::admin::{self, Admin};
use crate::hsm::Hsm;
use crate::hsm::pkcs11::ffi::{RawModule, set_environment};
use crate::limits::{HSM_STOP_TIMEOUT, WEDGED_TIME};
use crate::observe::log;
use crate::observe::metrics::counter::SharedCounter;
use crate::observe::metrics::{CertificateMetrics, Metrics};
use crate::server::Server;
use crate::settings::{self, Finding, Settings};

/// How often to look whether the fleet is wedged.
const WEDGE_POLL: Duration = Duration::from_millis(250);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`Failed`]: nothing was started, or an event loop ended by itself.
pub fn run() -> Result<(), Failed> {
    let (settings, findings) = super::load(None, false)?;
    // No thread has been started yet.
    set_environment(&settings.pkcs11.environment);
    let dumps = lockdown::dumps(&settings.confinement);
    let modules = lock_down(&settings)?;
    let log = log::start(&settings.tracing)
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[tracing]: {error}")))?;
    let log = Arc::new(log);
    let panics = watch_panics();
    if let Err(error) = dumps {
        tracing::warn!(error, "core dumps are not as the settings have them");
    }
    let outcome = serve(Arc::new(settings), &findings, &log, panics);
    drop(modules);
    if let Err(failed) = &outcome {
        tracing::error!("{}", failed.message);
    }
    tracing::info!("stopped");
    log.stop();
    // A module's own clean-up at exit might wait for the calls that it is stuck in.
    match outcome {
        Ok(End::Clean) => Ok(()),
        Ok(End::Stuck) => signal_hook::low_level::exit(0),
        Ok(End::Wedged) => signal_hook::low_level::exit(EXIT_WEDGED.into()),
        Err(failed) => Err(failed),
    }
}

/// Restricts the process if the settings say so. The modules are loaded before, since a vendor's
/// library may be put together from files anywhere, and stay loaded for as long as these live.
fn lock_down(settings: &Settings) -> Result<Vec<RawModule>, Failed> {
    if settings.confinement.landlock.is_none() {
        return Ok(Vec::new());
    }
    // One that cannot be loaded is reported when it is to be used.
    let modules = settings.pkcs11.tokens.iter().filter_map(|it| RawModule::load(&it.module).ok());
    let modules = modules.collect();
    lockdown::landlock(settings).map_err(|message| Failed::new(EXIT_UNAVAILABLE, message))?;
    Ok(modules)
}

/// How serving ended.
enum End {
    Clean,
    /// A call to the HSM is outstanding.
    Stuck,
    /// The same, and a new process is to take over.
    Wedged,
}

fn serve(
    started: Arc<Settings>,
    findings: &[Finding],
    log: &Arc<log::Log>,
    panics: Arc<SharedCounter>,
) -> Result<End, Failed> {
    let settings = &*started;
    // Before any other thread, so that none of them is interrupted by a signal.
    let signals = signals(log)?;
    startup_log::settings(settings, findings);
    let server = Server::bind(&settings.server_config()).map_err(|error| {
        let message = format!("[server] cannot listen on {}: {}", error.address, error.error);
        Failed::new(EXIT_UNAVAILABLE, message)
    })?;
    let admin = settings.admin.as_ref().map(bind_admin).transpose()?;
    let metrics = Arc::new(Metrics::new(server.event_loops(), panics));
    metrics.set_certificates(certificates(settings));
    let mut service = settings.service();
    service.count_in(&metrics);
    let service = Arc::new(service);
    let hsm = Hsm::start(settings.hsm_config(&service), server.completions())
        .map_err(|error| Failed::new(EXIT_SETTINGS, error.message))?;
    startup_log::listening(&server, settings, admin.as_ref());
    startup_log::hsm(Arc::clone(&hsm), settings);

    let lifecycle = server.lifecycle();
    let in_use = InUse {
        settings: Arc::new(ArcSwap::new(Arc::clone(&started))),
        hsm: Arc::new(ArcSwap::new(Arc::clone(&hsm))),
        facts: Arc::new(ArcSwap::from_pointee(facts(settings, &server))),
    };
    let reloader = Reloader {
        started: Arc::clone(&started),
        in_use: in_use.clone(),
        service: Arc::clone(&service),
        changes: server.changes(),
        completions: server.completions(),
        lifecycle: Arc::clone(&lifecycle),
        metrics: Arc::clone(&metrics),
        log: Arc::clone(log),
        admin: admin.as_ref().and_then(Admin::acceptor),
    };
    if let Some(admin) = admin {
        let sources = admin::Sources {
            metrics: Arc::clone(&metrics),
            hsm: Arc::clone(&in_use.hsm),
            lifecycle: Arc::clone(&lifecycle),
            log_loss: log.loss(),
            facts: Arc::clone(&in_use.facts),
        };
        admin
            .start(sources)
            .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no admin thread: {error}")))?;
    }
    let has_failed = Arc::new(AtomicBool::new(false));
    let ended = {
        let has_failed = Arc::clone(&has_failed);
        move |reason: &str| {
            tracing::error!(reason, "an event loop ended; the process stops");
            has_failed.store(true, Ordering::Relaxed);
            // Has the main thread drain what other loops have in flight.
            let _ = signal_hook::low_level::raise(SIGTERM);
        }
    };
    let has_wedged = Arc::new(AtomicBool::new(false));
    if settings.pkcs11.exit_when_wedged {
        watch_for_wedge(&in_use.hsm, &has_wedged)?;
    }
    let mut loops = server
        .start(&service, &hsm, || log.access_log(), &metrics, ended)
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no event loop: {error}")))?;

    metrics.reloads.started();
    let reloader = reload::start(reloader, signals.reload)
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no thread: {error}")))?;
    let _pid_file = settings.server.pid_file.as_deref().map(write_pid_file).transpose()?;

    let signal = signals.end.recv().unwrap_or("signals end");
    let (delay, timeout) = {
        let server = &in_use.settings.load().server;
        (server.drain_delay, server.drain_timeout)
    };
    tracing::info!(signal, ?delay, "draining: not ready any more");
    lifecycle.drain();
    // A second signal cuts the delay short.
    let _ = signals.end.recv_timeout(delay);
    tracing::info!(?timeout, "accepting ends");
    lifecycle.stop();
    let end = Instant::now() + timeout;
    while !loops.iter().all(thread::JoinHandle::is_finished) && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
    loops.retain(|event_loop| !event_loop.is_finished());
    if !loops.is_empty() {
        tracing::warn!("connections were still open at the end of drain_timeout_milli");
    }
    // A reload that is at work may bring other tokens.
    let _no_reload = reloader.try_lock_for(HSM_STOP_TIMEOUT);
    let is_stuck = !in_use.hsm.load().stop(HSM_STOP_TIMEOUT);
    if is_stuck {
        tracing::warn!("a call to the HSM is still outstanding; its module is left as it is");
    }
    if has_failed.load(Ordering::Relaxed) {
        return Err(Failed::new(EXIT_SOFTWARE, "an event loop ended by itself".to_owned()));
    }
    Ok(match (has_wedged.load(Ordering::Relaxed), is_stuck) {
        (true, _) => End::Wedged,
        (false, true) => End::Stuck,
        (false, false) => End::Clean,
    })
}

/// Has the process drain and end once the fleet has been wedged for [`WEDGED_TIME`].
fn watch_for_wedge(hsm: &Arc<ArcSwap<Hsm>>, has_wedged: &Arc<AtomicBool>) -> Result<(), Failed> {
    let (hsm, has_wedged) = (Arc::downgrade(hsm), Arc::clone(has_wedged));
    let watch = move || {
        let mut since = None;
        while let Some(hsm) = hsm.upgrade() {
            since =
                if hsm.load().is_wedged() { since.or_else(|| Some(Instant::now())) } else { None };
            drop(hsm);
            if since.is_some_and(|then: Instant| then.elapsed() >= WEDGED_TIME) {
                tracing::error!("calls to the HSM do not return; the process ends to start anew");
                has_wedged.store(true, Ordering::Relaxed);
                let _ = signal_hook::low_level::raise(SIGTERM);
                return;
            }
            thread::sleep(WEDGE_POLL);
        }
    };
    let started = thread::Builder::new().name("wedge-watch".to_owned()).spawn(watch);
    started.map(drop).map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no thread: {error}")))
}

/// What signals ask for.
struct Asked {
    /// The end; with the signal's name.
    end: Receiver<&'static str>,
    /// That the settings be read again. What comes while one waits is the same.
    reload: Receiver<()>,
}

/// What signals ask for, as they come. SIGUSR1 is dealt with at once: see [`reopen`].
fn signals(log: &Arc<log::Log>) -> Result<Asked, Failed> {
    let failed = |error: std::io::Error| Failed::new(EXIT_SOFTWARE, format!("signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(failed)?;
    let (end_sender, end) = mpsc::sync_channel(4);
    let (reload_sender, reload) = mpsc::sync_channel(1);
    let log = Arc::clone(log);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                // Whoever sends more than we can wait for has been heard.
                match signal {
                    SIGHUP => drop(reload_sender.try_send(())),
                    SIGUSR1 => reopen(&log),
                    SIGTERM => drop(end_sender.try_send("SIGTERM")),
                    _ => drop(end_sender.try_send("SIGINT")),
                }
            }
        })
        .map_err(failed)?;
    Ok(Asked { end, reload })
}

/// All files that are written for long are opened anew, by their names: logrotate has moved them
/// away. Does not wait for a disk.
fn reopen(log: &log::Log) {
    tracing::info!("log files are opened anew");
    log.reopen();
}

fn write_pid_file(path: &Path) -> Result<PidFile, Failed> {
    PidFile::write(path).map_err(|error| {
        let message = format!("[server] pid_file {}: {error}", path.display());
        Failed::new(EXIT_UNAVAILABLE, message)
    })
}

fn bind_admin(settings: &settings::Admin) -> Result<Admin, Failed> {
    Admin::bind(settings).map_err(|error| {
        let message = format!("[admin] cannot listen on {}: {error}", settings.address);
        Failed::new(EXIT_UNAVAILABLE, message)
    })
}

pub(super) fn certificates(settings: &Settings) -> Vec<CertificateMetrics> {
    let admin = settings.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    let listeners = [("api", settings.tls.as_ref()), ("admin", admin)];
    listeners
        .into_iter()
        .filter_map(|(listener, tls)| {
            let certificate = &tls?.certificate;
            Some(CertificateMetrics {
                listener,
                subject: certificate.subject.clone(),
                not_after_unix_secs: certificate.not_after_unix_secs,
            })
        })
        .collect()
}

fn facts(settings: &Settings, server: &Server) -> admin::Facts {
    let deadline = settings.limits.timeouts.request.as_millis();
    admin::Facts {
        api: server.api_address(),
        is_tls: settings.tls.is_some(),
        is_mtls: settings.tls.as_ref().is_some_and(|tls| tls.is_client_certificate_required),
        ping: server.ping_address(),
        max_connections: settings.limits.max_connections,
        request_deadline_milli: u64::try_from(deadline).unwrap_or(u64::MAX),
    }
}

/// Counts panics and logs where they happen. A panic's message may hold a peer's bytes, so the
/// log gets its place alone.
fn watch_panics() -> Arc<SharedCounter> {
    let panics: Arc<SharedCounter> = Arc::default();
    let counter = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| {
        counter.add(1);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic: this is a defect");
    }));
    panics
}

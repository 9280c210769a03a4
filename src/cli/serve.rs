//! `xks-proxy serve`: from the settings to the event loops, and through the drain to the end.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use signal_hook::consts::{SIGTERM, SIGXFSZ};

use super::events::Events;
use super::hsm_caller::HsmCaller;
use super::inherited::{self, Start};
use super::kept_state::KeptState;
use super::pid_file::PidFile;
use super::reload::{self, InUse, Reloader};
use super::upgrade::{Program, Sockets};
use super::{
    EXIT_SETTINGS, EXIT_SOFTWARE, EXIT_UNAVAILABLE, EXIT_WEDGED, Failed, audit, lockdown,
    startup_log, watchdog,
};
use crate::admin::{self, Admin};
use crate::hsm::Hsm;
use crate::hsm::pkcs11::ffi::{RawModule, set_environment};
use crate::limits::{HSM_STOP_TIMEOUT, WEDGED_TIME};
use crate::observe::audit::Audit;
use crate::observe::metrics::counter::SharedCounter;
use crate::observe::metrics::{CertificateMetrics, Metrics};
use crate::observe::{log, panics};
use crate::server::Server;
use crate::settings::{self, Finding, Settings};

/// How often to look whether the fleet is wedged.
const WEDGE_POLL: Duration = Duration::from_millis(250);

/// Serves until SIGTERM or SIGINT, or until another process does in its place (SIGUSR2), then
/// drains.
///
/// # Errors
/// [`Failed`]: nothing was started, or an event loop ended by itself.
pub fn run() -> Result<(), Failed> {
    let start = Start::new()?;
    let (settings, findings) = super::load(None, false)?;
    // No thread has been started yet.
    set_environment(&settings.pkcs11.environment);
    let dumps = lockdown::dumps(&settings.confinement);
    let modules = lock_down(&settings)?;
    let log = log::start(&settings.tracing)
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[tracing]: {error}")))?;
    let log = Arc::new(log);
    let panics = panics::watch();
    // A limit on the size of files (RLIMIT_FSIZE) is a failed write, and not the end.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    if let Err(error) = dumps {
        tracing::warn!(error, "core dumps are not as the settings have them");
    }
    let outcome = audit::open(&settings).and_then(|audit| {
        let outcome = serve(Arc::new(settings), &findings, &log, &audit, panics, start);
        if !audit.stop() {
            tracing::error!("the audit log's last lines could not be written in time");
        }
        outcome
    });
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
    audit: &Audit,
    panics: Arc<SharedCounter>,
    start: Start,
) -> Result<End, Failed> {
    let settings = &*started;
    let Start { given, takeover, notifier } = start;
    // Before any other thread, so that none of them is interrupted by a signal.
    let (events, told_to_reload) = Events::of_signals(log, audit)
        .map_err(|error| Failed::new(EXIT_SOFTWARE, format!("signals: {error}")))?;
    startup_log::settings(settings, findings);
    let inherited_sockets = given.len();
    let assigned = inherited::assign(given, settings)
        .map_err(|findings| Failed::new(EXIT_SETTINGS, findings.join("\n")))?;
    let config = settings.server_config();
    let mut server = Server::bind_with(&config, assigned.server).map_err(|error| {
        let message = format!("[server] cannot listen on {}: {}", error.address, error.error);
        Failed::new(EXIT_UNAVAILABLE, message)
    })?;
    let admin = match &settings.admin {
        Some(settings) => Some(bind_admin(settings, assigned.admin)?),
        None => None,
    };
    let sockets = Sockets::of(&mut server, admin.as_ref())
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("[admin]: {error}")))?;
    let metrics = Arc::new(Metrics::new(server.event_loops(), panics));
    metrics.set_certificates(certificates(settings));
    // Before the admin listener tells of it.
    metrics.reloads.started();
    let mut service = settings.service();
    service.count_in(&metrics);
    let service = Arc::new(service);
    let mut completions = server.completions();
    let caller = HsmCaller::new(u16::try_from(completions.len()).unwrap_or(u16::MAX));
    completions.push(caller.inbox());
    let state = KeptState::read(settings);
    let hsm = Hsm::start(state.hsm_config(settings, &service), completions.clone())
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[pkcs11]: {error}")))?;
    state
        .save_changes()
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no thread: {error}")))?;
    startup_log::listening(&server, settings, admin.as_ref(), inherited_sockets);
    startup_log::hsm(Arc::clone(&hsm), settings);

    let lifecycle = server.lifecycle();
    let in_use = InUse {
        settings: Arc::new(ArcSwap::new(Arc::clone(&started))),
        hsm: Arc::new(ArcSwap::new(Arc::clone(&hsm))),
        facts: Arc::new(ArcSwap::from_pointee(facts(settings, &server))),
    };
    audit::seal(audit, settings, &service, &in_use.hsm, caller);
    let reloader = Reloader {
        started: Arc::clone(&started),
        in_use: in_use.clone(),
        service: Arc::clone(&service),
        changes: server.changes(),
        completions,
        lifecycle: Arc::clone(&lifecycle),
        metrics: Arc::clone(&metrics),
        log: Arc::clone(log),
        audit: audit.clone(),
        state,
        admin: admin.as_ref().and_then(Admin::acceptor),
        notifier: notifier.clone(),
    };
    if let Some(admin) = admin {
        let sources = admin::Sources {
            metrics: Arc::clone(&metrics),
            hsm: Arc::clone(&in_use.hsm),
            lifecycle: Arc::clone(&lifecycle),
            lost_lines: log.lost_lines(),
            audit: audit.clone(),
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
    if let Some(takeover) = &takeover
        && !events.wait_for_token(&hsm, takeover)
    {
        return Ok(End::Clean);
    }
    // Who sees it serve finds it there.
    let _pid_file = settings.server.pid_file.as_deref().map(write_pid_file).transpose()?;
    let mut loops = server
        .start(&service, &hsm, || log.access_log().with_audit(audit.handle()), &metrics, ended)
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no event loop: {error}")))?;
    // Whoever works with it has it. What it alone names is shown until a reload takes its place.
    drop(service);

    if let Some(takeover) = takeover {
        takeover.finish();
    }
    // An HSM that is away does not hold this up: systemd would start the process again and again,
    // and each start logs in. `/readyz` says whether a token works.
    notifier.ready("serving");
    watchdog::start(&notifier, &lifecycle)
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no thread: {error}")))?;
    let reloader = reload::start(reloader, told_to_reload)
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("no thread: {error}")))?;

    let program = Program::new(settings, &notifier);
    let successor = events.until_the_end(&program, &sockets, &notifier);
    let (delay, timeout) = {
        let server = &in_use.settings.load().server;
        (server.drain_delay, server.drain_timeout)
    };
    match successor {
        Some(successor) => {
            lifecycle.hand_over();
            notifier.hand_over_to(successor.pid);
            successor.go_on();
            tracing::info!(pid = successor.pid, ?delay, "draining: another process serves");
        }
        None => {
            notifier.stopping();
            tracing::info!(?delay, "draining: not ready any more");
            lifecycle.drain();
        }
    }
    // A second signal cuts the delay short.
    events.wait_for_end(delay);
    tracing::info!(?timeout, "accepting ends");
    drop(sockets);
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

fn write_pid_file(path: &Path) -> Result<PidFile, Failed> {
    PidFile::write(path).map_err(|error| {
        let message = format!("[server] pid_file {}: {error}", path.display());
        Failed::new(EXIT_UNAVAILABLE, message)
    })
}

fn bind_admin(settings: &settings::Admin, given: Option<TcpListener>) -> Result<Admin, Failed> {
    Admin::bind(settings, given).map_err(|error| {
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

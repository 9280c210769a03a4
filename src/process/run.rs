//! Starting the event loops, and waiting for the end of serving.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use signal_hook::consts::SIGTERM;

use super::assemble::Assembled;
use super::events::Events;
use super::kept_usage::KeptUsage;
use super::notify::Notifier;
use super::pid_file::PidFile;
use super::reload::{self, InUse, Reloader};
use super::takeover::Takeover;
use super::upgrade::{Program, Sockets, Successor};
use super::{audit, watchdog, wedge};
use crate::exit::Failed;
use crate::observe::audit::Audit;
use crate::observe::redaction::shown_path;
use crate::server::lifecycle::Lifecycle;

/// A process that is serving.
pub(super) struct Running {
    pub(super) audit: Audit,
    pub(super) in_use: InUse,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) notifier: Notifier,
    pub(super) sockets: Sockets,
    pub(super) loops: Vec<JoinHandle<()>>,
    /// The lock is held during a reload.
    pub(super) reloader: Arc<Mutex<Reloader>>,
    pub(super) usage: KeptUsage,
    /// True once an event loop has ended by itself.
    pub(super) has_failed: Arc<AtomicBool>,
    /// True if the process ends because calls to the HSM do not return.
    pub(super) has_wedged: Arc<AtomicBool>,
    program: Program,
    /// Removed once the process has drained.
    _pid_file: Option<PidFile>,
}

impl Running {
    /// Starts the event loops; if there is a process to take over from, only after a token works.
    /// Returns `None` if a signal ends this process before that.
    ///
    /// # Errors
    /// The pid file cannot be written, or the system refuses to start a thread.
    pub(super) fn start(
        assembled: Assembled,
        takeover: Option<Takeover>,
        events: &Events,
        reload_requests: Receiver<()>,
    ) -> Result<Option<Self>, Failed> {
        let Assembled { server, sockets, reloader } = assembled;
        let (settings, in_use) = (Arc::clone(&reloader.started), reloader.in_use.clone());
        let (lifecycle, notifier) = (Arc::clone(&reloader.lifecycle), reloader.notifier.clone());
        let no_thread = |error| Failed::unavailable(format!("no thread: {error}"));
        let has_failed = Arc::new(AtomicBool::new(false));
        let has_wedged = Arc::new(AtomicBool::new(false));
        if settings.pkcs11.exit_when_wedged {
            wedge::watch(&in_use.hsm, &has_wedged).map_err(no_thread)?;
        }
        let hsm = in_use.hsm.load_full();
        if let Some(takeover) = &takeover
            && !events.wait_for_token(&hsm, takeover)
        {
            return Ok(None);
        }
        // Written before serving begins, so that it exists once the process is seen to serve.
        let pid_file = settings.server.pid_file.as_deref().map(write_pid_file).transpose()?;
        let access_log = || {
            let traces = reloader.otlp.as_ref().map(|otlp| otlp.traces()).unwrap_or_default();
            reloader.log.access_log().with_audit(reloader.audit.handle()).with_traces(traces)
        };
        let loops = server
            .start(&reloader.service, &hsm, access_log, &reloader.metrics, on_end(&has_failed))
            .map_err(|error| Failed::unavailable(format!("no event loop: {error}")))?;
        if let Some(takeover) = takeover {
            audit::take_over(&reloader.audit, &settings, takeover.finish());
        }
        // This does not wait for the HSM: otherwise systemd would restart the process repeatedly,
        // with a login each time. `/readyz` reports whether a token works.
        notifier.ready("serving");
        watchdog::start(&notifier, &lifecycle).map_err(no_thread)?;
        let usage = reloader.state.usage.clone();
        let audit = reloader.audit.clone();
        let reloader = reload::start(reloader, reload_requests).map_err(no_thread)?;
        let program = Program::new(&settings, &notifier);
        Ok(Some(Self {
            audit,
            in_use,
            lifecycle,
            notifier,
            sockets,
            loops,
            reloader,
            usage,
            has_failed,
            has_wedged,
            program,
            _pid_file: pid_file,
        }))
    }

    /// Waits for a signal to end the process, or for another process to serve in its place.
    pub(super) fn wait(&self, events: &Events) -> Option<Successor> {
        events.until_the_end(&self.program, &self.sockets, &self.notifier)
    }
}

/// Returns the callback for an event loop that ends without having been asked to.
fn on_end(has_failed: &Arc<AtomicBool>) -> impl Fn(&str) + Clone + Send + 'static {
    let has_failed = Arc::clone(has_failed);
    move |reason: &str| {
        tracing::error!(reason, "an event loop ended; the process stops");
        has_failed.store(true, Ordering::Relaxed);
        // The main thread then drains the requests in flight in the other loops.
        let _ = signal_hook::low_level::raise(SIGTERM);
    }
}

fn write_pid_file(path: &Path) -> Result<PidFile, Failed> {
    PidFile::write(path).map_err(|error| {
        Failed::unavailable(format!("[server] pid_file {}: {error}", shown_path(path)))
    })
}

//! Reloading of the settings while the process serves, on SIGHUP.
//!
//! The new file is read and checked by the same code as at the start. Either it is applied
//! completely, or it is refused with a list of all its mistakes and nothing changes. Members that
//! need a restart are named.

mod confined;
mod encrypting_keys;
mod restart;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::kept_state::KeptState;
use super::notify::Notifier;
use super::{certificates, startup_log};
use crate::admin;
use crate::hsm::Hsm;
use crate::job::CompletionQueue;
use crate::limits::{HSM_RETIRE_TIMEOUT, MAX_CHANGE_WAIT, MAX_START_WAIT};
use crate::observe::audit::Audit;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::observe::otlp::Otlp;
use crate::observe::syslog::Syslog;
use crate::proto::ServiceConfig;
use crate::server::changes::Changes;
use crate::server::lifecycle::Lifecycle;
use crate::settings::{self, Finding, Settings, Severity};

/// The parts that a reload replaces, each as a whole.
#[derive(Clone)]
pub(super) struct InUse {
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) hsm: Arc<ArcSwap<Hsm>>,
    /// Facts that the admin listener shows.
    pub(super) service_info: Arc<ArcSwap<admin::ServiceInfo>>,
}

/// Everything that a reload reads or replaces.
pub(super) struct Reloader {
    /// Settings at the start. Members that need a restart keep these values, regardless of later
    /// files.
    pub(super) started: Arc<Settings>,
    pub(super) in_use: InUse,
    pub(super) service: Arc<ServiceConfig>,
    pub(super) changes: Arc<Changes>,
    /// Inboxes of the event loops, for a new fleet.
    pub(super) completions: Vec<Arc<CompletionQueue>>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<Log>,
    pub(super) audit: Audit,
    /// The export by OTLP, if there is one.
    pub(super) otlp: Option<Arc<Otlp>>,
    pub(super) syslog: Syslog,
    pub(super) state: KeptState,
    /// The admin listener's certificate.
    pub(super) admin: Option<admin::Acceptor>,
    pub(super) notifier: Notifier,
}

/// Starts the thread that reloads at each request. No reload runs while another thread holds the
/// lock.
///
/// # Errors
/// The system refuses to start a thread.
pub(super) fn start(
    reloader: Reloader,
    told: Receiver<()>,
) -> std::io::Result<Arc<Mutex<Reloader>>> {
    let reloader = Arc::new(Mutex::new(reloader));
    let of_thread = Arc::clone(&reloader);
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        for () in told {
            of_thread.lock().reload();
        }
    })?;
    Ok(reloader)
}

/// Returns the mistakes among the findings, and logs the rest.
fn mistakes(findings: Vec<Finding>) -> Vec<String> {
    let (mistakes, remarks): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Mistake);
    startup_log::findings(&remarks);
    mistakes.iter().map(ToString::to_string).collect()
}

impl Reloader {
    /// Reads the settings again, and applies them or logs why not.
    fn reload(&mut self) {
        if self.lifecycle.is_draining() {
            tracing::warn!("settings not reloaded: the process is about to stop");
            return;
        }
        tracing::info!(settings = %self.started.file.display(), "reading the settings again");
        self.notifier.reloading();
        let status = match self.try_reload() {
            Ok(needs_restart) => {
                let all_loops = self.changes.wait(MAX_CHANGE_WAIT);
                if !all_loops {
                    tracing::warn!("not all event loops use the new settings yet");
                }
                if !needs_restart.is_empty() {
                    let members = needs_restart.join(", ");
                    tracing::warn!(members, "these have no effect until a restart");
                }
                let stores = self.service.stores().len();
                tracing::info!(stores, outcome = "taken_up", "settings reloaded");
                self.note("taken_up", &[("needsRestart", &needs_restart.join(", "))]);
                let needs_restart = needs_restart.into_iter().map(str::to_owned);
                self.metrics.reloads.applied(needs_restart.collect());
                "serving"
            }
            Err(reasons) => {
                for reason in &reasons {
                    tracing::error!("{reason}");
                }
                let reasons_total = reasons.len();
                tracing::error!(
                    reasons = reasons_total,
                    outcome = "refused",
                    "the new settings are refused; those in use stay"
                );
                self.note("refused", &[("reasons", &reasons_total.to_string())]);
                self.metrics.reloads.refused(reasons);
                "serving; the new settings were refused, see the log"
            }
        };
        // A drain may have begun in the meantime.
        if !self.lifecycle.is_draining() {
            self.notifier.ready(status);
        }
    }

    /// Records a change of the settings, or an attempt at one, in the audit log.
    fn note(&self, outcome: &str, more: &[(&str, &str)]) {
        let file = self.started.file.to_string_lossy();
        let members = [&[("settings", &*file), ("outcome", outcome)], more].concat();
        self.audit.record_event("settings", &members);
    }

    /// Applies the settings and returns the members that need a restart.
    fn try_reload(&mut self) -> Result<Vec<&'static str>, Vec<String>> {
        // Variables that this process set itself at the start must not override the new file.
        let own = &self.started.pkcs11.environment;
        let environment = |name: &str| {
            let is_own = own.iter().any(|(own, _)| own == name);
            if is_own { None } else { std::env::var_os(name) }
        };
        let (settings, findings) = settings::load(&self.started.file, false, &environment)
            .map_err(|findings| {
                mistakes(confined::explain(findings, self.started.confinement.landlock.is_some()))
            })?;
        let needs_restart = restart::members(&self.started, &settings);
        let former_settings = self.in_use.settings.load_full();
        let former_hsm = self.in_use.hsm.load_full();
        let is_same_fleet = restart::is_same_fleet(&former_settings, &settings);
        if is_same_fleet {
            // Before the HSM side learns the new keys' indices, which a refusal would not undo.
            encrypting_keys::check(&former_hsm, &settings, Some(&former_settings))?;
        }

        let (former, metrics) = (Some(&*self.service), Some(&*self.metrics));
        let service = Arc::new(settings.service_after(former, metrics));
        self.state.usage.extend(&settings, service.labels()).map_err(|refusal| vec![refusal])?;
        let hsm = if is_same_fleet {
            let has_new = service.labels().len() > self.service.labels().len();
            if !former_hsm.extend_labels(service.labels(), MAX_START_WAIT) {
                tracing::warn!(
                    "not all new keys have been looked up; the rest will be at their first use"
                );
            }
            if has_new {
                startup_log::hsm(Arc::clone(&former_hsm), &settings);
            }
            Arc::clone(&former_hsm)
        } else {
            let hsm = self.other_fleet(&settings, &service, &former_hsm)?;
            startup_log::hsm(Arc::clone(&hsm), &settings);
            hsm
        };

        // Nothing below can fail.
        self.state.read_again(&settings);
        self.state.usage.limit(&settings, service.labels());
        hsm.prove_again();
        let config = settings.server_config();
        let max_connections = self.changes.put(Arc::clone(&service), Arc::clone(&hsm), &config);
        self.in_use.hsm.store(Arc::clone(&hsm));
        self.service = service;
        self.log.set_level(settings.tracing.level);
        self.syslog.renew(&settings.syslog);
        self.metrics.clock_skew.set_unready_at(settings.server.unready_at_clock_skew);
        self.metrics.set_certificates(certificates::of_settings(&settings));
        if let (Some(acceptor), Some(tls)) =
            (&self.admin, settings.admin.as_ref().and_then(|admin| admin.tls.as_ref()))
        {
            acceptor.replace(Arc::clone(&tls.config));
        }
        let service_info = &self.in_use.service_info;
        service_info.store(Arc::new(service_info.load().with(&settings, max_connections)));
        startup_log::in_use(&settings, &findings);
        let settings = Arc::new(settings);
        self.state.record_versions(&settings);
        self.in_use.settings.store(settings);
        if !is_same_fleet {
            self.retire(former_hsm);
        }
        Ok(needs_restart)
    }

    /// Starts a fleet of the tokens in the new settings, alongside the one in use.
    fn other_fleet(
        &self,
        settings: &Settings,
        service: &ServiceConfig,
        former: &Hsm,
    ) -> Result<Arc<Hsm>, Vec<String>> {
        tracing::info!(tokens = settings.pkcs11.tokens.len(), "connecting to other HSM tokens");
        let config = self.state.hsm_config(settings, service);
        let hsm = Hsm::start(config, self.completions.clone()).map_err(|error| {
            self.state.stays_with(former.fleet_number());
            vec![format!("[pkcs11]: {error}")]
        })?;
        match hsm.trouble() {
            // A fleet that does not work is acceptable only if the former one does not work either.
            Some(trouble) if former.trouble().is_none() => {
                hsm.stop(HSM_RETIRE_TIMEOUT);
                self.state.stays_with(former.fleet_number());
                Err(vec![format!("[pkcs11]: no token of the new settings can be used: {trouble}")])
            }
            _ => encrypting_keys::check(&hsm, settings, None)
                .inspect_err(|_| {
                    hsm.stop(HSM_RETIRE_TIMEOUT);
                    self.state.stays_with(former.fleet_number());
                })
                .map(|()| hsm),
        }
    }

    /// Stops a fleet once no event loop uses it and all its requests are answered. It is stopped
    /// even if a loop is late: otherwise that loop would drop the last reference and block while
    /// the sessions close.
    fn retire(&self, hsm: Arc<Hsm>) {
        let changes = Arc::clone(&self.changes);
        let retire = move || {
            let is_left_alone = changes.wait(HSM_RETIRE_TIMEOUT);
            if hsm.stop(HSM_RETIRE_TIMEOUT) {
                tracing::info!(is_left_alone, "the former HSM sessions are closed");
            } else {
                tracing::warn!(
                    "a call to a token that was removed from the settings has not returned"
                );
            }
        };
        if let Err(error) = thread::Builder::new().name("hsm-retire".to_owned()).spawn(retire) {
            tracing::warn!(%error, "the former HSM sessions stay open");
        }
    }
}

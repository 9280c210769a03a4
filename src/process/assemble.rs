//! Everything that serving requires besides the sockets: metrics, key stores, the HSM side, and the
//! admin listener.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::bind::Bound;
use super::hsm_caller::HsmCaller;
use super::kept_state::KeptState;
use super::notify::Notifier;
use super::reload::{InUse, Reloader};
use super::telemetry::Telemetry;
use super::upgrade::Sockets;
use super::{audit, certificates, startup_log};
use crate::admin::{self, Admin};
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::hsm::Hsm;
use crate::observe::metrics::Metrics;
use crate::server::Server;
use crate::settings::Settings;

/// A process that is complete except for its event loops.
pub(super) struct Assembled {
    pub(super) server: Server,
    pub(super) sockets: Sockets,
    pub(super) reloader: Reloader,
}

impl Assembled {
    /// Starts the HSM side and the admin listener. An unreachable HSM is not an error.
    ///
    /// # Errors
    /// A PKCS#11 module cannot be used, or the system refuses to start a thread.
    pub(super) fn new(
        settings: Settings,
        bound: Bound,
        telemetry: &Telemetry,
        notifier: Notifier,
    ) -> Result<Self, Failed> {
        let Bound { server, admin, sockets, inherited } = bound;
        let settings = Arc::new(settings);
        let metrics = metrics(&settings, &server, telemetry);
        let service = Arc::new(settings.service_after(None, Some(&metrics)));
        let mut completions = server.completions();
        let caller = HsmCaller::new(u16::try_from(completions.len()).unwrap_or(u16::MAX));
        completions.push(caller.inbox());
        let state = KeptState::read(&settings, &service);
        if let Some(refusal) = state.usage.refusal(&settings, service.labels()) {
            state.usage.close();
            return Err(Failed::new(EXIT_SETTINGS, refusal));
        }
        state.usage.warn(service.labels());
        let hsm = Hsm::start(state.hsm_config(&settings, &service), completions.clone())
            .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[pkcs11]: {error}")))?;
        state.save_changes().map_err(|error| Failed::unavailable(format!("no thread: {error}")))?;
        state.record_versions(&settings);
        startup_log::listening(&server, &settings, admin.as_ref(), inherited);
        startup_log::hsm(Arc::clone(&hsm), &settings);

        let service_info = admin::ServiceInfo::new(
            &settings,
            server.api_address(),
            server.ping_address(),
            server.max_connections(),
        );
        let in_use = InUse {
            settings: Arc::new(ArcSwap::new(Arc::clone(&settings))),
            hsm: Arc::new(ArcSwap::new(hsm)),
            service_info: Arc::new(ArcSwap::from_pointee(service_info)),
        };
        audit::seal(&telemetry.audit, &settings, &service, &in_use.hsm, caller);
        let reloader = Reloader {
            started: settings,
            in_use,
            service,
            changes: server.changes(),
            completions,
            lifecycle: server.lifecycle(),
            metrics,
            log: Arc::clone(&telemetry.log),
            audit: telemetry.audit.clone(),
            otlp: telemetry.otlp.clone(),
            syslog: telemetry.syslog.clone(),
            state,
            admin: admin.as_ref().and_then(Admin::acceptor),
            notifier,
        };
        let sources = sources(&reloader);
        if let Some(otlp) = &reloader.otlp {
            let sources = sources.clone();
            otlp.start(move || admin::metrics_now(&sources))
                .map_err(|error| Failed::unavailable(format!("[otlp]: {error}")))?;
        }
        if let Some(admin) = admin {
            admin
                .start(sources)
                .map_err(|error| Failed::unavailable(format!("no admin thread: {error}")))?;
        }
        Ok(Self { server, sockets, reloader })
    }
}

fn metrics(settings: &Settings, server: &Server, telemetry: &Telemetry) -> Arc<Metrics> {
    let metrics = Metrics::new(server.event_loops(), Arc::clone(&telemetry.panics));
    metrics.set_certificates(certificates::of_settings(settings));
    metrics.clock_skew.set_unready_at(settings.server.unready_at_clock_skew);
    // Recorded before the admin listener can show it.
    metrics.reloads.started();
    Arc::new(metrics)
}

/// Returns what is reported about: by the admin listener and by the export.
fn sources(reloader: &Reloader) -> admin::Sources {
    admin::Sources {
        metrics: Arc::clone(&reloader.metrics),
        usage: reloader.state.usage.usage(),
        hsm: Arc::clone(&reloader.in_use.hsm),
        lifecycle: Arc::clone(&reloader.lifecycle),
        lost_lines: reloader.log.lost_lines(),
        audit: reloader.audit.clone(),
        otlp: reloader.otlp.as_ref().map(|otlp| otlp.stats()),
        syslog: reloader.syslog.clone(),
        service_info: Arc::clone(&reloader.in_use.service_info),
    }
}

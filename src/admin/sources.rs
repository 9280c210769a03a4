//! The parts of the process about which the admin listener reports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use super::key_versions::KeyVersions;
use crate::hsm::Hsm;
use crate::hsm::usage::Usage;
use crate::observe::audit::Audit;
use crate::observe::log::LostLines;
use crate::observe::metrics::{ClockSkew, Metrics};
use crate::observe::otlp::stats::OtlpStats;
use crate::observe::syslog::Syslog;
use crate::server::lifecycle::Lifecycle;
use crate::settings;

/// The parts of the process about which the listener reports.
#[derive(Clone)]
pub struct Sources {
    /// Counters of the event loops.
    pub metrics: Arc<Metrics>,
    /// Counters of the HSM keys' use.
    pub usage: Arc<Usage>,
    /// The HSM side; replaced when new settings name other tokens.
    pub hsm: Arc<ArcSwap<Hsm>>,
    /// State of the process: whether it is draining.
    pub lifecycle: Arc<Lifecycle>,
    /// Number of lines that the log has lost.
    pub lost_lines: LostLines,
    /// The audit log, if there is one.
    pub audit: Audit,
    /// Counters of the export by OTLP, if there is one.
    pub otlp: Option<Arc<OtlpStats>>,
    /// The forwarding of both to syslog collectors.
    pub syslog: Syslog,
    /// Figures from the settings; replaced with them.
    pub service_info: Arc<ArcSwap<ServiceInfo>>,
}

impl Sources {
    /// Returns whether `/readyz` is 200: a token works, calls can be audited, the clock is right,
    /// and the process is not draining.
    pub(super) fn is_ready(&self) -> bool {
        self.hsm.load().health().can_serve()
            && self.audit.can_serve()
            && !self.lifecycle.is_draining()
            && !self.is_clock_off()
    }

    /// Returns whether the clock is so far off that the process is not ready.
    pub(super) fn is_clock_off(&self) -> bool {
        self.clock_skew().is_off()
    }

    /// The difference between the clocks at present, also if the event loops have nothing to do.
    pub(super) fn clock_skew(&self) -> &ClockSkew {
        let clock_skew = &self.metrics.clock_skew;
        clock_skew.follow(Instant::now(), SystemTime::now());
        clock_skew
    }
}

/// Addresses of the process, and figures from its settings.
#[derive(Clone, Debug)]
pub struct ServiceInfo {
    /// Address of the XKS API.
    pub(super) api: SocketAddr,
    /// True if the API uses TLS.
    pub(super) is_tls: bool,
    /// True if the API requires client certificates.
    pub(super) is_mtls: bool,
    /// Address of `/ping`.
    pub(super) ping: SocketAddr,
    /// Limit of connections to the API that is in use: the settings' one, or fewer if the system's
    /// limit of open files allows no more.
    pub(super) max_connections: usize,
    /// Deadline of a call, in milliseconds.
    pub(super) request_deadline_milli: u64,
    pub(super) key_versions: KeyVersions,
}

impl ServiceInfo {
    /// Makes the figures of a process with these addresses, and with the limit of connections that
    /// is in use.
    #[must_use]
    pub fn new(
        settings: &settings::Settings,
        api: SocketAddr,
        ping: SocketAddr,
        max_connections: usize,
    ) -> Self {
        let tls = settings.tls.as_ref();
        let deadline = settings.limits.timeouts.request.as_millis();
        Self {
            api,
            is_tls: tls.is_some(),
            is_mtls: tls.is_some_and(|tls| tls.is_client_certificate_required),
            ping,
            max_connections,
            request_deadline_milli: u64::try_from(deadline).unwrap_or(u64::MAX),
            key_versions: KeyVersions::of(settings),
        }
    }

    /// Returns the same addresses with the figures of other settings, and with the limit of
    /// connections that is now in use.
    #[must_use]
    pub fn with(&self, settings: &settings::Settings, max_connections: usize) -> Self {
        Self::new(settings, self.api, self.ping, max_connections)
    }
}

//! The parts of the process about which the admin listener reports.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::key_versions::KeyVersions;
use crate::hsm::Hsm;
use crate::hsm::usage::Usage;
use crate::observe::audit::Audit;
use crate::observe::log::LostLines;
use crate::observe::metrics::Metrics;
use crate::server::lifecycle::Lifecycle;
use crate::settings;

/// The parts of the process about which the listener reports.
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
    /// Figures from the settings; replaced with them.
    pub service_info: Arc<ArcSwap<ServiceInfo>>,
}

impl Sources {
    /// Returns whether `/readyz` is 200: a token works, calls can be audited, and the process is
    /// not draining.
    pub(super) fn is_ready(&self) -> bool {
        self.hsm.load().health().can_serve()
            && self.audit.can_serve()
            && !self.lifecycle.is_draining()
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
    /// Limit of connections to the API.
    pub(super) max_connections: usize,
    /// Deadline of a call, in milliseconds.
    pub(super) request_deadline_milli: u64,
    pub(super) key_versions: KeyVersions,
}

impl ServiceInfo {
    /// Makes the figures of a process with these addresses.
    #[must_use]
    pub fn new(settings: &settings::Settings, api: SocketAddr, ping: SocketAddr) -> Self {
        let tls = settings.tls.as_ref();
        let deadline = settings.limits.timeouts.request.as_millis();
        Self {
            api,
            is_tls: tls.is_some(),
            is_mtls: tls.is_some_and(|tls| tls.is_client_certificate_required),
            ping,
            max_connections: settings.limits.max_connections,
            request_deadline_milli: u64::try_from(deadline).unwrap_or(u64::MAX),
            key_versions: KeyVersions::of(settings),
        }
    }

    /// Returns the same addresses with the figures of other settings.
    #[must_use]
    pub fn with(&self, settings: &settings::Settings) -> Self {
        Self::new(settings, self.api, self.ping)
    }
}

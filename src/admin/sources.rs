//! The parts of the process that the admin listener shows.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::hsm::Hsm;
use crate::observe::audit::Audit;
use crate::observe::log::LostLines;
use crate::observe::metrics::Metrics;
use crate::server::lifecycle::Lifecycle;
use crate::settings;

/// What there is to be seen.
pub struct Sources {
    /// What event loops count.
    pub metrics: Arc<Metrics>,
    /// The tokens, replaced when the settings name others.
    pub hsm: Arc<ArcSwap<Hsm>>,
    /// Whether the process drains.
    pub lifecycle: Arc<Lifecycle>,
    /// Lines that the log has lost.
    pub lost_lines: LostLines,
    /// The audit log, if there is one.
    pub audit: Audit,
    /// What the settings say, replaced with them.
    pub service_info: Arc<ArcSwap<ServiceInfo>>,
}

impl Sources {
    /// What `/readyz` says: a token works, calls can be written down, and nothing drains.
    pub(super) fn is_ready(&self) -> bool {
        self.hsm.load().health().can_serve()
            && self.audit.can_serve()
            && !self.lifecycle.is_draining()
    }
}

/// What the settings say, and where the process listens.
#[derive(Clone, Debug)]
pub struct ServiceInfo {
    /// Where the XKS API is served.
    pub api: SocketAddr,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// Whether it wants client certificates.
    pub is_mtls: bool,
    /// Where `/ping` is served.
    pub ping: SocketAddr,
    /// Connections of the API at the most.
    pub max_connections: usize,
    /// A call's deadline, in milliseconds.
    pub request_deadline_milli: u64,
}

impl ServiceInfo {
    /// The same addresses with what other settings say.
    #[must_use]
    pub fn with(&self, settings: &settings::Settings) -> Self {
        let tls = settings.tls.as_ref();
        let deadline = settings.limits.timeouts.request.as_millis();
        Self {
            api: self.api,
            is_tls: tls.is_some(),
            is_mtls: tls.is_some_and(|tls| tls.is_client_certificate_required),
            ping: self.ping,
            max_connections: settings.limits.max_connections,
            request_deadline_milli: u64::try_from(deadline).unwrap_or(u64::MAX),
        }
    }
}

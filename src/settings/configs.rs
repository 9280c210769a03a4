//! Configurations of the other components, derived from the settings.

use std::sync::Arc;

use super::credentials::Credential;
use super::load::Settings;
use super::stores::Store;
use crate::job::KeyIndex;
use crate::observe::metrics::Metrics;
use crate::proto::{CredentialConfig, ServiceConfig, ServiceOptions, StoreConfig};
use crate::server::tls::Acceptor;
use crate::{hsm, server};

impl Settings {
    /// Returns the configuration of the protocol core, for commands that do not serve.
    #[must_use]
    pub fn service(&self) -> ServiceConfig {
        self.service_after(None, None)
    }

    /// Returns the configuration of the protocol core that replaces `former`; see
    /// [`ServiceConfig::new`].
    #[must_use]
    pub fn service_after(
        &self,
        former: Option<&ServiceConfig>,
        metrics: Option<&Metrics>,
    ) -> ServiceConfig {
        let Settings { server, limits, .. } = self;
        let options = ServiceOptions {
            region: server.region.clone(),
            service: server.service.clone(),
            is_sigv4_auth_enabled: self.is_sigv4_auth_enabled,
            ciphertext_metadata: server.ciphertext_metadata.clone(),
            policy: self.policy.clone(),
            max_plaintext_in_base64: limits.max_plaintext_in_base64,
            max_aad_in_base64: limits.max_aad_in_base64,
            max_requests_per_connection: limits.max_requests_per_connection,
            fleet_size: server.fleet_size,
            timeouts: limits.timeouts,
            storeless_labels: self.storeless_labels().map(str::to_owned).collect(),
        };
        let stores = self.stores.iter().map(Store::config).collect();
        ServiceConfig::new(options, stores, former, metrics)
    }

    /// Returns the labels of keys that the proxy itself uses: for the audit log and for health
    /// checks.
    fn storeless_labels(&self) -> impl Iterator<Item = &str> {
        let audit_key = self.audit.as_ref().and_then(|audit| audit.hsm_key.as_deref());
        [audit_key, self.pkcs11.health_key.as_deref()].into_iter().flatten()
    }

    /// Returns the configuration of the HSM side. Jobs refer to its labels by their indices in
    /// `service`, which must come from [`Self::service`].
    #[must_use]
    pub fn hsm_config(&self, service: &ServiceConfig) -> hsm::config::Config {
        hsm::config::Config {
            tokens: self.pkcs11.tokens.clone(),
            labels: service.labels().to_vec(),
            allow_ambiguous_labels: self.pkcs11.allow_ambiguous_labels,
            require_private_keys: self.pkcs11.require_private_keys,
            health_key: self.pkcs11.health_key.as_deref().and_then(|label| service.key_of(label)),
            storeless_keys: self.storeless_keys(service),
            hedging: self.pkcs11.hedging,
            witnesses: Arc::default(),
            usage: Arc::default(),
        }
    }

    fn storeless_keys(&self, service: &ServiceConfig) -> Vec<KeyIndex> {
        let is_of_store = |label: &str| self.stores.iter().any(|store| store.has_key_name(label));
        self.storeless_labels()
            .filter(|label| !is_of_store(label))
            .filter_map(|label| service.key_of(label))
            .collect()
    }

    /// Returns the configuration of the event loops.
    #[must_use]
    pub fn server_config(&self) -> server::config::Config {
        let Settings { server, limits, .. } = self;
        server::config::Config {
            ip: server.ip,
            port: server.port,
            port_http_ping: server.port_http_ping,
            tls: self.tls.as_ref().map(|tls| Acceptor::new(tls.config.clone())),
            tcp_keepalive: server.tcp_keepalive,
            event_loops: server.event_loops,
            max_connections: limits.max_connections,
            max_connections_per_address: limits.max_connections_per_address,
            max_buffered_bytes: limits.max_buffered_bytes,
            max_tls_handshakes_per_sec: limits.max_tls_handshakes_per_sec,
            proxy_protocol_from: server.proxy_protocol_from.clone(),
            proxy_protocol: server.proxy_protocol,
        }
    }
}

impl Store {
    /// Returns the store's configuration for the protocol core.
    fn config(&self) -> StoreConfig {
        let credential = |credential: &Credential| CredentialConfig {
            access_key_id: credential.access_key_id.clone(),
            secret_access_key: credential.secret_access_key.clone(),
            created_unix_secs: credential.created_unix_secs,
        };
        StoreConfig {
            uri_path_prefix: self.uri_path_prefix.clone(),
            credentials: self.credentials.iter().map(credential).collect(),
            key_ids: self.xks_key_id_set.clone(),
            versioned_keys: self.keys.clone(),
            max_requests_per_sec: self.max_requests_per_sec,
            max_in_flight: self.max_in_flight,
            is_disabled: self.disabled,
            disabled_key_ids: self.disabled_keys.clone(),
        }
    }
}

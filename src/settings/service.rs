//! What the other parts are started with, made from the settings.

use std::sync::Arc;

use super::Settings;
use crate::job::KeyIndex;
use crate::proto::ServiceConfig;
use crate::proto::xks::quota::Quota;
use crate::server::tls::Acceptor;
use crate::{hsm, server};

impl Settings {
    /// What the protocol is configured with.
    #[must_use]
    pub fn service(&self) -> ServiceConfig {
        self.service_after(None)
    }

    /// The same, to take the place of `former`: key ids keep their indices, and what stores have
    /// used of their quotas counts.
    #[must_use]
    pub fn service_after(&self, former: Option<&ServiceConfig>) -> ServiceConfig {
        let Settings { server, limits, .. } = self;
        let mut service = ServiceConfig::new(&server.region, &server.service, limits.timeouts);
        if let Some(former) = former {
            service.keep_labels(former);
        }
        service.is_sigv4_auth_enabled = self.is_sigv4_auth_enabled;
        service.ciphertext_metadata.clone_from(&server.ciphertext_metadata);
        service.max_plaintext_in_base64 = limits.max_plaintext_in_base64;
        service.max_aad_in_base64 = limits.max_aad_in_base64;
        service.policy.clone_from(&self.policy);
        service.fleet_size = server.fleet_size;
        service.max_requests_per_connection = limits.max_requests_per_connection;
        if let Some(label) = self.audit.as_ref().and_then(|audit| audit.hsm_key.as_deref()) {
            service.add_label(label);
        }
        if let Some(label) = self.pkcs11.health_key.as_deref() {
            service.add_label(label);
        }
        for store in &self.stores {
            let credentials = store.credentials.iter().map(|credential| {
                (credential.access_key_id.as_str(), credential.secret_access_key.clone())
            });
            let key_ids = store.xks_key_id_set.iter().map(String::as_str);
            service.add_store(&store.uri_path_prefix, credentials, key_ids);
            for credential in &store.credentials {
                let created = credential.created_unix_secs;
                service.set_created(&store.uri_path_prefix, &credential.access_key_id, created);
            }
            let quota = Quota::new(store.max_requests_per_sec, store.max_in_flight);
            let former = former.and_then(|former| former.store(&store.uri_path_prefix));
            let quota = match former {
                Some(former) => quota.succeeding(former.quota()),
                None => quota,
            };
            service.set_quota(&store.uri_path_prefix, quota);
            if store.disabled {
                service.disable_store(&store.uri_path_prefix);
            }
            for key_id in &store.disabled_keys {
                service.disable_key(&store.uri_path_prefix, key_id);
            }
        }
        service
    }

    /// What the HSM side is started with: jobs name its labels by the indices that `service`, as
    /// [`Self::service`] made it, gives them.
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
        }
    }

    fn storeless_keys(&self, service: &ServiceConfig) -> Vec<KeyIndex> {
        let audit_key = self.audit.as_ref().and_then(|audit| audit.hsm_key.as_deref());
        let is_of_store = |label: &str| {
            let mut of_stores = self.stores.iter().flat_map(|store| &store.xks_key_id_set);
            of_stores.any(|key_id| key_id == label)
        };
        [audit_key, self.pkcs11.health_key.as_deref()]
            .into_iter()
            .flatten()
            .filter(|label| !is_of_store(label))
            .filter_map(|label| service.key_of(label))
            .collect()
    }

    /// What the event loops are started with.
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
        }
    }
}

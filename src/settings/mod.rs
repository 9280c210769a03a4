//! The settings file, as values that cannot be invalid.
//!
//! [`load`] reads a TOML file written for this proxy or for the reference proxy and gives either
//! [`Settings`] with what is worth a warning, or every mistake in the file at once.

mod admin;
mod audit;
mod capabilities;
mod certificate;
mod client_verifier;
mod credentials;
mod file;
mod known;
mod limits;
mod load;
mod pkcs11;
mod policy;
mod report;
mod secret;
mod section;
mod security;
mod server;
mod service;
mod state;
mod stores;
mod tls;
mod tokens;
mod tracing;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::hsm::config::{Hedging, TokenConfig};
use crate::observe::audit::AuditConfig;
use crate::observe::log::LogConfig;
use crate::observe::redaction::Secret;
use crate::policy::Policy;
use crate::proto::service_config::Timeouts;
use crate::server::config::TcpKeepalive;
use crate::server::network::Network;

pub use self::load::{
    BOOTSTRAP_TOML, Environment, PKCS11_HSM_MODULE, XKS_PROXY_SETTINGS_TOML, load, load_to_probe,
    locate, locate_by,
};
pub use self::report::{Finding, Severity};

/// All settings. Sections that are switched off are absent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file they were read from.
    pub file: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[tracing]`
    pub tracing: LogConfig,
    /// `[security] is_sigv4_auth_enabled`
    pub is_sigv4_auth_enabled: bool,
    /// `[tls]`, if `[security] is_tls_enabled`.
    pub tls: Option<Tls>,
    /// `[security] secondary_auth`: the policy that each call but health is subject to.
    pub policy: Option<Arc<Policy>>,
    /// What `[security]` says of the process itself.
    pub confinement: Confinement,
    /// `[[external_key_stores]]`
    pub stores: Vec<Store>,
    /// `[pkcs11]`, with `[pkcs11_logger]` and `[hsm_capabilities]`
    pub pkcs11: Pkcs11,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`; without it, metrics and status are not served.
    pub admin: Option<Admin>,
    /// `[audit]`; without it, there is no audit log.
    pub audit: Option<AuditConfig>,
    /// `[state] directory`; without it, nothing is kept from one life to the next.
    pub state_directory: Option<PathBuf>,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Address to listen on.
    pub ip: IpAddr,
    /// Port of the XKS API. 0 lets the system choose (tests).
    pub port: u16,
    /// Port of the plain-HTTP `/ping` and `/readyz`; may equal `port`. 0 lets the system choose.
    pub port_http_ping: u16,
    /// The Region that a SigV4 scope must name.
    pub region: String,
    /// The service that a SigV4 scope must name.
    pub service: String,
    /// Decoded `ciphertext_metadata_b64`, at most 20 bytes. `None` if absent.
    pub ciphertext_metadata: Option<Vec<u8>>,
    /// `[server.tcp_keepalive]`, if `tcp_keepalive_secs` is there.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Event loops; 0 chooses by the number of cores.
    pub event_loops: usize,
    /// After SIGTERM, how long readiness is false before accepting ends.
    pub drain_delay: Duration,
    /// Then, how long what is in flight may take.
    pub drain_timeout: Duration,
    /// Peers that begin each connection with a PROXY protocol header (version 2).
    pub proxy_protocol_from: Vec<Network>,
    /// How many proxies serve these stores: `xksProxyFleetSize` in health answers, at least 1.
    pub fleet_size: u32,
    /// Where the process id is written while it serves.
    pub pid_file: Option<PathBuf>,
}

/// What the process denies itself and others: `[security]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// `allow_core_dumps`: also lets processes of the same user read this one's memory.
    pub allow_core_dumps: bool,
    /// `landlock`, if it is on.
    pub landlock: Option<LandlockPaths>,
}

/// `[security] landlock_read`, `landlock_write`: what a vendor's library needs beyond what the
/// proxy itself does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LandlockPaths {
    /// Files and directories to read, with all below.
    pub read: Vec<PathBuf>,
    /// Files and directories to read and write, with all below.
    pub write: Vec<PathBuf>,
    /// Directories of what a reload reads again: the settings, certificates, secrets.
    pub reload: Vec<PathBuf>,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address to listen on. Without TLS a loopback address, unless `allow_plain_remote` is set.
    pub address: SocketAddr,
    /// `tls_cert_pem`, `tls_key_pem`, `client_ca_pem`, if they are there.
    pub tls: Option<Tls>,
}

/// `[tls]`, read and checked: the key fits the certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Ready for the event loops: suites, certificate, session tickets, client verification.
    pub config: Arc<rustls::ServerConfig>,
    /// The end-entity certificate's subject, names and expiry, for the log.
    pub certificate: CertificateSummary,
    /// Whether client certificates are required (mTLS).
    pub is_client_certificate_required: bool,
    /// The name they must bear, as a DNS name or as the common name. Without one, any
    /// certificate of the configured CAs will do.
    pub client_name: Option<String>,
}

/// What the log and `check` say of the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Subject distinguished name.
    pub subject: String,
    /// DNS names of the subjectAltName extension.
    pub names: Vec<String>,
    /// Seconds since 1970 at which it expires.
    pub not_after_unix_secs: i64,
}

/// One of `[[external_key_stores]]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Empty, or "/...", without `/kms/xks/v1`.
    pub uri_path_prefix: String,
    /// All of them are valid, in the order of the file, so that the last is the newest. Empty if
    /// `sigv4_access_key_id` and `sigv4_secret_access_key` are, as in the reference proxy's sample
    /// files: then no signature fits, and every call is refused with AuthenticationFailedException.
    pub credentials: Vec<Credential>,
    /// External key ids, each a `CKA_LABEL`, sorted, no doubles.
    pub xks_key_id_set: Vec<String>,
    /// Calls to the HSM in a second, of which as many may come at once. `None` is no bound.
    pub max_requests_per_sec: Option<u32>,
    /// Calls to the HSM that are not answered yet. `None` is no bound.
    pub max_in_flight: Option<u32>,
    /// The kill switch: the store neither encrypts nor decrypts.
    pub disabled: bool,
    /// The same for single keys, each in `xks_key_id_set`.
    pub disabled_keys: Vec<String>,
}

/// A SigV4 credential: `sigv4_access_key_id` and `sigv4_secret_access_key` of a store, or one of
/// `[[external_key_stores.credentials]]`.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Not secret. No two of a store are the same.
    pub access_key_id: String,
    /// Shared with KMS.
    pub secret_access_key: Secret<String>,
    /// By which people know it.
    pub name: Option<String>,
    /// When it was made, if that is known: the beginning of the day, in seconds since 1970.
    pub created_unix_secs: Option<u64>,
}

/// `[pkcs11]`, `[pkcs11_logger]`, `[hsm_capabilities]`
#[derive(Clone, Debug)]
pub struct Pkcs11 {
    /// `[[pkcs11.tokens]]`; without it one, the first slot with a token.
    pub tokens: Vec<TokenConfig>,
    /// A label that fits several keys means the first of them, as in the reference proxy.
    pub allow_ambiguous_labels: bool,
    /// A key that is no private object is refused.
    pub require_private_keys: bool,
    /// The `CKA_LABEL` of the key that probes use.
    pub health_key: Option<String>,
    /// The label or the serial number of the token that is right where tokens hold different keys
    /// under one label, and no witness says which is.
    pub trust_token: Option<String>,
    /// When a slow call is made a second time.
    pub hedging: Hedging,
    /// The process ends when no token is usable and calls do not return.
    pub exit_when_wedged: bool,
    /// Environment variables to set before the module is loaded (`[pkcs11_logger]`): those of
    /// its members that the environment does not have already.
    pub environment: Vec<(String, String)>,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Base64 bytes of `plaintext` and `ciphertext`.
    pub max_plaintext_in_base64: usize,
    /// Base64 bytes of `additionalAuthenticatedData`.
    pub max_aad_in_base64: usize,
    /// Connections in all, over all event loops.
    pub max_connections: usize,
    /// Connections of one client address. `None` is no bound.
    pub max_connections_per_address: Option<u32>,
    /// Requests on one connection; 0 is no bound.
    pub max_requests_per_connection: u64,
    /// Bytes that all connections together may hold.
    pub max_buffered_bytes: usize,
    /// TLS handshakes begun in a second, over all event loops; 0 is no bound.
    pub max_tls_handshakes_per_sec: u32,
    /// How long each wait may last.
    pub timeouts: Timeouts,
}

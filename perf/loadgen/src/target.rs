//! Target of a load: an address, a key store of the proxy there, and its keys.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::sigv4::Credential;

/// A proxy under test.
#[derive(Clone)]
pub struct Target {
    /// Address of the proxy.
    pub address: SocketAddr,
    /// Value of the Host header field.
    pub host: String,
    /// TLS configuration; `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// The key store's prefix: empty, or "/...", without `/kms/xks/v1`.
    pub uri_path_prefix: String,
    /// Credential for the key store.
    pub credential: Credential,
    /// External key ids, at least one, used in turn.
    pub key_ids: Vec<String>,
}

/// Configuration of TLS.
#[derive(Clone)]
pub struct Tls {
    /// TLS 1.3 client configuration, including certificate checks.
    pub config: Arc<ClientConfig>,
    /// Server name for SNI and for checking the certificate.
    pub server_name: ServerName<'static>,
}

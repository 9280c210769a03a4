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
    /// The Host header field.
    pub host: String,
    /// `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// Empty, or "/...", without `/kms/xks/v1`.
    pub uri_path_prefix: String,
    /// The key store's.
    pub credential: Credential,
    /// External key ids, used in turn; at least one.
    pub key_ids: Vec<String>,
}

/// Configuration of TLS.
#[derive(Clone)]
pub struct Tls {
    /// TLS 1.3, with what is to be checked.
    pub config: Arc<ClientConfig>,
    /// For SNI and the certificate's check.
    pub server_name: ServerName<'static>,
}

//! The part of a proxy's settings file that the generator needs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

/// The members that are read; all others are ignored.
#[derive(Debug, Deserialize)]
pub struct ProxySettings {
    server: Server,
    #[serde(default)]
    security: Security,
    admin: Option<Admin>,
    external_key_stores: Vec<Store>,
}

#[derive(Debug, Deserialize)]
struct Server {
    ip: IpAddr,
    port: u16,
    region: String,
    service: String,
}

/// `[admin]`
#[derive(Debug, Deserialize)]
struct Admin {
    #[serde(default = "loopback")]
    ip: IpAddr,
    port: u16,
    tls_cert_pem: Option<String>,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// Returns loopback for all addresses.
fn connectable(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { loopback() } else { ip }
}

#[derive(Debug, Default, Deserialize)]
struct Security {
    #[serde(default)]
    is_tls_enabled: bool,
}

/// One entry of `[[external_key_stores]]`.
#[derive(Clone, Debug, Deserialize)]
pub struct Store {
    /// Empty, or "/..."
    pub uri_path_prefix: String,
    /// External key ids.
    #[serde(default)]
    xks_key_id_set: Vec<String>,
    /// External key ids with versions.
    #[serde(default)]
    keys: Vec<Key>,
    /// Credential in the store itself.
    #[serde(flatten)]
    credential: Option<Credential>,
    /// Credentials in a list.
    #[serde(default)]
    credentials: Vec<Credential>,
}

/// One entry of `[[external_key_stores.keys]]`.
#[derive(Clone, Debug, Deserialize)]
struct Key {
    id: String,
}

impl Store {
    /// Returns the first external key id.
    #[must_use]
    pub fn first_key_id(&self) -> Option<&str> {
        let of_table = || self.keys.first().map(|key| key.id.as_str());
        self.xks_key_id_set.first().map(String::as_str).or_else(of_table)
    }

    /// Returns the first credential of the store whose secret is in the file.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        // Two empty members count as none.
        let own = self.credential.as_ref().filter(|it| !it.sigv4_access_key_id.is_empty());
        own.or_else(|| self.credentials.first())
    }
}

/// Credential of a key store.
#[derive(Clone, Debug, Deserialize)]
pub struct Credential {
    /// Access key id.
    pub sigv4_access_key_id: String,
    /// Secret access key.
    pub sigv4_secret_access_key: String,
}

impl ProxySettings {
    /// Reads a settings file.
    ///
    /// # Errors
    /// Description of why it cannot be read or is not a settings file.
    pub fn read(file: &Path) -> Result<Self, String> {
        let describe = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| describe(&error))?;
        toml::from_str(&text).map_err(|error| describe(&error))
    }

    /// Returns the address to connect to: loopback if the proxy listens on all addresses.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(connectable(self.server.ip), self.server.port)
    }

    /// Returns the address of the admin listener, if there is one without TLS.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let admin = self.admin.as_ref().filter(|admin| admin.tls_cert_pem.is_none())?;
        Some(SocketAddr::new(connectable(admin.ip), admin.port))
    }

    /// `[server] region`
    #[must_use]
    pub fn region(&self) -> &str {
        &self.server.region
    }

    /// `[server] service`
    #[must_use]
    pub fn service(&self) -> &str {
        &self.server.service
    }

    /// `[security] is_tls_enabled`
    #[must_use]
    pub fn is_tls_enabled(&self) -> bool {
        self.security.is_tls_enabled
    }

    /// Returns the store with that prefix, or the first.
    #[must_use]
    pub fn store(&self, uri_path_prefix: Option<&str>) -> Option<&Store> {
        self.external_key_stores
            .iter()
            .find(|store| uri_path_prefix.is_none_or(|prefix| store.uri_path_prefix == prefix))
    }
}

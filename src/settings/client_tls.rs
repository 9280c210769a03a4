//! TLS as a client, of servers that the settings name.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, version};

use super::certificate::{
    certified_key, read_authorities, read_chain, read_key, system_authorities,
};
use super::section::Section;
use super::tls::provider;

const CA_REMEDY: &str = "name the PEM file with the CAs that issue the server's certificate";
const CERT_REMEDY: &str = "name the PEM file with the proxy's certificate for that server, and its \
                           private key in tls_key_pem";
const KEY_REMEDY: &str = "name the PEM file with the private key of the certificate in \
                          tls_cert_pem";

/// Reads `server_ca_pem`, `tls_cert_pem` and `tls_key_pem`.
pub(super) fn read(section: &Section<'_>) -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(provider());
    let roots = authorities(section);
    let identity = identity(section, &provider);
    let (roots, identity) = (roots?, identity?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| {
            section.report().mistake(&section.location(), format!("TLS: {error}"), CERT_REMEDY);
        })
        .ok()?
        .with_root_certificates(roots);
    Some(Arc::new(match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
        None => builder.with_no_client_auth(),
    }))
}

/// Reads the authorities, or takes those of the system.
fn authorities(section: &Section<'_>) -> Option<RootCertStore> {
    let Some(member) = section.get("server_ca_pem") else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system_authorities(section, "server_ca_pem", CA_REMEDY)?);
        return Some(roots);
    };
    read_authorities(&member, CA_REMEDY)
}

/// Reads the client certificate and its key; returns `Some(None)` if there is none.
fn identity(section: &Section<'_>, provider: &CryptoProvider) -> Option<Option<Arc<CertifiedKey>>> {
    let (cert_member, key_member) = (section.get("tls_cert_pem"), section.get("tls_key_pem"));
    let chain = cert_member.as_ref().map(|member| read_chain(member, CERT_REMEDY));
    let key = key_member.as_ref().map(read_key);
    match (cert_member, key_member) {
        (None, None) => Some(None),
        (Some(cert_member), Some(key_member)) => {
            let (chain, key) = (chain??, key??);
            certified_key(chain, key, provider, &cert_member, &key_member).map(Arc::new).map(Some)
        }
        (cert_member, _) => {
            let (missing, remedy) = match cert_member {
                Some(_) => ("tls_key_pem", KEY_REMEDY),
                None => ("tls_cert_pem", CERT_REMEDY),
            };
            section.report().mistake(&section.location_of(missing), "it is missing", remedy);
            None
        }
    }
}

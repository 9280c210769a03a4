//! `[tls]`: the only place that creates a [`rustls::ServerConfig`].

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, version};

use super::certificate::{
    CertificateSummary, certified_key, inspect_chain, read_authorities, read_chain, read_key,
};
use super::certificate_uses::Peer;
use super::client_verifier::ClientVerifier;
use super::section::{Section, shown};
use crate::limits::TLS_SESSION_CACHE_SIZE;
use crate::partition;

const CERT_REMEDY: &str = "name the PEM file with the server's certificate, followed by those \
                           that lead to the CA";
const KEY_REMEDY: &str = "name the PEM file with the certificate's private key";
const CA_REMEDY: &str = "name the PEM file with the CAs that issue clients' certificates, or set \
                         is_mtls_enabled to false";
const ADMIN_CA_REMEDY: &str = "name the PEM file with the CAs that issue the certificates of Prometheus \
                               and administrators";

/// Beginning of the names in KMS's client certificates.
const KMS_NAMES_BEGIN: &str = "cks.kms.";

/// Returns the suites and groups that KMS uses, and no weaker ones (XKS specification, API content
/// type). With the feature `fips`, returns those that FIPS 140-3 approves.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    };
    if cfg!(feature = "fips") {
        provider.cipher_suites.retain(rustls::SupportedCipherSuite::fips);
        provider.kx_groups.retain(|group| group.fips());
    }
    provider
}

/// `[tls]`, read and checked: the key matches the certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Configuration for the event loops: suites, certificate, session tickets, client
    /// verification.
    pub config: Arc<rustls::ServerConfig>,
    /// Subject, names and expiry of the end-entity certificate, for the log.
    pub certificate: CertificateSummary,
    /// True if client certificates are required (mTLS).
    pub is_client_certificate_required: bool,
    /// DNS name or common name that client certificates must have. If `None`, any certificate
    /// issued by the configured CAs is accepted.
    pub client_name: Option<String>,
}

/// Reads `[tls]`. `region` is that of the key stores, if it is known.
pub(super) fn read(
    section: &Section<'_>,
    is_mtls_enabled: bool,
    region: Option<&str>,
) -> Option<Tls> {
    let provider = Arc::new(provider());
    let verifier = match is_mtls_enabled {
        true => client_verifier(section, &provider, region).map(Some),
        false => Some(None),
    };
    read_with(section, provider, verifier, Peer::Kms)
}

/// Reads the TLS members of `[admin]`. If `client_ca` names a member, clients need a certificate,
/// with any name, issued by a CA in that member's file.
pub(super) fn read_admin(section: &Section<'_>, client_ca: Option<&str>) -> Option<Tls> {
    let provider = Arc::new(provider());
    let verifier = match client_ca {
        Some(name) => chain_verifier(section, name, ADMIN_CA_REMEDY, &provider)
            .map(|chain| Some((None, Arc::new(ClientVerifier::new(chain, None)) as _))),
        None => Some(None),
    };
    read_with(section, provider, verifier, Peer::Operators)
}

fn read_with(
    section: &Section<'_>,
    provider: Arc<CryptoProvider>,
    verifier: Option<Option<NamedVerifier>>,
    peer: Peer,
) -> Option<Tls> {
    let cert_member = section.require("tls_cert_pem", CERT_REMEDY);
    let key_member = section.require("tls_key_pem", KEY_REMEDY);
    let chain = cert_member.as_ref().and_then(|member| read_chain(member, CERT_REMEDY));
    let key = key_member.as_ref().and_then(read_key);
    let (cert_member, key_member) = (cert_member?, key_member?);
    let chain = chain?;
    let certificate = inspect_chain(&chain, &cert_member, peer)?;
    let certified = certified_key(chain, key?, &provider, &cert_member, &key_member);
    let (client_name, verifier) = match verifier? {
        Some((name, verifier)) => (name, Some(verifier)),
        None => (None, None),
    };
    let is_client_certificate_required = verifier.is_some();
    let config = match server_config(provider, certified?, verifier) {
        Ok(config) => Arc::new(config),
        Err(error) => {
            section.report().mistake(&section.location(), format!("TLS: {error}"), CERT_REMEDY);
            return None;
        }
    };
    Some(Tls { config, certificate, is_client_certificate_required, client_name })
}

fn server_config(
    provider: Arc<CryptoProvider>,
    certified: CertifiedKey,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?;
    let has_verifier = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if has_verifier {
        // rustls does not verify a client certificate again when a session is resumed, so one that
        // has expired would go on for as long as a ticket is valid. KMS keeps its connections open;
        // each new one costs a full handshake.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Resumption saves KMS a round trip and us a signature. The ticket key is rotated
        // automatically.
        config.session_storage = ServerSessionMemoryCache::new(TLS_SESSION_CACHE_SIZE);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    }
    // Early data can be replayed (RFC 8446, 8).
    config.max_early_data_size = 0;
    if cfg!(feature = "fips") && !config.fips() {
        return Err(rustls::Error::General("the FIPS module is not in its approved mode".into()));
    }
    Ok(config)
}

type NamedVerifier = (Option<String>, Arc<dyn ClientCertVerifier>);

fn client_verifier(
    section: &Section<'_>,
    provider: &Arc<CryptoProvider>,
    region: Option<&str>,
) -> Option<NamedVerifier> {
    let name = client_name(section, region);
    let chain = chain_verifier(section, "mtls_client_ca_pem", CA_REMEDY, provider)?;
    let name = name?;
    let text = name.as_ref().map(|name| name.to_str().into_owned());
    Some((text, Arc::new(ClientVerifier::new(chain, name))))
}

/// Returns a verifier of client certificates that chain to a CA in the file that the member names.
fn chain_verifier(
    section: &Section<'_>,
    member: &str,
    remedy: &str,
    provider: &Arc<CryptoProvider>,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let member = section.require(member, remedy)?;
    let roots = read_authorities(&member, remedy)?;
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    match builder.build() {
        Ok(chain) => Some(chain),
        Err(error) => {
            member.mistake(format!("clients cannot be verified with it: {error}"), remedy);
            None
        }
    }
}

/// Reads the name that client certificates must have, and warns of one that KMS in the settings'
/// Region does not have.
fn client_name(section: &Section<'_>, region: Option<&str>) -> Option<Option<ServerName<'static>>> {
    let expected = region.map(partition::kms_client_name);
    let remedy = match &expected {
        Some(name) => format!("write the name in KMS's client certificate, \"{name}\""),
        None => "write the name in KMS's client certificate, \"cks.kms.REGION.\" and the DNS \
                 suffix of the Region's partition"
            .to_owned(),
    };
    let Some(member) = section.get("mtls_client_dns_name") else {
        let problem = "it is missing, so anyone with a certificate of the CA can connect";
        let location = section.location_of("mtls_client_dns_name");
        section.report().warning(&location, problem, &*remedy);
        return Some(None);
    };
    let text = member.string(&remedy)?;
    if let (Some(region), Some(expected)) = (region, &expected)
        && text.starts_with(KMS_NAMES_BEGIN)
        && !text.eq_ignore_ascii_case(expected)
    {
        let problem = format!(
            "\"{}\" is not the name of KMS in {region}, the [server] region: KMS there is refused",
            shown(text)
        );
        member.warning(problem, &*remedy);
    }
    match ServerName::try_from(text.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Some(Some(name)),
        _ => {
            member.mistake(format!("\"{}\" is not a DNS name", shown(text)), &*remedy);
            None
        }
    }
}

#[cfg(all(test, feature = "fips"))]
mod tests {
    use super::*;

    /// The remaining suites are approved, and suffice for KMS: TLS 1.3 and 1.2.
    #[test]
    fn all_is_approved() {
        let provider = provider();
        assert!(provider.fips());
        assert_eq!((provider.cipher_suites.len(), provider.kx_groups.len()), (3, 3));
    }
}

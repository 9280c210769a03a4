//! The client's side of TLS, with a record of the server's certificate.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct,
    RootCertStore, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;

use sha2::{Digest as _, Sha256};

use super::socket::{Limited, Stream};
use crate::certificate::Authorities;

/// Versions of TLS that the specification allows (API content type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246
    Tls12,
    /// RFC 8446
    Tls13,
}

/// A cipher suite that the specification names (API content type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecSuite(CipherSuite);

impl SpecSuite {
    /// Returns all suites that the specification names.
    pub fn all() -> impl Iterator<Item = Self> {
        SPEC_SUITES.into_iter().map(Self)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:?}", self.0)
    }
}

/// Trusted authorities, the client certificate, and the offered versions. By default no authority
/// is trusted.
#[derive(Clone, Debug)]
pub struct Trust {
    system: Arc<RootCertStore>,
    extra: Arc<RootCertStore>,
    /// Certificates that AWS KMS trusts, as far as this machine has them.
    listed: Arc<RootCertStore>,
    authorities: Option<Arc<Authorities>>,
    identity: Option<Arc<Identity>>,
    /// The only version to offer, if set.
    pub version: Option<TlsVersion>,
    /// True to offer only the suites that the specification names (API content type).
    pub is_spec_suites_only: bool,
    /// The only suite to offer, if set.
    pub only_suite: Option<SpecSuite>,
}

/// Chain of the client certificate, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Default for Trust {
    fn default() -> Self {
        Self {
            system: Arc::new(RootCertStore::empty()),
            extra: Arc::new(RootCertStore::empty()),
            listed: Arc::new(RootCertStore::empty()),
            authorities: None,
            identity: None,
            version: None,
            is_spec_suites_only: false,
            only_suite: None,
        }
    }
}

impl Trust {
    /// Sets the list of the authorities that AWS KMS trusts, before any is trusted here. Handshakes
    /// then tell whether the server's chain leads to one of them.
    pub fn list(&mut self, authorities: Authorities) {
        self.authorities = Some(Arc::new(authorities));
    }

    /// Notes a certificate that is on the list.
    fn note(&mut self, certificate: &CertificateDer<'_>) {
        if is_listed(self.authorities.as_deref(), certificate) {
            // One that cannot be parsed verifies nothing.
            let _ = Arc::make_mut(&mut self.listed).add(certificate.clone().into_owned());
        }
    }

    /// Trusts the certificates in `file` (PEM).
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub fn trust_file(&mut self, file: &Path) -> io::Result<()> {
        for certificate in certificates(file)? {
            self.note(&certificate);
            Arc::make_mut(&mut self.extra)
                .add(certificate)
                .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        }
        Ok(())
    }

    /// Trusts the authorities of the system, or those in the environment variables `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR`. Returns their number; unreadable certificates are skipped.
    pub fn trust_system(&mut self) -> usize {
        let found = rustls_native_certs::load_native_certs();
        for certificate in &found.certs {
            self.note(certificate);
        }
        Arc::make_mut(&mut self.system).add_parsable_certificates(found.certs).0
    }

    /// Uses a client certificate (mTLS).
    ///
    /// # Errors
    /// A file cannot be read, or lacks the certificate or key.
    pub fn identify(&mut self, chain: &Path, key: &Path) -> io::Result<()> {
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
        self.identity = Some(Arc::new((certificates(chain)?, key_der)));
        Ok(())
    }

    /// Uses this client certificate (DER).
    ///
    /// # Errors
    /// The key is malformed.
    pub fn identify_by(&mut self, certificate: Vec<u8>, key: Vec<u8>) -> io::Result<()> {
        let key = PrivateKeyDer::try_from(key).map_err(io::Error::other)?;
        self.identity = Some(Arc::new((vec![CertificateDer::from(certificate)], key)));
        Ok(())
    }

    /// Uses no client certificate.
    pub fn be_anonymous(&mut self) {
        self.identity = None;
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = aws_lc_rs::default_provider();
        if self.is_spec_suites_only {
            provider.cipher_suites.retain(|suite| SPEC_SUITES.contains(&suite.suite()));
        }
        if let Some(SpecSuite(only)) = self.only_suite {
            provider.cipher_suites.retain(|suite| suite.suite() == only);
        }
        provider
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.version {
            None => vec![&TLS13, &TLS12],
            Some(TlsVersion::Tls12) => vec![&TLS12],
            Some(TlsVersion::Tls13) => vec![&TLS13],
        }
    }

    fn config(&self, witness: Arc<Witness>, provider: CryptoProvider) -> io::Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions())
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(witness);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => builder
                .with_client_auth_cert(identity.0.clone(), identity.1.clone_key())
                .map_err(io::Error::other),
        }
    }
}

/// The suites that the specification names (API content type).
const SPEC_SUITES: [CipherSuite; 4] = [
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
];

fn is_listed(authorities: Option<&Authorities>, certificate: &[u8]) -> bool {
    authorities.is_some_and(|list| list.has(&Sha256::digest(certificate).into()))
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| in_file(file, &error))?;
    if certificates.is_empty() {
        return Err(io::Error::other(format!("{}: no certificate in it", file.display())));
    }
    Ok(certificates)
}

fn in_file(file: &Path, error: &rustls_pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// The authority that a certificate chain leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// One that the system trusts.
    System,
    /// One from [`Trust::trust_file`].
    Extra,
}

/// Outcome of a handshake, as far as it got: the agreed parameters, and the certificates of the
/// server.
#[derive(Clone, Debug, Default)]
pub struct Handshake {
    /// Version, such as `TLSv1_3`.
    pub version: Option<String>,
    /// Cipher suite.
    pub suite: Option<String>,
    /// Key exchange group.
    pub group: Option<String>,
    /// The server's certificates (DER), its own first.
    pub chain: Vec<Vec<u8>>,
    /// Authority that the chain leads to, or the reason it is not trusted.
    pub trust: Option<Result<Anchor, String>>,
    /// Success if the chain leads to an authority of [`Trust::list`], otherwise the reason it does
    /// not.
    pub listed: Option<Result<(), String>>,
    /// Success if the certificate is for the host's name, otherwise the reason it is not.
    pub name: Option<Result<(), String>>,
}

impl Handshake {
    /// Returns version, suite and group in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let agreed = [&self.version, &self.suite, &self.group];
        agreed.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// A verifier that decides as rustls does by default, and records its findings. A wrong certificate
/// ends the handshake.
#[derive(Debug)]
struct Witness {
    system: Arc<RootCertStore>,
    extra: Arc<RootCertStore>,
    listed: Arc<RootCertStore>,
    authorities: Option<Arc<Authorities>>,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Handshake>,
}

impl Witness {
    fn judge(
        &self,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Anchor, rustls::Error> {
        let leads_to = |roots| self.leads_to(roots, certificate, intermediates, now);
        // An authority that was named, and that the system trusts as well, is the named one.
        let by_extra = (!self.extra.is_empty()).then(|| leads_to(&self.extra));
        if matches!(by_extra, Some(Ok(()))) {
            return Ok(Anchor::Extra);
        }
        match (leads_to(&self.system), by_extra) {
            (Ok(()), _) => Ok(Anchor::System),
            (Err(_), Some(Err(error))) | (Err(error), _) => Err(error),
        }
    }

    /// Verifies that the chain leads to a listed authority. This machine need not have its
    /// certificate if the server sends it.
    fn judge_listed(
        &self,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::clone(&self.listed);
        let authorities = self.authorities.as_deref();
        for sent in intermediates.iter().filter(|sent| is_listed(authorities, sent)) {
            let _ = roots.add(sent.clone().into_owned());
        }
        self.leads_to(&roots, certificate, intermediates, now)
    }

    fn leads_to(
        &self,
        roots: &RootCertStore,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            certificate,
            roots,
            intermediates,
            now,
            algorithms,
        )
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.chain =
            [end_entity].into_iter().chain(intermediates).map(|der| der.to_vec()).collect();
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let trust = self.judge(&certificate, intermediates, now);
        let listed = self.judge_listed(&certificate, intermediates, now);
        let name = verify_server_name(&certificate, server_name);
        seen.listed = Some(listed.map_err(|error| error.to_string()));
        seen.trust = Some(trust.clone().map_err(|error| error.to_string()));
        seen.name = Some(name.clone().map_err(|error| error.to_string()));
        trust.and(name).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Stream for StreamOwned<ClientConnection, Limited> {
    fn set_deadline(&mut self, deadline: Instant) {
        self.sock.set_deadline(deadline);
    }
}

/// Returns whether the error is the alert with which a server asks for a client certificate.
#[must_use]
pub fn wants_certificate(error: &io::Error) -> bool {
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    let source = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    source.is_some_and(|source| *source == alert)
}

/// Performs the handshake. Its record is returned even after an error.
pub(super) fn connect(
    tcp: TcpStream,
    name: &str,
    trust: &Trust,
    deadline: Instant,
) -> (Option<Handshake>, io::Result<StreamOwned<ClientConnection, Limited>>) {
    let provider = trust.provider();
    let witness = Arc::new(Witness {
        system: Arc::clone(&trust.system),
        extra: Arc::clone(&trust.extra),
        listed: Arc::clone(&trust.listed),
        authorities: trust.authorities.clone(),
        algorithms: provider.signature_verification_algorithms,
        seen: Mutex::default(),
    });
    let stream = trust
        .config(Arc::clone(&witness), provider)
        .and_then(|config| shake_hands(tcp, name, config, deadline));
    let mut seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Ok(stream) = &stream {
        let connection = &stream.conn;
        seen.version = connection.protocol_version().map(|version| format!("{version:?}"));
        let suite = connection.negotiated_cipher_suite();
        seen.suite = suite.map(|suite| format!("{:?}", suite.suite()));
        let group = connection.negotiated_key_exchange_group();
        seen.group = group.map(|group| format!("{:?}", group.name()));
    }
    (Some(seen), stream)
}

fn shake_hands(
    tcp: TcpStream,
    name: &str,
    config: ClientConfig,
    deadline: Instant,
) -> io::Result<StreamOwned<ClientConnection, Limited>> {
    let mut tcp = Limited::new(tcp, deadline);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        if connection.wants_write() {
            connection.write_tls(&mut tcp)?;
        } else {
            if connection.read_tls(&mut tcp)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = connection.process_new_packets() {
                // Sends the alert, so that the peer learns the reason. One call need not write all.
                while connection.wants_write() && connection.write_tls(&mut tcp).is_ok() {}
                return Err(io::Error::other(error));
            }
        }
    }
    // Sends the last flight.
    while connection.wants_write() {
        connection.write_tls(&mut tcp)?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alert counts, and not a text that looks like it.
    #[test]
    fn the_alert_for_a_certificate() {
        let alert = |alert| io::Error::other(rustls::Error::AlertReceived(alert));
        assert!(wants_certificate(&alert(AlertDescription::CertificateRequired)));
        assert!(!wants_certificate(&alert(AlertDescription::CertificateExpired)));
        assert!(!wants_certificate(&io::Error::other("received fatal alert: CertificateRequired")));
    }
}

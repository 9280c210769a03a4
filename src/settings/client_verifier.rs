//! mTLS: verification of client certificates.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A verifier that requires a chain to a configured CA, and the configured name, if any. Every
/// failure ends the handshake with the same alert, `handshake_failure`: the public test client
/// accepts no other, and strangers need not know more. The log contains the details.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    name: Option<ServerName<'static>>,
}

impl ClientVerifier {
    /// Creates a verifier; `chain` verifies everything except the name.
    pub(super) fn new(
        chain: Arc<dyn ClientCertVerifier>,
        name: Option<ServerName<'static>>,
    ) -> Self {
        Self { chain, name }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match &self.name {
            Some(name) if !bears_name(end_entity, name)? => {
                Err(Error::InvalidCertificate(CertificateError::NotValidForName))
            }
            _ => Ok(verified),
        }
    }
}

/// Returns whether `name` is a DNS name of the subjectAltName extension or a common name of the
/// subject. KMS's certificate is identified by its common name (XKS specification, Authentication),
/// which webpki ignores.
fn bears_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<bool, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    if verify_server_name(&parsed, name).is_ok() {
        return Ok(true);
    }
    let name = name.to_str();
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let mut common_names = certificate.subject().iter_common_name();
    Ok(common_names
        .any(|found| found.as_str().is_ok_and(|found| found.eq_ignore_ascii_case(&name))))
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // rustls has an alert for each kind of certificate error, and uses this one for all others.
        self.verify(end_entity, intermediates, now)
            .map_err(|error| Error::General(format!("the client's certificate: {error}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

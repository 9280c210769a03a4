//! A small public key infrastructure, made for each test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Name in the client certificate of KMS in us-east-1 (XKS specification, mTLS).
pub const CLIENT_NAME: &str = "cks.kms.us-east-1.amazonaws.com";

/// A client's certificate.
#[derive(Clone, Copy, Debug)]
pub enum ClientIdentity {
    /// The right name, issued by the right authority.
    Right,
    /// The right authority, another name.
    WrongName,
    /// The right name, another authority.
    WrongAuthority,
    /// The right name and authority, expired.
    Expired,
    /// Only for servers (extended key usage).
    ServerOnly,
    /// The right name, self-signed.
    SelfSigned,
    /// The right name in the subject, no subjectAltName.
    CommonNameOnly,
}

/// All certificates that tests use, as PEM files in one directory.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes all certificates in `directory`.
    pub fn new(directory: &Path) -> Self {
        let certificates = Self { directory: directory.to_path_buf() };
        let server_ca = authority("server CA");
        let client_ca = authority("client CA");
        let other_ca = authority("other CA");
        certificates.write("server_ca.pem", &server_ca.0);
        certificates.write("client_ca.pem", &client_ca.0);

        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let server = leaf(&["localhost", "127.0.0.1"], ServerAuth);
        certificates.issue("server", &server, &server_ca);
        let client = leaf(&[CLIENT_NAME], ClientAuth);
        certificates.issue("Right", &client, &client_ca);
        certificates.issue("WrongAuthority", &client, &other_ca);
        let other = leaf(&["cks.kms.eu-west-1.amazonaws.com"], ClientAuth);
        certificates.issue("WrongName", &other, &client_ca);
        certificates.issue("ServerOnly", &leaf(&[CLIENT_NAME], ServerAuth), &client_ca);
        let mut common_name_only = client.clone();
        common_name_only.subject_alt_names.clear();
        certificates.issue("CommonNameOnly", &common_name_only, &client_ca);
        let mut expired = client.clone();
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        certificates.issue("Expired", &expired, &client_ca);
        let key = KeyPair::generate().unwrap();
        certificates.write("SelfSigned_cert.pem", &client.self_signed(&key).unwrap().pem());
        certificates.write("SelfSigned_key.pem", &key.serialize_pem());
        certificates
    }

    /// Replaces the ECDSA server certificate by an RSA one, with a matching authority.
    pub fn make_server_rsa(&self) {
        let ca = authority("RSA server CA");
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let server = leaf(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        self.write("server_ca.pem", &ca.0);
        self.write("server_cert.pem", &server.signed_by(&key, &ca.1).unwrap().pem());
        self.write("server_key.pem", &key.serialize_pem());
    }

    /// Returns the path of a file: `server_cert.pem`, `server_key.pem`, `server_ca.pem`,
    /// `client_ca.pem`, `<ClientIdentity>_cert.pem`, `<ClientIdentity>_key.pem`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Returns a client that trusts the server's authority and has the certificate of `identity`.
    /// `adjust` may remove suites.
    pub fn client_config(
        &self,
        identity: Option<ClientIdentity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        adjust: impl FnOnce(&mut CryptoProvider),
    ) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        adjust(&mut provider);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate("server_ca.pem")).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![self.certificate(&format!("{identity:?}_cert.pem"))],
                    PrivateKeyDer::from_pem_file(self.path(&format!("{identity:?}_key.pem")))
                        .unwrap(),
                )
                .unwrap(),
        };
        Arc::new(config)
    }

    fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(file)).unwrap()
    }

    fn issue(&self, name: &str, params: &CertificateParams, ca: &(String, Issuer<'_, KeyPair>)) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca.1).unwrap();
        self.write(&format!("{name}_cert.pem"), &certificate.pem());
        self.write(&format!("{name}_key.pem"), &key.serialize_pem());
    }

    fn write(&self, file: &str, pem: &str) {
        std::fs::write(self.path(file), pem).unwrap();
    }
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn leaf(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    params.extended_key_usages = vec![usage];
    params
}

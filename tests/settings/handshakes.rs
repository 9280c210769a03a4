//! Handshakes of clients with the TLS of the settings.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    ProtocolVersion, ServerConfig, ServerConnection, SignatureScheme, SupportedCipherSuite,
};

use crate::Place;
use crate::tls_files::{Identity, authority, load_tls, params, self_signed};

const NAME: &str = "cks.kms.us-east-1.amazonaws.com";

/// Accepts any certificate: these tests are about the server, and a self-signed one will do.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The TLS parameters that a client offers.
struct Offer<'a> {
    suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
    alpn: &'a [&'a str],
    identity: Option<&'a Identity>,
}

impl Default for Offer<'_> {
    fn default() -> Self {
        let provider = aws_lc_rs::default_provider();
        Self {
            suites: provider.cipher_suites,
            groups: provider.kx_groups,
            alpn: &[],
            identity: None,
        }
    }
}

impl Offer<'_> {
    fn config(self) -> Arc<ClientConfig> {
        let provider = CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups,
            ..aws_lc_rs::default_provider()
        };
        let versions: Vec<_> = [&rustls::version::TLS13, &rustls::version::TLS12]
            .into_iter()
            .filter(|version| self.suites.iter().any(|suite| suite.version() == *version))
            .collect();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut config = match self.identity {
            Some(identity) => {
                let chain = vec![identity.certificate.der().clone()];
                let key = PrivatePkcs8KeyDer::from(identity.key.serialize_der());
                builder.with_client_auth_cert(chain, key.into()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Runs a handshake without sockets. `Err` is the error that the client sees.
fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<ClientConnection, Error> {
    let name = ServerName::try_from("xks.example.com").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut cursor = Cursor::new(bytes);
        while server.read_tls(&mut cursor).unwrap() > 0 {
            if server.process_new_packets().is_err() {
                break;
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut cursor = Cursor::new(bytes);
        while client.read_tls(&mut cursor).unwrap() > 0 {
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking());
    Ok(client)
}

fn server(more: &str) -> Arc<ServerConfig> {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    load_tls(&place, (&cert, &key), more).unwrap().0.tls.unwrap().config
}

#[test]
fn only_the_suites_of_the_specification() {
    let server = server("");
    let only =
        |suite| connect(&server, &Offer { suites: vec![suite], ..Offer::default() }.config());
    for suite in [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ] {
        let client = only(suite).unwrap();
        assert_eq!(client.negotiated_cipher_suite(), Some(suite));
    }
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        let error = only(suite).unwrap_err();
        assert_eq!(error, Error::AlertReceived(AlertDescription::HandshakeFailure), "{suite:?}");
    }
}

#[test]
fn groups_alpn_and_resumption() {
    let server = server("");
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    for group in [X25519MLKEM768, X25519, SECP256R1, SECP384R1] {
        let client = connect(&server, &Offer { groups: vec![group], ..Offer::default() }.config());
        let client = client.unwrap();
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), group.name());
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    }
    let client =
        connect(&server, &Offer { alpn: &["h2", "http/1.1"], ..Offer::default() }.config());
    assert_eq!(client.unwrap().alpn_protocol(), Some(&b"http/1.1"[..]));
    for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
        let mut suites = Offer::default().suites;
        suites.retain(|suite| suite.version().version == version);
        let client = Offer { suites, ..Offer::default() }.config();
        assert_eq!(connect(&server, &client).unwrap().protocol_version(), Some(version));
        let again = connect(&server, &client).unwrap();
        assert_eq!(again.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
    assert_eq!(server.max_early_data_size, 0);
}

/// The time, as the server is to believe it.
#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// A client certificate that has expired since the first connection is refused at the next: neither
/// a ticket nor a session id takes its place.
#[test]
fn an_expired_client_certificate_is_no_longer_accepted() {
    const EXPIRY: u64 = 1_893_456_000; // 2030-01-01
    let place = Place::new();
    let ca = authority("the CA");
    let (ca_file, _) = ca.write(&place, "ca");
    let server = server(&format!("mtls_client_ca_pem = \"{ca_file}\"\n"));
    let at = |secs| {
        let mut config = ServerConfig::clone(&server);
        config.time_provider = Arc::new(At(secs));
        Arc::new(config)
    };
    let mut params = params(&[NAME], NAME);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let identity = ca.issue(params);
    for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
        let mut suites = Offer::default().suites;
        suites.retain(|suite| suite.version().version == version);
        let offer = Offer { suites, identity: Some(&identity), ..Offer::default() };
        let client = offer.config();
        for _ in 0..2 {
            let connected = connect(&at(EXPIRY - 60), &client).unwrap();
            assert_eq!(connected.handshake_kind(), Some(HandshakeKind::Full), "{version:?}");
            assert_eq!(connected.tls13_tickets_received(), 0);
        }
        let result = connect(&at(EXPIRY + 60), &client).map(|_| ());
        assert!(matches!(result, Err(Error::AlertReceived(_))), "{version:?}: {result:?}");
    }
}

/// The name may be a DNS name or the common name; another name, another CA or no certificate ends
/// the handshake with an alert.
#[test]
fn only_the_named_client_of_the_ca_gets_in() {
    let place = Place::new();
    let (ca, other_ca) = (authority("the CA"), authority("the CA"));
    let (ca_file, _) = ca.write(&place, "ca");
    let named = format!("mtls_client_ca_pem = \"{ca_file}\"\nmtls_client_dns_name = \"{NAME}\"\n");
    let unnamed = format!("mtls_client_ca_pem = \"{ca_file}\"\n");
    let (named, unnamed) = (server(&named), server(&unnamed));
    let try_ = |server: &Arc<ServerConfig>, identity: Option<&Identity>, tls12: bool| {
        let mut suites = Offer::default().suites;
        suites.retain(|suite| (suite.version() == &rustls::version::TLS12) == tls12);
        connect(server, &Offer { suites, identity, ..Offer::default() }.config()).map(|_| ())
    };
    let by_san = ca.issue(params(&["other.example", NAME], "somebody"));
    let by_common_name = ca.issue(params(&[], NAME));
    let by_upper_case = ca.issue(params(&[], &NAME.to_uppercase()));
    let by_wildcard = ca.issue(params(&["*.kms.us-east-1.amazonaws.com"], "somebody"));
    let other_name = ca.issue(params(&["cks.kms.eu-west-1.amazonaws.com"], "x"));
    let longer_name = ca.issue(params(&[], &format!("{NAME}.example.com")));
    let of_another_ca = other_ca.issue(params(&[NAME], NAME));
    let self_made = self_signed(&[NAME]);
    for tls12 in [false, true] {
        for identity in [&by_san, &by_common_name, &by_upper_case, &by_wildcard] {
            assert_eq!(try_(&named, Some(identity), tls12), Ok(()), "{:?}", identity.params);
        }
        for identity in [&other_name, &longer_name, &of_another_ca, &self_made] {
            let result = try_(&named, Some(identity), tls12);
            assert!(matches!(result, Err(Error::AlertReceived(_))), "{result:?}");
        }
        let result = try_(&named, None, tls12);
        assert!(matches!(result, Err(Error::AlertReceived(_))), "{result:?}");
        assert_eq!(try_(&unnamed, Some(&other_name), tls12), Ok(()));
        let result = try_(&unnamed, Some(&of_another_ca), tls12);
        assert!(matches!(result, Err(Error::AlertReceived(_))), "{result:?}");
    }
}

//! TLS: versions, suites, groups, resumption (XKS specification, TLS).

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion,
    SupportedProtocolVersion,
};

use crate::common::{Connection, Proxy, Setup, xks};

/// Makes a call, offering these suites only; `None` if the handshake fails.
fn negotiated(
    proxy: &Proxy,
    version: &'static SupportedProtocolVersion,
    adjust: impl FnOnce(&mut CryptoProvider),
) -> Option<(ProtocolVersion, CipherSuite, NamedGroup)> {
    let mut client = proxy.client();
    client.tls = Some(proxy.certificates().client_config(None, &[version], adjust));
    let mut connection = Connection::open(client.address, client.tls.as_ref()).ok()?;
    client.send(&mut connection, "health", xks::health().to_string().as_bytes());
    connection.receive().unwrap().ok();
    let tls = connection.tls();
    Some((
        tls.protocol_version()?,
        tls.negotiated_cipher_suite()?.suite(),
        tls.negotiated_key_exchange_group()?.name(),
    ))
}

fn only(suite: CipherSuite) -> impl Fn(&mut CryptoProvider) {
    move |provider| provider.cipher_suites.retain(|offered| offered.suite() == suite)
}

#[test]
fn suites() {
    use CipherSuite as Suite;
    let proxy = Setup::new().tls().start();
    for (version, suite) in [
        (&TLS13, Suite::TLS13_AES_256_GCM_SHA384),
        (&TLS13, Suite::TLS13_CHACHA20_POLY1305_SHA256),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ] {
        let negotiated = negotiated(&proxy, version, only(suite)).unwrap();
        assert_eq!((negotiated.0, negotiated.1), (version.version, suite));
    }
    for (version, suite) in [
        (&TLS13, Suite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        // The server's certificate has an ECDSA key.
        (&TLS12, Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ] {
        assert_eq!(negotiated(&proxy, version, only(suite)), None, "{suite:?}");
    }
    // The outcome for a client without special preferences.
    let usual = negotiated(&proxy, &TLS13, |_| {}).unwrap();
    assert_eq!(usual.1, Suite::TLS13_AES_256_GCM_SHA384);
}

#[test]
fn rsa_certificate() {
    let prepared = Setup::new().tls().prepare();
    prepared.certificates.make_server_rsa();
    let proxy = prepared.start();
    let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
    assert_eq!(negotiated(&proxy, &TLS12, only(suite)).unwrap().1, suite);
    assert!(negotiated(&proxy, &TLS13, |_| {}).is_some());
    let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    assert_eq!(negotiated(&proxy, &TLS12, only(suite)), None);
}

/// Key exchange is post-quantum if the client supports it, and by elliptic curves otherwise.
#[test]
fn key_exchange() {
    let proxy = Setup::new().tls().start();
    let group = negotiated(&proxy, &TLS13, |_| {}).unwrap().2;
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    for wanted in [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1] {
        for version in [&TLS12, &TLS13] {
            let only = |provider: &mut CryptoProvider| {
                provider.kx_groups.retain(|group| group.name() == wanted);
            };
            assert_eq!(negotiated(&proxy, version, only).unwrap().2, wanted);
        }
    }
}

/// A client that speaks another protocol learns why it is refused: the alert can be read, although
/// with TLS 1.3 it follows a ServerHello.
#[test]
fn other_protocols() {
    let proxy = Setup::new().tls().start();
    for version in [&TLS12, &TLS13] {
        let config = proxy.certificates().client_config(None, &[version], |_| {});
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let error = match Connection::open(proxy.api, Some(&Arc::new(config))) {
            Err(error) => error,
            Ok(_) => panic!("{version:?}"),
        };
        let alert = error.get_ref().and_then(|error| error.downcast_ref());
        let expected = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(alert, Some(&expected), "{version:?}: {error:?}");
    }
}

/// KMS opens connections all the time: resuming a session saves the server a signature.
#[test]
fn resumption() {
    let proxy = Setup::new().tls().start();
    for version in [&TLS12, &TLS13] {
        let mut client = proxy.client();
        client.tls = Some(proxy.certificates().client_config(None, &[version], |_| {}));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut connection = client.connect();
            client.send(&mut connection, "health", xks::health().to_string().as_bytes());
            connection.receive().unwrap().ok();
            kinds.push(connection.tls().handshake_kind().unwrap());
        }
        assert_ne!(kinds[0], HandshakeKind::Resumed);
        assert_eq!(kinds[1..], [HandshakeKind::Resumed; 2], "{version:?}");
    }
}

/// Bodies larger than one record (16 KiB), in both directions.
#[test]
fn large_bodies() {
    let proxy = Setup::new()
        .tls()
        .set("limits.max_plaintext_in_base64", 60_000)
        .set("limits.max_aad_in_base64", 80_000)
        // A generous deadline, since the machine may be busy.
        .set("limits.request_deadline_milli", 10_000)
        .start();
    let client = proxy.client();
    let (plaintext, aad) = (vec![1; 45_000], vec![2; 60_000]);
    let encrypted =
        client.call("keys/foo/encrypt", &xks::encrypt_with_cdiv(&plaintext, Some(&aad))).ok();
    let decrypted = client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, Some(&aad))).ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), plaintext);
}

/// Bytes that are not TLS get no HTTP answer and harm no other connection.
#[test]
fn not_tls() {
    let proxy = Setup::new().tls().start();
    for bytes in [b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n".as_slice(), &[0; 600], b"\x16\x03"] {
        let mut connection = Connection::open(proxy.api, None).unwrap();
        connection.send(bytes).unwrap();
        if bytes.len() > 5 {
            assert!(connection.receive().is_err());
        }
    }
    proxy.client().call("health", &xks::health()).ok();
}

/// A peer that never completes its handshake is disconnected.
#[test]
fn slow_handshake() {
    let proxy = Setup::new().tls().set("limits.handshake_timeout_milli", 300).start();
    let mut connection = Connection::open(proxy.api, None).unwrap();
    connection.send(b"\x16\x03\x01").unwrap();
    assert!(connection.is_at_end().unwrap());
}

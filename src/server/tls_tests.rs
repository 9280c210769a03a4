//! For any input from a peer, the session continues or ends with an error, and never panics:
//! rustls' unbuffered interface remembers positions in bytes that it has seen and must see again.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme,
};

use super::*;
use crate::limits::MAX_UNKEYED_FLIGHT_BYTES;

/// Accepts any certificate: the client is only here to send valid input.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A provider with these key agreement groups, preferred in this order.
fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Arc<rustls::crypto::CryptoProvider> {
    let kx_groups = groups.to_vec();
    Arc::new(rustls::crypto::CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

fn acceptor() -> Acceptor {
    acceptor_by(&[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1])
}

fn acceptor_by(groups: &[&'static dyn SupportedKxGroup]) -> Acceptor {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(provider(groups))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    Acceptor::new(Arc::new(config))
}

fn client_config(is_old: bool) -> ClientConfig {
    let versions: &[_] =
        if is_old { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    ClientConfig::builder_with_protocol_versions(versions)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth()
}

fn client(is_old: bool) -> ClientConnection {
    let config = Arc::new(client_config(is_old));
    ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap()
}

/// Passes bytes to the session as the event loop does, and returns its output.
fn feed(
    session: &mut TlsSession,
    bytes: &[u8],
    plaintext: &mut Vec<u8>,
) -> Result<Vec<u8>, TlsError> {
    let mut incoming = [session.partial(), bytes].concat();
    let mut out = Outgoing::default();
    session.receive(&mut incoming, &mut out, |piece| plaintext.extend_from_slice(piece))?;
    Ok(out.filled().to_vec())
}

/// The client's current output.
fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn hear(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        // A server that received damaged bytes may answer with an alert.
        let _ = client.process_new_packets();
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        Just(Damage::Repeat),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    let place = |at: &usize| at % (bytes.len() + 1);
    match damage {
        Damage::Flip(at, bits) => {
            let place = at % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= bits;
            }
        }
        Damage::Cut(at) => bytes.truncate(place(at)),
        Damage::Insert(at, more) => {
            let place = place(at);
            bytes.splice(place..place, more.iter().copied());
        }
        Damage::Repeat => bytes.extend_from_within(..),
    }
}

/// Runs a handshake, a request and a close in pieces of `piece` bytes. Applies `damage` to flight
/// number `damaged`. Returns the plaintext.
fn converse(is_old: bool, piece: usize, damaged: usize, damage: Option<&Damage>) -> Vec<u8> {
    use std::io::Write as _;
    let acceptor = acceptor();
    let mut session = acceptor.start_session().unwrap();
    let mut client = client(is_old);
    let mut plaintext = Vec::new();
    let mut has_sent = false;
    for flight in 0..8 {
        if !client.is_handshaking() && !has_sent {
            client.writer().write_all(&[b'x'; 20_000]).unwrap();
            client.send_close_notify();
            has_sent = true;
        }
        let mut bytes = said(&mut client);
        if flight == damaged
            && let Some(damage) = damage
        {
            apply(damage, &mut bytes);
        }
        for piece in bytes.chunks(piece) {
            match feed(&mut session, piece, &mut plaintext) {
                Ok(answer) => hear(&mut client, &answer),
                Err(_) => return plaintext,
            }
        }
        if !session.is_handshaking() {
            let mut out = Outgoing::default();
            if session.send(b"answer", &mut out).is_err() {
                return plaintext;
            }
            hear(&mut client, out.filled());
        }
    }
    session.close(&mut Outgoing::default());
    plaintext
}

/// The request is decrypted regardless of where records are split.
#[test]
fn in_pieces() {
    for is_old in [false, true] {
        for piece in [7, 100, 1000, 100_000] {
            assert_eq!(converse(is_old, piece, 99, None), [b'x'; 20_000], "{piece}");
        }
    }
}

/// An event loop recognises by its size whether a session's first flight cost a key agreement (and
/// a signature). A HelloRetryRequest costs none; the answer to the client's next hello does. This
/// holds for any version and group, and for resumed sessions.
#[test]
fn a_first_flight_is_told_from_what_costs_nothing() {
    use rustls::version::{TLS12, TLS13};
    let acceptor = acceptor_by(&[kx_group::SECP256R1]);
    let (liked, unliked) = (kx_group::SECP256R1, kx_group::SECP384R1);
    let cases: [(&rustls::SupportedProtocolVersion, &[_], usize); 3] =
        [(&TLS13, &[unliked, liked], 1), (&TLS13, &[liked], 0), (&TLS12, &[liked], 0)];
    for (version, groups, retries) in cases {
        let mut config = ClientConfig::builder_with_provider(provider(groups))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        for is_resumed in [false, true] {
            let name = "localhost".try_into().unwrap();
            let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
            let mut session = acceptor.start_session().unwrap();
            let mut flights = Vec::new();
            for _ in 0..4 {
                let said = said(&mut client);
                let flight = feed(&mut session, &said, &mut Vec::new()).unwrap();
                hear(&mut client, &flight);
                flights.push(flight.len());
            }
            assert!(!session.is_handshaking() && !client.is_handshaking());
            // A client remembers the group that was chosen.
            let retries = if is_resumed { 0 } else { retries };
            let (free, rest) = flights.split_at(retries);
            assert!(free.iter().all(|bytes| (1..=MAX_UNKEYED_FLIGHT_BYTES).contains(bytes)));
            // Resuming a TLS 1.2 session is cheap too.
            let is_free = is_resumed && *version == TLS12;
            assert!(is_free || rest[0] > MAX_UNKEYED_FLIGHT_BYTES, "{flights:?}");
        }
    }
}

/// The reason for a refused handshake reaches the client, though rustls has several records to send
/// (TLS 1.3 encrypts the alert with the keys of a ServerHello that comes first).
#[test]
fn the_whole_of_an_alert() {
    use rustls::AlertDescription::NoApplicationProtocol;
    let mut config = ServerConfig::clone(&acceptor().0);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = Acceptor::new(Arc::new(config));
    for is_old in [false, true] {
        let mut config = client_config(is_old);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut session = acceptor.start_session().unwrap();
        let mut hello = said(&mut client);
        let mut out = Outgoing::default();
        assert!(session.receive(&mut hello, &mut out, |_| {}).is_err());
        let mut bytes = out.filled();
        let mut outcome = Ok(());
        while !bytes.is_empty() && outcome.is_ok() {
            client.read_tls(&mut bytes).unwrap();
            outcome = client.process_new_packets().map(drop);
        }
        assert_eq!(outcome, Err(rustls::Error::AlertReceived(NoApplicationProtocol)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Input that is not TLS at all.
    #[test]
    fn any_bytes(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6), is_tls in any::<bool>()) {
        let acceptor = acceptor();
        let mut session = acceptor.start_session().unwrap();
        let start: &[u8] = if is_tls { b"\x16\x03\x01\x00\xc8" } else { b"" };
        for piece in std::iter::once(start).chain(pieces.iter().map(Vec::as_slice)) {
            if feed(&mut session, piece, &mut Vec::new()).is_err() {
                break;
            }
        }
    }

    /// TLS that was damaged, in either version.
    #[test]
    fn damaged_conversations(
        is_old in any::<bool>(),
        piece in 1_usize..3000,
        damaged in 0_usize..4,
        damage in damage(),
    ) {
        let plaintext = converse(is_old, piece.max(40), damaged, Some(&damage));
        // Nothing that was tampered with gets through.
        prop_assert!(plaintext.len() <= 20_000 && plaintext.iter().all(|byte| *byte == b'x'));
    }
}

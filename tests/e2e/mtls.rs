//! Client certificates: only KMS completes the handshake.

use std::io;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind};

use crate::common::certificates::ClientIdentity;
use crate::common::{Connection, Proxy, Response, Setup, xks};

fn health(proxy: &Proxy, tls: Arc<ClientConfig>) -> io::Result<Response> {
    let mut client = proxy.client();
    client.tls = Some(tls);
    let mut connection = Connection::open(client.address, client.tls.as_ref())?;
    let target = client.target("health");
    let body = xks::health().to_string();
    let headers = client.headers(&target, body.as_bytes());
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes())?;
    connection.receive()
}

#[test]
fn right_client() {
    let proxy = Setup::new().mtls().start();
    for identity in [ClientIdentity::Right, ClientIdentity::CommonNameOnly] {
        for version in [&TLS12, &TLS13] {
            let tls = proxy.certificates().client_config(Some(identity), &[version], |_| {});
            for _ in 0..2 {
                health(&proxy, Arc::clone(&tls)).unwrap().ok();
            }
        }
    }
}

/// A resumed session would not show its certificate again, so none is resumed.
#[test]
fn the_certificate_is_verified_each_time() {
    let proxy = Setup::new().mtls().start();
    for version in [&TLS12, &TLS13] {
        let identity = Some(ClientIdentity::Right);
        let mut client = proxy.client();
        client.tls = Some(proxy.certificates().client_config(identity, &[version], |_| {}));
        for _ in 0..3 {
            let mut connection = client.connect();
            client.send(&mut connection, "health", xks::health().to_string().as_bytes());
            connection.receive().unwrap().ok();
            let kind = connection.tls().handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{version:?}");
        }
    }
}

#[test]
fn wrong_client() {
    let proxy = Setup::new().mtls().start();
    for identity in [
        None,
        Some(ClientIdentity::WrongName),
        Some(ClientIdentity::WrongAuthority),
        Some(ClientIdentity::Expired),
        Some(ClientIdentity::ServerOnly),
        Some(ClientIdentity::SelfSigned),
    ] {
        // Several times, since the network may split the handshake differently each time.
        for version in [&TLS12, &TLS13].repeat(5) {
            let tls = proxy.certificates().client_config(identity, &[version], |_| {});
            let error = match health(&proxy, tls) {
                Err(error) => error,
                Ok(response) => panic!("{identity:?} got {}", response.status),
            };
            let alert = match error.get_ref().and_then(|error| error.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
                _ => None,
            };
            // TLS 1.3 has an alert for "no certificate"; otherwise it is the one that the public
            // test client looks for.
            let is_right_alert = alert == Some(AlertDescription::HandshakeFailure)
                || identity.is_none() && alert == Some(AlertDescription::CertificateRequired);
            // With TLS 1.3 the client has already sent its request; it still sees the alert, since
            // the server continues to read for a while.
            assert!(is_right_alert, "{version:?}, {identity:?}: {error:?}");
        }
    }
    health(&proxy, proxy.tls_config(Some(ClientIdentity::Right))).unwrap().ok();
}

/// Without a name in the settings, only the authority is checked.
#[test]
fn no_name_configured() {
    let prepared = Setup::new().mtls().prepare();
    let text = std::fs::read_to_string(&prepared.settings_file).unwrap();
    let is_kept = |line: &&str| !line.starts_with("mtls_client_dns_name");
    let text: Vec<&str> = text.lines().filter(is_kept).collect();
    std::fs::write(&prepared.settings_file, text.join("\n")).unwrap();
    let proxy = prepared.start();
    health(&proxy, proxy.tls_config(Some(ClientIdentity::WrongName))).unwrap().ok();
    assert!(health(&proxy, proxy.tls_config(Some(ClientIdentity::WrongAuthority))).is_err());
}

/// A client certificate does not replace the signature.
#[test]
fn signature_still_needed() {
    let proxy = Setup::new().mtls().start();
    let mut client = proxy.client();
    client.signer.store.secret_access_key.push('x');
    client.call("health", &xks::health()).assert_error(401, "AuthenticationFailedException");
}

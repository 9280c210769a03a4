//! Invalid certificates, and TLS that does not meet the specification.

use crate::common::certificates::{Certificates, ClientIdentity};
use crate::run::{Run, probe};
use crate::stand_in::StandIn;

fn probe_at(stand_in: &StandIn, host: &str, more: &[&str]) -> Run {
    let url = format!("https://{host}:{}/store", stand_in.port());
    probe(&[&[url.as_str(), "--key-id", "key"], more].concat())
}

/// Errors in chain, name and expiry are distinguished, and an untrusted server is sent nothing.
#[test]
fn certificates() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let ca = certificates.path("server_ca.pem");
    let ca = ["--ca", ca.to_str().unwrap()];
    let stand_in = StandIn::tls(&certificates, "server");
    let run = probe_at(&stand_in, "localhost", &ca);
    assert_eq!(run.failed(), Vec::<&str>::new(), "{}", run.text);

    let run = probe_at(&stand_in, "localhost", &[]);
    assert_eq!(
        (run.code, run.failed()),
        (Some(10), vec!["tls.chain", "tls.kms-authority"]),
        "{}",
        run.text
    );
    assert!(!run.text.contains("health"), "{}", run.text);
    assert_eq!(run.kms("tls.chain"), "XKS_PROXY_INVALID_TLS_CONFIGURATION");
    // The certificate is for 127.0.0.1 and localhost.
    let run = probe_at(&stand_in, "ip6-localhost", &ca);
    assert!(run.code == Some(69) || run.failed() == ["tls.name", "tls.subject"], "{}", run.text);

    let client_ca = certificates.path("client_ca.pem");
    let stand_in = StandIn::tls(&certificates, &format!("{:?}", ClientIdentity::Expired));
    let run = probe_at(&stand_in, "localhost", &["--ca", client_ca.to_str().unwrap()]);
    let wrong = ["tls.chain", "tls.kms-authority", "tls.name", "tls.subject"];
    assert_eq!(run.failed(), wrong, "{}", run.text);
    assert!(run.with_verdict("warn").contains(&"tls.expiry"), "{}", run.text);
    assert!(run.came("tls.chain").contains("expired"), "{}", run.text);
}

/// A server that requests no client certificate causes a warning; one that accepts a self-made
/// certificate fails.
#[test]
fn client_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let file = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
    let (ca, chain, key) = (file("server_ca.pem"), file("Right_cert.pem"), file("Right_key.pem"));
    let more = ["--ca", &ca, "--client-cert", &chain, "--client-key", &key];
    let run = probe_at(&StandIn::tls(&certificates, "server"), "localhost", &more);
    assert_eq!(run.failed(), Vec::<&str>::new(), "{}", run.text);
    assert!(run.with_verdict("warn").contains(&"mtls.required"), "{}", run.text);
    assert!(run.with_verdict("skip").contains(&"mtls.stranger"), "{}", run.text);

    let run = probe_at(&StandIn::careless_mtls(&certificates), "localhost", &more);
    assert_eq!(run.failed(), ["mtls.stranger"], "{}", run.text);
}

/// A server that offers none of the specification's suites; one that supports only TLS 1.2.
#[test]
fn suites_and_versions() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let ca = certificates.path("server_ca.pem");
    let ca = ["--ca", ca.to_str().unwrap()];
    let run = probe_at(&StandIn::aes_128_alone(&certificates), "localhost", &ca);
    assert_eq!(run.failed(), ["tls.handshake"], "{}", run.text);
    assert_eq!(run.kms("tls.handshake"), "XKS_PROXY_INVALID_TLS_CONFIGURATION");
    let run = probe_at(&StandIn::tls_12_alone(&certificates), "localhost", &ca);
    assert_eq!(run.failed(), Vec::<&str>::new(), "{}", run.text);
    assert!(run.with_verdict("warn").contains(&"tls.versions"), "{}", run.text);
}

//! The verdict and the exit code for what KMS refuses: certificates, connections, slow answers.

use std::net::TcpListener;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair};
use sha2::{Digest as _, Sha256};

use crate::common::Setup;
use crate::common::certificates::Certificates;
use crate::run::{Run, probe};
use crate::stand_in::StandIn;

const HOST: &str = "xks.example.com";
const INVALID_TLS: &str = "XKS_PROXY_INVALID_TLS_CONFIGURATION";

/// An authority with a file for `--ca`, and one for `--authorities` in AWS's form.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    list: String,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let digest = Sha256::digest(root.der());
        let digits: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let list = format!(
            "Alias name: test\nOwner: CN={name}\nIssuer: CN={name}\nCertificate fingerprints:\n\t \
             SHA1: 00\n\t SHA256: {}\n*****\n",
            digits.join(":")
        );
        let (ca_file, list_file) = (format!("{name}.pem"), format!("{name}.list"));
        std::fs::write(directory.join(&ca_file), root.pem()).unwrap();
        std::fs::write(directory.join(&list_file), list).unwrap();
        let text = |file: &str| directory.join(file).to_str().unwrap().to_owned();
        Self { ca: text(&ca_file), list: text(&list_file), issuer: Issuer::new(params, key) }
    }

    /// Writes a server's certificate and its key.
    fn issue(&self, directory: &Path, file: &str, names: &[&str], common_name: Option<&str>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.into()));
        }
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(directory.join(format!("{file}_cert.pem")), pem).unwrap();
        std::fs::write(directory.join(format!("{file}_key.pem")), key.serialize_pem()).unwrap();
    }
}

/// Probes a stand-in that KMS would call by [`HOST`].
fn probe_host(stand_in: &StandIn, more: &[&str]) -> Run {
    let url = format!("https://{HOST}:{}/store", stand_in.port());
    let at = ["--key-id", "key", "--connect-to", "127.0.0.1"];
    probe(&[&[url.as_str()], &at[..], more].concat())
}

/// The names that AWS's guide wants, and authorities on AWS's list and off it.
#[test]
fn certificates() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let authority = Authority::new(directory.path(), "a public authority");
    let listed = ["--ca", &authority.ca, "--authorities", &authority.list];
    for (names, common_name, failed) in [
        (&[HOST][..], Some(HOST), &[][..]),
        (&["*.example.com"], Some("*.example.com"), &[]),
        (&[HOST, "other.example.com"], Some("XKS.example.com"), &[]),
        (&[HOST], Some("other.example.com"), &["tls.subject"]),
        (&[HOST], Some("*.xks.example.com"), &["tls.subject"]),
        (&[HOST], None, &["tls.subject"]),
        (&["other.example.com"], Some(HOST), &["tls.name"]),
    ] {
        authority.issue(directory.path(), "it", names, common_name);
        let run = probe_host(&StandIn::named(&certificates, "it", HOST, ""), &listed);
        assert_eq!(run.failed(), failed, "{}", run.text);
        let code = if failed.is_empty() { 0 } else { 10 };
        assert!(run.code == Some(code) || run.has_slow_ones(), "{:?} {}", run.code, run.text);
        assert!(run.with_verdict("pass").contains(&"tls.kms-authority"), "{}", run.text);
        for name in failed {
            assert_eq!(run.kms(name), INVALID_TLS);
        }
    }

    // A private authority: KMS does not connect. With --ca, the probe goes on all the same.
    authority.issue(directory.path(), "it", &[HOST], Some(HOST));
    let stand_in = StandIn::named(&certificates, "it", HOST, "");
    let run = probe_host(&stand_in, &[]);
    assert_eq!(run.failed(), ["tls.chain", "tls.kms-authority"]);
    assert_eq!((run.code, run.kms("tls.kms-authority")), (Some(10), &INVALID_TLS.into()));
    assert_eq!(run.json["failing"], serde_json::json!(["tls"]));
    let run = probe_host(&stand_in, &["--ca", &authority.ca]);
    assert!(run.with_verdict("warn").contains(&"tls.kms-authority"), "{}", run.text);
    assert_eq!(run.kms("tls.kms-authority"), INVALID_TLS);
    assert!(run.came("tls.kms-authority").contains("KMS will not connect"), "{}", run.text);
    assert!(run.code == Some(0) || run.has_slow_ones(), "{}", run.text);
    let suites = run.json["suites"].as_array().unwrap();
    assert_eq!(suites.len(), 3, "the key is not of RSA: {suites:?}");

    // Another authority with the name of one on the list.
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let impostor = Authority::new(&other, "a public authority");
    let run = probe_host(&stand_in, &["--ca", &authority.ca, "--authorities", &impostor.list]);
    assert!(run.with_verdict("warn").contains(&"tls.kms-authority"), "{}", run.text);
    assert!(run.came("tls.kms-authority").contains("does not lead to"), "{}", run.text);
}

/// A proxy that closes each connection after an answer only costs time; one that ends each at once
/// cannot be reached.
#[test]
fn connections() {
    let run = probe_at(&StandIn::http("closes each connection"));
    assert_eq!(run.failed(), Vec::<&str>::new(), "{}", run.text);
    assert!(run.with_verdict("warn").contains(&"http.keep-alive"), "{}", run.text);
    assert!(run.code == Some(0) || run.has_slow_ones(), "{}", run.text);

    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for (url, more) in [
        (format!("https://127.0.0.1:{port}/store"), &[][..]),
        (format!("http://127.0.0.1:{port}/store"), &["--insecure-http"]),
    ] {
        let run = probe(&[&[url.as_str(), "--key-id", "key"], more].concat());
        assert_eq!(run.code, Some(69), "{}", run.text);
        assert!(run.text.contains("in KMS: XKS_PROXY_NOT_REACHABLE"), "{}", run.text);
    }
}

/// Answers after KMS's 250 ms, and none at all.
#[test]
fn slow() {
    let run = probe_at(&StandIn::http("slow"));
    assert_eq!((run.code, run.failed()), (Some(14), vec![]), "{}", run.text);
    for name in ["health.time", "latency.new-connection", "latency.one-at-a-time"] {
        assert!(run.with_verdict("fail").contains(&name), "{name}: {}", run.text);
    }
    assert_eq!(run.kms("health.time"), "XKS_PROXY_TIMED_OUT");
    assert!(run.json["latency"]["one_at_a_time"]["p99_milli"].as_f64().unwrap() > 250.0);

    // The kernel accepts the connection, and nobody reads.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    for (scheme, more, name) in
        [("https", &[][..], "tls.handshake"), ("http", &["--insecure-http"], "health.answer")]
    {
        let url = format!("{scheme}://{}/store", silent.local_addr().unwrap());
        let run = probe(&[&[url.as_str(), "--key-id", "key"], more].concat());
        assert_eq!(run.code, Some(14), "{}", run.text);
        assert_eq!(run.kms(name), "XKS_PROXY_TIMED_OUT", "{}", run.text);
    }
}

/// A refused credential, an unknown path and an unknown key are no faults of the rest.
#[test]
fn credential_path_and_key() {
    let stand_in = StandIn::http("");
    let url = |store: &str| format!("http://127.0.0.1:{}/{store}", stand_in.port());
    let more = ["--insecure-http", "--key-id"];
    for (store, key, region, code, name, kms) in [
        ("store", "key", "eu-west-1", 11, "health.answer", "INVALID_CREDENTIALS"),
        ("other", "key", "us-east-1", 12, "health.answer", "XKS_PROXY_INVALID_CONFIGURATION"),
        ("store", "nothing", "us-east-1", 12, "metadata.answer", "XksKeyNotFoundException"),
    ] {
        let url = url(store);
        let run = probe(&[&[url.as_str()], &more[..], &[key, "--region", region]].concat());
        assert_eq!((run.code, run.failed()), (Some(code), vec![name]), "{}", run.text);
        assert_eq!(run.kms(name), kms);
    }
}

/// Only an IPv6 address.
#[test]
fn ipv6() {
    let Ok(listener) = TcpListener::bind(("::1", 0)) else { return };
    let url = format!("http://[::1]:{}/store", listener.local_addr().unwrap().port());
    let run = probe(&[&url, "--key-id", "key", "--insecure-http"]);
    assert!(run.failed().contains(&"network.ipv4"), "{}", run.text);
    assert_eq!(run.kms("network.ipv4"), "XKS_PROXY_NOT_REACHABLE");
    assert!(run.came("network.ipv4").contains("::1"), "{}", run.text);
}

fn probe_at(stand_in: &StandIn) -> Run {
    let url = format!("http://127.0.0.1:{}/store", stand_in.port());
    probe(&[&url, "--key-id", "key", "--insecure-http"])
}

/// `check` knows before anything starts whether the certificate is for the name that KMS calls.
#[test]
fn check_of_a_name() {
    let prepared = Setup::new().tls().prepare();
    let (code, text) = prepared.run(&["check", "--dns-name", "localhost"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the certificate is for localhost\n"), "{text}");
    let (code, text) = prepared.run(&["check", "--dns-name", HOST]);
    assert_eq!(code, Some(78), "{text}");
    let expected = format!("tls.tls_cert_pem: {HOST} is none of its DNS names (subjectAltName)");
    assert!(text.contains(&expected) && text.contains(INVALID_TLS), "{text}");

    let authority = Authority::new(prepared.certificates.path("").as_path(), "another authority");
    authority.issue(&prepared.certificates.path(""), "server", &[HOST], Some("other.example.com"));
    let (code, text) = prepared.run(&["check", "--dns-name", HOST]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("none of its common names (CN)"), "{text}");

    let plain = Setup::new().prepare();
    let (code, text) = plain.run(&["check", "--dns-name", HOST]);
    assert!(code == Some(78) && text.contains("TLS is off"), "{text}");
}

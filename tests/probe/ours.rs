//! Our own proxy passes every check.

use crate::common::certificates::ClientIdentity;
use crate::common::{Proxy, Setup, Store, token, xks};
use crate::run::{Run, is_of_time, probe};

/// Warnings that are unavoidable here: the machine has no domain name, and some of the probed keys
/// are deliberately unusable for KMS.
const EXPECTED_WARNINGS: [&str; 2] = ["uri.endpoint", "metadata.usable-other"];

fn probe_ours(proxy: &Proxy, host: &str, scheme: &str, more: &[&str]) -> Run {
    let url = format!("{scheme}://{host}:{}{}/kms/xks/v1", proxy.api.port(), Store::first().prefix);
    let keys = [token::FULL, token::ENCRYPT_ONLY, token::DECRYPT_ONLY, token::IMPOTENT];
    let mut arguments = vec![url.as_str()];
    for key in &keys {
        arguments.extend(["--key-id", key.label]);
    }
    arguments.extend(more);
    probe(&arguments)
}

#[track_caller]
fn assert_clean(run: &Run, more_warnings: &[&str]) {
    assert_eq!(run.code, Some(run.expected_code()), "{}", run.text);
    assert_eq!(run.failed(), Vec::<&str>::new());
    assert_eq!(run.with_verdict("skip"), Vec::<&str>::new());
    for name in run.with_verdict("warn") {
        let is_expected = EXPECTED_WARNINGS.contains(&name) || more_warnings.contains(&name);
        assert!(is_of_time(name) || is_expected, "{name}: {}", run.text);
    }
    assert!(run.with_verdict("pass").len() > 70, "{}", run.text);
    assert!(run.text.contains("one at a time: 20 calls"), "{}", run.text);
}

#[test]
fn over_http() {
    let proxy = Setup::new().start();
    let run = probe_ours(&proxy, "127.0.0.1", "http", &["--insecure-http"]);
    assert_clean(&run, &["tls.https"]);
}

/// With ciphertextMetadata, more checks apply.
#[test]
fn with_ciphertext_metadata() {
    for metadata in [b"k".as_slice(), b"key_version=1", &[0xff; 20]] {
        let text = xks::base64(metadata);
        let proxy = Setup::new().set("server.ciphertext_metadata_b64", text).start();
        let run = probe_ours(&proxy, "127.0.0.1", "http", &["--insecure-http"]);
        assert_clean(&run, &["tls.https"]);
        for name in ["binding.no-metadata", "binding.metadata-as-aad"] {
            assert!(run.with_verdict("pass").contains(&name), "{name}: {}", run.text);
        }
        let came = run.came("binding.other-metadata");
        assert!(came.ends_with("tried: InvalidCiphertextException"), "{came}");
        assert!(came.starts_with(&format!("{} tried", alterations(metadata.len()))), "{came}");
    }
}

/// The tag of a version is metadata too. A changed number is that of a version which the key does
/// not have, and no tag that of the original.
#[test]
fn with_versions() {
    for is_retired in [false, true] {
        probe_versions(is_retired);
    }
}

fn probe_versions(is_retired: bool) {
    let keys: toml::Table = format!(
        "keys = [{{ id = {0:?}, versions = [{{ label = {0:?}, retired = {is_retired} }}, \
         {{ version = 2, label = {1:?} }}], encrypt_with = 2 }}]",
        token::FULL.label,
        token::SECOND.label
    )
    .parse()
    .unwrap();
    let others = [token::ENCRYPT_ONLY, token::DECRYPT_ONLY, token::IMPOTENT];
    let proxy = Setup::new()
        .set_in_store(0, "xks_key_id_set", others.map(|key| key.label).to_vec())
        .set_in_store(0, "keys", keys["keys"].clone())
        .start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ciphertexts");
    let more = ["--insecure-http", "--ciphertexts", file.to_str().unwrap()];
    for _ in 0..2 {
        let run = probe_ours(&proxy, "127.0.0.1", "http", &more);
        assert_clean(&run, &["tls.https"]);
        let came = run.came("binding.other-metadata");
        let expected: &[_] = match is_retired {
            false => &["InvalidCiphertextException", "InternalException"],
            true => &["InvalidStateException", "InternalException", "InvalidCiphertextException"],
        };
        assert_eq!(came, format!("8 tried: {}", expected.join(", ")));
    }
    // The tag of version 2.
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(kept.contains(r#""ciphertextMetadata":"AGsAAAAC""#), "{kept}");
}

/// One of each byte, and a byte more and less where that is possible.
fn alterations(bytes: usize) -> usize {
    bytes + usize::from(bytes < 20) + usize::from(bytes > 1)
}

#[test]
fn over_tls() {
    let proxy = Setup::new().tls().start();
    let ca = proxy.certificates().path("server_ca.pem");
    let run = probe_ours(&proxy, "localhost", "https", &["--ca", ca.to_str().unwrap()]);
    assert_clean(&run, &["tls.kms-authority"]);
    assert_eq!(run.json["tls"]["version"], "TLSv1_3");
    assert!(run.came("tls.name").contains("localhost"));
    assert!(run.came("tls.chain").contains("; by --ca"));
}

#[test]
fn over_mtls() {
    let proxy = Setup::new().mtls().start();
    let file = |name: &str| proxy.certificates().path(name).to_str().unwrap().to_owned();
    let ca = file("server_ca.pem");
    let identity = format!("{:?}", ClientIdentity::Right);
    let (chain, key) =
        (file(&format!("{identity}_cert.pem")), file(&format!("{identity}_key.pem")));
    let more = ["--ca", &ca, "--client-cert", &chain, "--client-key", &key];
    let run = probe_ours(&proxy, "localhost", "https", &more);
    assert_clean(&run, &["tls.kms-authority"]);
    assert!(run.with_verdict("pass").contains(&"mtls.stranger"));

    let run = probe_ours(&proxy, "localhost", "https", &["--ca", &ca]);
    assert_eq!(run.code, Some(10), "{}", run.text);
    assert!(run.came("health.answer").contains("--client-cert"), "{}", run.text);
}

//! Administrators' settings files for HSMs that are not available here. Only members that depend on
//! the machine are changed, and a module imitates the HSM.

use std::path::Path;

use toml::{Table, Value};

use crate::calls::four_calls;
use crate::common::{Interposed, Setup, Store, xks};
use crate::iv_modes::{CLOUDHSM, Hsm, LUNA, NSHIELD, VAULT};

/// The members and values of the reference proxy's `settings_nshield.toml` (version 3.1.2).
const REFERENCE: &str = r#"
[server]
ip = "0.0.0.0"
port = 80
region = "us-east-1"
service = "kms-xks-proxy"
[server.tcp_keepalive]
tcp_keepalive_secs = 60
tcp_keepalive_retries = 3
tcp_keepalive_interval_secs = 1
[tracing]
is_stdout_writer_enabled = true
is_file_writer_enabled = true
level = "DEBUG"
directory = "/var/local/xks-proxy/logs"
file_prefix = "xks-proxy.log"
rotation_kind = "HOURLY"
[security]
is_sigv4_auth_enabled = true
is_tls_enabled = false
is_mtls_enabled = false
[tls]
tls_cert_pem = ""
tls_key_pem = ""
mtls_client_ca_pem = ""
mtls_client_dns_name = ""
[[external_key_stores]]
uri_path_prefix = ""
sigv4_access_key_id = ""
sigv4_secret_access_key = ""
xks_key_id_set = ["foo", "cat", "dog"]
[[external_key_stores]]
uri_path_prefix = "/example/uri/path/prefix"
sigv4_access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
sigv4_secret_access_key = "PleaseReplaceThisWithSomeSecretOfLength43To64"
xks_key_id_set = ["foo", "bar"]
[pkcs11]
session_pool_max_size = 30
session_pool_timeout_milli = 0
session_eager_close = false
user_pin = "replaceme"
PKCS11_HSM_MODULE = "/opt/nfast/toolkits/pkcs11/libcknfast.so"
context_read_timeout_milli = 10
[limits]
max_plaintext_in_base64 = 8192
max_aad_in_base64 = 16384
[hsm_capabilities]
can_generate_iv = true
is_zero_iv_required = true
"#;

/// Asserts that the file serves and logs where it says, and that the store without a filled-in
/// credential refuses calls.
#[track_caller]
fn serves(setup: Setup, hsm: Hsm) {
    let proxy = Interposed::with(setup, hsm.module);
    four_calls(&proxy, b"");

    let without_credential = Store { prefix: String::new(), ..Store::first() };
    let client = proxy.client_of(&without_credential);
    let refused = client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None));
    refused.assert_error(401, "AuthenticationFailedException");

    let mut logs = std::fs::read_dir(proxy.directory().join("logs")).unwrap();
    let name = logs.next().unwrap().unwrap().file_name();
    assert!(name.to_str().unwrap().starts_with("xks-proxy.log"), "{name:?}");
}

/// A file of `configuration/`, with the credential of its second store filled in.
fn ours(name: &str) -> Setup {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration").join(name);
    let mut table: Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let Store { prefix, access_key_id, secret_access_key } = Store::first();
    let store = &mut table["external_key_stores"][1];
    assert_eq!(store["uri_path_prefix"].as_str(), Some(prefix.as_str()));
    store["sigv4_access_key_id"] = Value::from(access_key_id);
    store["sigv4_secret_access_key"] = Value::from(secret_access_key);
    Setup::of_file(&table.to_string())
}

/// A user of the reference proxy migrates by starting this program with the same settings.
#[test]
fn reference_file() {
    serves(Setup::of_file(REFERENCE), NSHIELD);
}

/// The same file with TLS, once the certificate exists.
#[test]
fn reference_file_with_tls() {
    serves(Setup::of_file(REFERENCE).tls(), NSHIELD);
}

#[test]
fn our_file() {
    serves(ours("settings_nshield.toml"), NSHIELD);
}

#[test]
fn our_file_for_cloudhsm() {
    serves(ours("settings_cloudhsm.toml"), CLOUDHSM);
}

#[test]
fn our_file_for_luna() {
    serves(ours("settings_luna.toml"), LUNA);
}

#[test]
fn our_file_for_vault() {
    serves(ours("settings_vault.toml"), VAULT);
}

//! Invalid settings: all mistakes are reported at once, and the proxy does not start.

use std::net::{Ipv4Addr, TcpListener};

use toml::{Table, Value};

use crate::common::proxy::{Prepared, free_port};
use crate::common::{Connection, Setup, tools, xks};

/// Exit code EX_CONFIG (sysexits.h).
const EXIT_CONFIG: i32 = 78;

#[track_caller]
fn refused(prepared: &Prepared) -> String {
    let (status, output) = prepared.run_to_end();
    assert_eq!(status.code(), Some(EXIT_CONFIG), "{output}");
    assert!(output.contains("settings.toml"), "{output}");
    output
}

#[test]
fn all_mistakes_at_once() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let prepared = Setup::new()
        .set("server.port", i64::from(address.port()))
        .set("server.region", "")
        .set("server.ip", "not an address")
        .set("security.is_tls_enabled", "yes")
        .set("pkcs11.session_pool_max_size", 0)
        .set("pkcs11.PKCS11_HSM_MODULE", "/no/such/module.so")
        .set("tracing.level", "LOUD")
        .set(
            "external_key_stores",
            Value::Array(Vec::from([Value::Table(Table::from_iter([
                ("uri_path_prefix".to_owned(), Value::from("no-slash")),
                ("sigv4_access_key_id".to_owned(), Value::from("short")),
                ("sigv4_secret_access_key".to_owned(), Value::from("a secret that is not one")),
                ("xks_key_id_set".to_owned(), Value::from(vec!["a key id"])),
            ]))])),
        )
        .prepare();
    let output = refused(&prepared);
    for member in [
        "region",
        "ip",
        "is_tls_enabled",
        "session_pool_max_size",
        "PKCS11_HSM_MODULE",
        "level",
        "uri_path_prefix",
        "sigv4_access_key_id",
        "sigv4_secret_access_key",
        "xks_key_id_set",
    ] {
        assert!(output.contains(member), "nothing of {member} in:\n{output}");
    }
    assert!(!output.contains("a secret that is not one"), "{output}");
    assert!(Connection::open(address, None).is_err());
}

#[test]
fn no_toml() {
    let prepared = Setup::new().prepare();
    std::fs::write(&prepared.settings_file, "[server\nip = 1\n").unwrap();
    refused(&prepared);
}

#[test]
fn no_file() {
    let prepared = Setup::new().prepare();
    std::fs::remove_file(&prepared.settings_file).unwrap();
    refused(&prepared);
}

/// A key that does not match the certificate would fail every handshake.
#[test]
fn key_of_another_certificate() {
    let prepared = Setup::new().tls().prepare();
    let (key, other) =
        (prepared.certificates.path("server_key.pem"), prepared.certificates.path("Right_key.pem"));
    std::fs::copy(other, key).unwrap();
    let output = refused(&prepared);
    assert!(output.contains("tls_key_pem"), "{output}");
}

/// A security control that this program lacks is refused, not silently ignored.
#[test]
fn secondary_authorization_of_another_kind() {
    let output = refused(&Setup::new().set("security.secondary_auth", "Oso").prepare());
    // The message says how to proceed.
    for words in ["secondary_auth", "configuration/oso.cedar", "configuration/oso.rego"] {
        assert!(output.contains(words), "{output}");
    }
}

/// The environment variable with the module's path overrides the file, as in the reference proxy.
#[test]
fn the_environment_names_the_module() {
    let module = tools::softhsm2_module();
    let proxy = Setup::new()
        .set("pkcs11.PKCS11_HSM_MODULE", "/no/such/module.so")
        .env("PKCS11_HSM_MODULE", module.to_str().unwrap())
        .start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

/// A second instance on the same port would get some of the calls, and answer them with its own
/// credentials. It must find the first one although the sockets of several event loops share the
/// port.
#[test]
fn another_instance() {
    let port = free_port();
    let setup = || {
        Setup::new()
            .set("server.port", port)
            .set("server.port_http_ping", port)
            .set("server.event_loops", 2)
    };
    let proxy = setup().start();
    let (status, output) = setup().prepare().run_to_end();
    assert_eq!(status.code(), Some(69), "{output}");
    assert!(output.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{output}");
    for _ in 0..20 {
        proxy.client().call("health", &xks::health()).ok();
    }
}

/// Another process uses the port.
#[test]
fn port_in_use() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let prepared = Setup::new().set("server.port", i64::from(port)).prepare();
    let (status, output) = prepared.run_to_end();
    assert!(!status.success());
    assert!(output.contains(&port.to_string()), "{output}");
}

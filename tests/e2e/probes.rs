//! Requests of load balancers.

use std::process::Command;

use crate::common::proxy::free_port;
use crate::common::{Connection, Response, Setup, xks};

fn ask(connection: &mut Connection, method: &str, path: &str) -> Response {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    connection.send(request.as_bytes()).unwrap();
    connection.receive_after(method).unwrap()
}

fn assert_pong(response: &Response) {
    assert_eq!(response.status, 200);
    let text = String::from_utf8_lossy(&response.body);
    assert!(text.starts_with("pong from xks-proxy v"), "{text}");
}

/// `/ping` is the plain liveness check that set-up guides use, on both ports; `/readyz` tells
/// whether the HSM can be used.
#[test]
fn ping_and_readyz() {
    let proxy = Setup::new().start();
    for address in [proxy.ping, proxy.api] {
        let mut connection = Connection::open(address, None).unwrap();
        assert_pong(&ask(&mut connection, "GET", "/ping"));
        assert_eq!(ask(&mut connection, "GET", "/readyz").status, 200);
        let head = ask(&mut connection, "HEAD", "/ping");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_ne!(head.header("content-length"), Some("0"));
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = ask(&mut connection, method, "/ping");
            assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
        }
        // Still the same connection.
        assert_pong(&ask(&mut connection, "GET", "/ping"));
    }
}

/// A load balancer speaks plain HTTP to the ping port, even if the API port uses TLS.
#[test]
fn ping_stays_plain() {
    let proxy = Setup::new().mtls().start();
    assert_pong(&proxy.get("/ping"));
    assert_eq!(proxy.get("/readyz").status, 200);
    let client = proxy.client();
    assert_pong(&ask(&mut client.connect(), "GET", "/ping"));
}

/// The ping port, which may be open to all probers, does not serve the API.
#[test]
fn no_api_on_the_ping_port() {
    let proxy = Setup::new().start();
    let mut client = proxy.client();
    client.address = proxy.ping;
    client.call("health", &xks::health()).assert_error(404, "InvalidUriPathException");
    client
        .call("keys/foo/metadata", &xks::metadata("DescribeKey"))
        .assert_error(404, "InvalidUriPathException");
}

/// `port_http_ping` may equal the API's port: then one listener serves both.
#[test]
fn one_port_for_all() {
    let port = free_port();
    let setup = Setup::new().set("server.port", port).set("server.port_http_ping", port);
    let proxy = setup.start();
    assert_eq!(proxy.api, proxy.ping);
    assert_pong(&proxy.get("/ping"));
    proxy.client().call("health", &xks::health()).ok();
}

/// XKS specification: the calls are POST. GET on them is answered with 405 and the allowed method.
#[test]
fn other_methods_on_api_paths() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let mut connection = client.connect();
    for call in ["health", "keys/foo/metadata", "keys/foo/encrypt", "keys/foo/decrypt"] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let refused = ask(&mut connection, method, &client.target(call));
            assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method}");
        }
    }
    let mut post = ask(&mut connection, "post", &client.target("health"));
    assert_eq!(post.status, 405, "methods are case-sensitive");
    post = ask(&mut connection, "GET", "/");
    post.assert_error(404, "InvalidUriPathException");
}

/// The command for a container's health check exits with 0 if the process is alive (or ready, if
/// asked for that), and with 69 if there is no answer or the answer is negative.
#[test]
fn ping_command() {
    let ping = |address: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
            .arg("ping")
            .arg(address)
            .args(more)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let proxy = Setup::new().start();
    let address = proxy.ping.to_string();
    let (code, text) = ping(&address, &[]);
    assert!(code == Some(0) && text.starts_with("pong from xks-proxy v"), "{code:?} {text}");
    assert_eq!(ping(&address, &["--ready"]).0, Some(0));
    drop(proxy);
    let (code, text) = ping(&address, &[]);
    assert!(code == Some(69) && text.contains(&address), "{code:?} {text}");

    let unready = Setup::new().set("pkcs11.user_pin", "4321").prepare().start_listening();
    let address = unready.ping.to_string();
    assert_eq!(ping(&address, &[]).0, Some(0));
    let (code, text) = ping(&address, &["--ready"]);
    assert!(code == Some(69) && text.contains("status 503"), "{code:?} {text}");
}

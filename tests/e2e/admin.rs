//! The admin listener: access, contents, and no effect on calls.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, ClientConfig};

use crate::common::certificates::ClientIdentity;
use crate::common::{Connection, Proxy, Response, Setup, xks};
use crate::metrics::watched;

fn ask(proxy: &Proxy, request: &str) -> Response {
    let mut connection = Connection::open(proxy.admin(), None).unwrap();
    connection.send(request.as_bytes()).unwrap();
    let method = request.split(' ').next().unwrap();
    let response = connection.receive_after(method).unwrap();
    assert!(connection.is_at_end().unwrap(), "one request a connection");
    response
}

/// Without settings for it, no listener is opened.
#[test]
fn off_by_default() {
    let proxy = Setup::new().start();
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("listening")).unwrap();
    assert!(!line.contains("admin"), "{line}");
    for path in ["/metrics", "/status", "/status.json", "/livez"] {
        assert_eq!(proxy.get(path).status, 404, "{path}");
    }
}

#[test]
fn what_is_there() {
    let proxy = watched().start();
    for (path, content_type) in [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?name=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/status", "text/html; charset=utf-8"),
        ("/status.json", "application/json"),
    ] {
        let response = proxy.admin_get(path);
        assert_eq!((response.status, response.header("content-type")), (200, Some(content_type)));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let head = ask(&proxy, &format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((head.status, head.header("content-type")), (200, Some(content_type)));
    }
    let policy = proxy.admin_get("/status");
    let policy = policy.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");

    let root = proxy.admin_get("/");
    assert_eq!((root.status, root.header("location")), (307, Some("/status")));
    assert_eq!(proxy.admin_get("/nothing").status, 404);
    assert_eq!(proxy.admin_get("/status/").status, 404);
    // The API is not served there.
    assert_eq!(proxy.admin_get("/kms/xks/v1/health").status, 404);
    let refused =
        ask(&proxy, "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

/// A malformed request is refused, and the next one is served.
#[test]
fn hostile_requests() {
    let proxy = watched().start();
    for (bytes, status) in [
        ("\x16\x03\x01\r\n\r\n".to_owned(), 400),
        ("GET\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/2.7\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)), 431),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65)), 400),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421),
        ("GET /livez HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n".to_owned(), 200),
    ] {
        let mut connection = Connection::open(proxy.admin(), None).unwrap();
        connection.send(bytes.as_bytes()).unwrap();
        assert_eq!(
            connection.receive().unwrap().status,
            status,
            "{}",
            &bytes[..20.min(bytes.len())]
        );
    }
    assert_eq!(proxy.admin_get("/livez").status, 200);
}

/// Asserts that the listener answers at once, whatever other connections do.
fn assert_quick(proxy: &Proxy) {
    for path in ["/readyz", "/livez", "/metrics"] {
        let begun = Instant::now();
        assert_eq!(proxy.admin_get(path).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{path}: {:?}", begun.elapsed());
    }
}

/// Connections that say nothing delay neither monitoring nor calls, however many there are, and are
/// closed after half a second.
#[test]
fn connections_that_say_nothing() {
    let proxy = watched().start();
    let client = proxy.client();
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(proxy.admin()).unwrap()).collect();
    assert_quick(&proxy);
    for _ in 0..20 {
        client.call("keys/foo/encrypt", &xks::encrypt(b"undisturbed", None)).ok();
    }
    assert_eq!(proxy.get("/readyz").status, 200);
    for mut silent in silent {
        // Well before the limit of five seconds that applies to the whole of a connection.
        silent.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert!(matches!(silent.read(&mut [0]), Ok(0)), "it is closed");
    }
}

/// Nor do those that stop half way: in a request, in a TLS handshake, or after their answer.
#[test]
fn connections_that_never_end() {
    let (plain, with_tls) = (watched().start(), watched_by_tls());
    for begun in ["G", "GET /livez HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    {
        let stopped: Vec<TcpStream> = (0..200)
            .map(|_| {
                let mut socket = TcpStream::connect(plain.admin()).unwrap();
                // Earlier ones have been closed to make room.
                let _ = socket.write_all(begun.as_bytes());
                socket
            })
            .collect();
        assert_quick(&plain);
        drop(stopped);
    }
    let stopped: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut socket = TcpStream::connect(with_tls.admin()).unwrap();
            let _ = socket.write_all(b"\x16\x03\x01\x02\x00\x01");
            socket
        })
        .collect();
    let begun = Instant::now();
    let tls = with_tls.tls_config(Some(ClientIdentity::Right));
    let mut connection = Connection::open(with_tls.admin(), Some(&tls)).unwrap();
    connection.send(b"GET /readyz HTTP/1.1\r\nHost: xks.example.com\r\n\r\n").unwrap();
    assert_eq!(connection.receive().unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(stopped);
}

/// Peers that do not take their answers hold up nobody, and few of their answers are kept.
#[test]
fn answers_that_nobody_takes() {
    let proxy = watched().start();
    let stopped: Vec<Connection> = (0..100)
        .map(|_| {
            let mut connection = Connection::open_small(proxy.admin(), None).unwrap();
            connection.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            connection
        })
        .collect();
    assert_quick(&proxy);
    drop(stopped);
}

/// While draining, it reports that the proxy is not ready and still serves status and metrics.
#[test]
fn draining() {
    let mut proxy = watched().set("server.drain_delay_milli", 60_000).start();
    assert_eq!(proxy.admin_get("/readyz").status, 200);
    proxy.signal("TERM");
    proxy.wait_for("/readyz to be 503", |proxy| proxy.admin_get("/readyz").status == 503);
    for answer in [proxy.admin_get("/readyz"), proxy.get("/readyz")] {
        assert_eq!(answer.body, b"not ready: draining\n");
    }
    assert_eq!(proxy.admin_get("/livez").status, 200);
    assert_eq!(proxy.admin_get("/status.json").json()["isDraining"], true);
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    assert!(
        metrics.contains("\nxks_proxy_draining 1\n") && metrics.contains("\nxks_proxy_ready 0\n")
    );
}

/// Starts a proxy whose admin listener has TLS and requires client certificates.
fn watched_by_tls() -> Proxy {
    let mut prepared = watched().prepare();
    let file = |name: &str| prepared.certificates.path(name).to_str().unwrap().to_owned();
    let members = format!(
        "tls_cert_pem = \"{}\"\ntls_key_pem = \"{}\"\nclient_ca_pem = \"{}\"\n",
        file("server_cert.pem"),
        file("server_key.pem"),
        file("client_ca.pem")
    );
    let text = std::fs::read_to_string(&prepared.settings_file).unwrap();
    assert!(text.contains("[admin]\n"));
    let text = text.replace("[admin]\n", &format!("[admin]\n{members}"));
    std::fs::write(&prepared.settings_file, text).unwrap();
    prepared.env("RUST_BACKTRACE", "1");
    prepared.start()
}

/// With TLS and a client CA, clients without a certificate of that CA get nothing.
#[test]
fn tls_with_client_certificates() {
    let proxy = watched_by_tls();
    let get = |identity| -> std::io::Result<Response> {
        let tls = proxy.tls_config(identity);
        let mut connection = Connection::open(proxy.admin(), Some(&tls))?;
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: xks.example.com\r\n\r\n")?;
        connection.receive()
    };
    // Any name is accepted: the CA is the administrators' own.
    for identity in [ClientIdentity::Right, ClientIdentity::WrongName] {
        let response = get(Some(identity)).unwrap();
        assert_eq!(response.status, 200);
        let text = String::from_utf8(response.body).unwrap();
        assert!(text.contains("expiry_timestamp_seconds{listener=\"admin\""), "{text}");
    }
    for identity in [None, Some(ClientIdentity::WrongAuthority), Some(ClientIdentity::Expired)] {
        assert!(get(identity).is_err(), "{identity:?}");
    }
    // Each gets the alert with the reason, though other records precede it.
    let mut config = ClientConfig::clone(&proxy.tls_config(Some(ClientIdentity::Right)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let refused = Connection::open(proxy.admin(), Some(&Arc::new(config))).map(|_| ());
    let error = refused.unwrap_err();
    let alert = error.get_ref().and_then(|error| error.downcast_ref());
    let expected = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(alert, Some(&expected), "{error:?}");
    // Plain HTTP gets no answer.
    let mut plain = Connection::open(proxy.admin(), None).unwrap();
    plain.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(plain.receive().is_err());
}

/// A port in use is reported at start, and the proxy exits.
#[test]
fn a_taken_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = i64::from(taken.local_addr().unwrap().port());
    let (status, log) = Setup::new().set("admin.port", port).prepare().run_to_end();
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains(&format!("[admin] cannot listen on 127.0.0.1:{port}")), "{log}");
}

/// The status has all members that the status page's script reads.
#[test]
fn the_status_in_json() {
    let proxy = watched().start();
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"x", None)).ok();
    let status = proxy.admin_get("/status.json").json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["isReady"], true);
    assert_eq!(status["requests"]["ok"], 1);
    assert_eq!(status["tokens"][0]["label"], "xks-proxy");
    assert_eq!(status["tokens"][0]["state"], "active");
    assert_eq!(status["stores"].as_array().unwrap().len(), 2);
    assert_eq!(status["stores"][0]["calls"][1], serde_json::json!(["encrypt", 1]));
    assert!(status["stores"][0]["credentials"][0]["lastUsedUnixSecs"].as_u64() > Some(0));
    assert_eq!(status["keys"], serde_json::json!([{"keyId": "foo", "encrypts": 1}]));
    assert_eq!(status["history"]["intervalSecs"], 10);
    // The status contains no secrets.
    let text = status.to_string();
    for secret in ["PleaseReplaceThisWithSomeSecret", "\"1234\""] {
        assert!(!text.contains(secret), "{text}");
    }
}

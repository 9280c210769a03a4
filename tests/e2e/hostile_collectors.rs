//! Collectors of `[otlp]` and `[[syslog]]` that are broken or hostile: whatever they answer, calls are
//! served, the failure shows, nothing piles up, and no secret goes to anyone else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::metrics::scrape;
use super::upgrade::{self, Generations};
use crate::common::proxy::Prepared;
use crate::common::{Proxy, Setup, xks};

const SECRET: &str = "hush-hush-4711";
/// More than what any of the behaviours below may add.
const MAX_GROWTH_KIB: u64 = 24 * 1024;

/// Accepts connections, and lets a thread behave badly on each.
fn collector(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let behave = Arc::new(behave);
    thread::spawn(move || {
        for peer in listener.incoming() {
            let behave = Arc::clone(&behave);
            thread::spawn(move || behave(peer.unwrap()));
        }
    });
    address
}

/// Writes the same again and again, until the peer has had enough.
fn without_end(peer: &mut TcpStream, head: &str, part: &[u8], wait: Duration) {
    let _ = peer.write_all(head.as_bytes());
    while peer.write_all(part).is_ok() {
        thread::sleep(wait);
    }
}

fn read_request(peer: &mut TcpStream) {
    let mut buffer = [0; 65_536];
    let _ = peer.read(&mut buffer);
}

fn memory_kib(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count()
}

/// A proxy with a secret among its header fields.
fn exporting(endpoint: &str) -> Prepared {
    let mut prepared = Setup::new()
        .set("admin.port", 0)
        .set("server.drain_delay_milli", 0)
        .set("otlp.endpoint", endpoint)
        .set("otlp.metrics_interval_milli", 1_000)
        .set("otlp.timeout_milli", 1_000)
        .set("otlp.traces_per_million", 1_000_000)
        .prepare();
    let headers = prepared.directory().join("headers");
    std::fs::write(&headers, format!("Authorization: Bearer {SECRET}\n")).unwrap();
    prepared.change_settings("otlp.headers_file", headers.to_str().unwrap());
    prepared
}

/// Calls are served, the exporter counts failures (or successes, if the status was one), and the end
/// comes in time.
#[track_caller]
fn assert_survives(name: &str, prepared: Prepared, is_success: bool) {
    let mut proxy = prepared.start();
    let (files, memory) = (open_files(&proxy), memory_kib(&proxy));
    let metric = if is_success { "exported" } else { "failed_requests" };
    let metric = format!("xks_proxy_otlp_{metric}_total{{signal=\"metrics\"}}");
    proxy.wait_for(name, |proxy| {
        proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
        scrape(proxy)[&metric] >= 2.0
    });
    let growth = memory_kib(&proxy) - memory;
    assert!(growth < MAX_GROWTH_KIB, "{name}: {growth} KiB");
    let more = open_files(&proxy).saturating_sub(files);
    assert!(more < 20, "{name}: {more} more descriptors");
    let status = String::from_utf8(proxy.admin_get("/status.json").body).unwrap();
    proxy.signal("TERM");
    let began = Instant::now();
    assert!(proxy.wait_for_end().success(), "{name}");
    assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
    let log = proxy.log();
    assert!(!log.contains("panicked") && !log.contains("ended by a defect"), "{name}: {log}");
    for text in [&log, &status] {
        assert!(!text.contains(SECRET) && text.lines().all(|line| line.len() < 65_536), "{name}");
    }
}

#[track_caller]
fn assert_survives_answer(
    name: &str,
    is_success: bool,
    answer: impl Fn(&mut TcpStream) + Send + Sync + 'static,
) {
    let address = collector(move |mut peer| {
        read_request(&mut peer);
        answer(&mut peer);
    });
    assert_survives(name, exporting(&format!("http://{address}")), is_success);
}

#[test]
fn answers_without_end() {
    const NO_WAIT: Duration = Duration::ZERO;
    let ok = "HTTP/1.1 200 OK\r\n";
    assert_survives_answer("header fields", false, move |peer| {
        without_end(peer, ok, b"x-more: of the same\r\n", NO_WAIT);
    });
    assert_survives_answer("one header field", false, move |peer| {
        without_end(peer, &format!("{ok}x-long: "), &[b'x'; 65_536], NO_WAIT);
    });
    assert_survives_answer("1xx", false, move |peer| {
        without_end(peer, "", b"HTTP/1.1 103 Early Hints\r\n\r\n", NO_WAIT);
    });
    assert_survives_answer("a body of 1 GiB", true, move |peer| {
        let head = format!("{ok}Content-Length: 1073741824\r\n\r\n");
        without_end(peer, &head, &[b'x'; 65_536], NO_WAIT);
    });
    assert_survives_answer("chunks", true, move |peer| {
        let head = format!("{ok}Transfer-Encoding: chunked\r\n\r\n");
        without_end(peer, &head, b"4\r\nabcd\r\n", NO_WAIT);
    });
    assert_survives_answer("a refusal of 1 GiB", false, |peer| {
        let head = "HTTP/1.1 500 No\r\nContent-Length: 1073741824\r\n\r\n";
        without_end(peer, head, &[b'x'; 65_536], NO_WAIT);
    });
}

#[test]
fn answers_byte_by_byte() {
    assert_survives_answer("a slow head", false, |peer| {
        without_end(peer, "HTTP/1.1 200 OK\r\nx: ", b"x", Duration::from_secs(1));
    });
    assert_survives_answer("a slow body", true, |peer| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        without_end(peer, head, b"x", Duration::from_secs(1));
    });
    // Resets, as the request is not read.
    let reset = collector(|mut peer| {
        let mut byte = [0];
        let _ = peer.read(&mut byte);
    });
    assert_survives("resets", exporting(&format!("http://{reset}")), false);
    let silent = collector(|_peer| thread::sleep(Duration::from_secs(3_600)));
    assert_survives("reads nothing", exporting(&format!("http://{silent}")), false);
}

#[test]
fn answers_that_are_wrong() {
    assert_survives_answer("no HTTP", false, |peer| {
        let _ = peer.write_all(b"220 smtp.example.com ESMTP\r\n");
    });
    assert_survives_answer("no protobuf", true, |peer| {
        let _ = peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\xff\xff\xff\xff\xff");
    });
    // A message that says it is longer than there is memory.
    assert_survives_answer("a long message", false, |peer| {
        let body = b"\x12\xff\xff\xff\xff\x7fx";
        let _ = peer.write_all(b"HTTP/1.1 400 No\r\nContent-Length: 7\r\n\r\n");
        let _ = peer.write_all(body);
    });
    // -1 rejected, for a reason with a line break.
    assert_survives_answer("less than none rejected", true, |peer| {
        let body = b"\x0a\x10\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\x03a\nb";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = peer.write_all(&[head.as_bytes(), body].concat());
    });
    // A body that claims to be compressed is not expanded: 10 bytes that begin like gzip.
    assert_survives_answer("compressed", true, |peer| {
        let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n";
        let body = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
        let _ = peer.write_all(&[head.as_bytes(), body].concat());
    });
    assert_survives_answer("wait for ever", false, |peer| {
        let _ = peer.write_all(
            b"HTTP/1.1 429 Later\r\nRetry-After: 0\r\nRetry-After: 99999999999999999999\r\n\
              Content-Length: 0\r\n\r\n",
        );
    });
}

/// A redirection is not followed: the secret goes to nobody else.
#[test]
fn redirections() {
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    let other = collector(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    for status in ["301", "302", "307", "308"] {
        let address = collector(move |mut peer| {
            read_request(&mut peer);
            let head = format!("HTTP/1.1 {status} There\r\nLocation: http://{other}/\r\n");
            let _ = peer.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes());
        });
        assert_survives(status, exporting(&format!("http://{address}")), false);
    }
    assert_eq!(visits.load(Ordering::Relaxed), 0);
}

/// A certificate for a collector, and the file of the authority that the proxy is told to trust.
fn certificate(name: &str, directory: &Path) -> (ServerConfig, String) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "collectors");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let file = directory.join("collectors_ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let names = match name {
        "wrong name" => (0..1_000).map(|nth| format!("collector{nth}.example.com")).collect(),
        _ => vec!["localhost".to_owned()],
    };
    let mut params = CertificateParams::new(names).unwrap();
    if name == "expired" {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let made = match name {
        "self-signed" => params.self_signed(&key).unwrap(),
        _ => params.signed_by(&key, &ca).unwrap(),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (config, file.to_str().unwrap().to_owned())
}

/// Nothing is sent to a collector whose certificate is not right, and the reason shows, at a bounded
/// length although the certificate has a thousand names.
#[test]
fn certificates_that_are_wrong() {
    for (name, reason) in [
        ("wrong name", "not valid for name"),
        ("expired", "expired"),
        ("self-signed", "UnknownIssuer"),
    ] {
        let mut prepared = exporting("https://later");
        let (config, authority) = certificate(name, prepared.directory());
        let (config, read) = (Arc::new(config), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&read);
        let address = collector(move |peer| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, peer);
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(count, Ordering::Relaxed);
            }
        });
        let host = format!("localhost:{}", address.port());
        prepared.change_settings("otlp.endpoint", format!("https://{host}"));
        // The certificate is to fail, and not a busy machine.
        prepared.change_settings("otlp.timeout_milli", 20_000);
        prepared.change_settings("otlp.ca_pem", authority.clone());
        let mut syslog = toml::Table::new();
        syslog.insert("server".to_owned(), host.into());
        syslog.insert("server_ca_pem".to_owned(), authority.into());
        prepared.change_settings("syslog", vec![toml::Value::Table(syslog)]);
        let mut proxy = prepared.start();
        proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
        for text in ["the OTLP export fails", "the syslog collector cannot be reached"] {
            proxy.wait_for(text, |proxy| proxy.log().contains(text));
            let log = proxy.log();
            let line = log.lines().find(|line| line.contains(text)).unwrap();
            assert!(line.contains(reason) && line.len() < 1_000, "{name}: {line}");
        }
        let status = String::from_utf8(proxy.admin_get("/status.json").body).unwrap();
        assert!(status.contains(reason) && !status.contains("collector999"), "{status}");
        assert_eq!(read.load(Ordering::Relaxed), 0, "{name}");
    }
}

/// While all collectors hang, a reload and a new process (SIGUSR2) are as quick as ever.
#[test]
fn reload_and_upgrade_while_collectors_hang() {
    let silent = collector(|_peer| thread::sleep(Duration::from_secs(3_600)));
    let mut syslog = toml::Table::new();
    syslog.insert("server".to_owned(), silent.to_string().into());
    syslog.insert("transport".to_owned(), "tcp".into());
    let proxy = upgrade::setup()
        .set("admin.port", 0)
        .set("otlp.endpoint", format!("http://{silent}"))
        .set("otlp.timeout_milli", 60_000)
        .set("syslog", vec![toml::Value::Table(syslog)])
        .start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let began = Instant::now();
    proxy.signal("HUP");
    proxy.log_with("settings reloaded");
    let generations = Generations(proxy);
    generations.signal("USR2");
    generations.wait_for_lines("another process serves", 1);
    generations.wait_for_lines("stopped", 1);
    generations.0.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

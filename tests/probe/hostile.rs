//! Servers that are no proxies: bytes that drip, and text that is meant for a terminal or a parser.

use std::io::{Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConnection;

use crate::common::certificates::Certificates;
use crate::run::{Run, probe};
use crate::stand_in::server_config;

/// Time between two bytes that drip: less than the probe waits for a byte, and far more for all of
/// an answer.
const DRIP: Duration = Duration::from_millis(100);
/// Time within which a probe has to give up such an answer: some multiples of what it allows.
const PATIENCE: Duration = Duration::from_secs(40);

/// Serves each connection with `serve` in a thread of its own, and returns the port.
fn serve(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, serve) = (socket.unwrap(), Arc::clone(&serve));
            std::thread::spawn(move || serve(socket));
        }
    });
    port
}

/// Answers each request with these bytes.
fn answering(answer: Vec<u8>) -> u16 {
    serve(move |mut socket| {
        let mut piece = [0; 65_536];
        while socket.read(&mut piece).is_ok_and(|count| count > 0) {
            if socket.write_all(&answer).is_err() {
                break;
            }
        }
    })
}

fn drip(socket: &mut impl Write, bytes: &[u8]) {
    for byte in bytes {
        std::thread::sleep(DRIP);
        if socket.write_all(&[*byte]).is_err() {
            break;
        }
    }
}

fn probe_http(port: u16, more: &[&str]) -> Run {
    let url = format!("http://127.0.0.1:{port}/store");
    probe(&[&[url.as_str(), "--key-id", "key", "--insecure-http"], more].concat())
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[track_caller]
fn assert_timed_out(run: &Run, began: Instant) {
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(run.kms("health.answer"), "XKS_PROXY_TIMED_OUT", "{}", run.text);
    assert_eq!((run.code, run.came("health.answer")), (Some(14), "no answer: timed out"));
    assert!(!run.text.contains("temporarily unavailable"), "{}", run.text);
}

/// An answer that drips is a late one, whether its bytes come one by one or not at all.
#[test]
fn dripping() {
    for is_silent in [false, true] {
        let port = serve(move |mut socket| {
            let mut piece = [0; 65_536];
            while socket.read(&mut piece).is_ok_and(|count| count > 0) {
                if !is_silent {
                    drip(&mut socket, &ok(&[b' '; 4096]));
                }
            }
        });
        let began = Instant::now();
        assert_timed_out(&probe_http(port, &[]), began);
    }
}

/// A TLS record that drips does not hold the probe either: its library asks the socket for more
/// until it has the whole record.
#[test]
fn a_dripping_record() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let config = server_config(&certificates);
    let port = serve(move |mut socket| {
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut request = [0; 65_536];
        loop {
            if connection.complete_io(&mut socket).is_err() {
                return;
            }
            match connection.reader().read(&mut request) {
                Ok(0) => return,
                Ok(_) => break,
                Err(_) => {}
            }
        }
        connection.writer().write_all(&ok(&[b' '; 4096])).unwrap();
        let mut records = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut records).unwrap();
        }
        drip(&mut socket, &records);
    });
    let ca = certificates.path("server_ca.pem");
    let url = format!("https://localhost:{port}/store");
    let began = Instant::now();
    let run = probe(&[&url, "--key-id", "key", "--ca", ca.to_str().unwrap()]);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(run.came("health.answer").contains("timed out"), "{}", run.text);
    assert_eq!(run.kms("health.answer"), "XKS_PROXY_TIMED_OUT");
}

/// Bytes that are no answer are one that KMS cannot interpret, and no matter of the network.
#[test]
fn no_answers() {
    for bytes in [
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        [ok(b"{}"), b"surplus".to_vec()].concat(),
        ok(&vec![b'x'; 3 * 1024 * 1024]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n\0".to_vec(),
    ] {
        let run = probe_http(answering(bytes), &[]);
        let code = run.kms("health.answer").as_str().unwrap();
        assert!(["XKS_PROXY_INVALID_RESPONSE", "XKS_PROXY_TIMED_OUT"].contains(&code), "{code}");
        assert_ne!(run.code, Some(69), "{}", run.text);
    }
}

/// Whatever a server sends, the terminal and the reports get printable ASCII, and the XML is well
/// formed.
#[test]
fn hostile_text() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("probe.xml");
    let body = b"\x1b[2J\0\x07]]><failure>&\"'\xff\xfe\xc3\x28\xed\xa0\x80\xef\xbf\xbf\xc2\x9b\r\n";
    for status in ["200 OK", "500 \x1b[31m"] {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: ]]><x>\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), body].concat();
        let run = probe_http(answering(answer), &["--junit", file.to_str().unwrap()]);
        assert!(run.failed().contains(&"health.answer"), "{}", run.text);
        let xml = std::fs::read_to_string(&file).unwrap();
        for text in [&xml, &run.text] {
            let is_fit = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\n';
            assert!(text.bytes().all(is_fit), "{text:?}");
        }
        assert!(!xml.contains("]]>") && !xml.contains("<x>"), "{xml}");
        // Each element is one of the format's, whatever the text.
        let names =
            ["?xml", "testsuite", "testsuites", "testcase", "failure", "skipped", "system-out"];
        for element in xml.split('<').skip(1) {
            let name = element.trim_start_matches('/');
            let end = name.find([' ', '>', '/']).unwrap();
            assert!(names.contains(&&name[..end]), "{element}");
        }
    }
}

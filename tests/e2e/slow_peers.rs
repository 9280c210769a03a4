//! Hundreds of deliberately slow peers, along with a good one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::{Client, Connection, Proxy, Setup, xks};

const SLOW_PEERS: usize = 300;

/// Sets a generous deadline, so that a busy machine fails no test.
fn patient(setup: Setup) -> Setup {
    setup.set("limits.request_deadline_milli", 20_000)
}

fn connect(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(first).unwrap();
    socket
}

/// Asserts that good calls succeed, on an open connection and on new ones.
fn assert_served(client: &Client, open: &mut Connection) {
    let body = xks::encrypt(b"plaintext", None).to_string();
    for _ in 0..20 {
        client.send(open, "keys/foo/encrypt", body.as_bytes());
        open.receive().unwrap().ok();
        client.post("keys/foo/encrypt", body.as_bytes()).ok();
    }
}

/// Returns the proxy's resident memory in kB.
fn resident_kilobytes(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn slow_heads() {
    let proxy = patient(Setup::new()).start();
    let client = proxy.client();
    let mut open = client.connect();
    let mut slow: Vec<TcpStream> =
        (0..SLOW_PEERS).map(|_| connect(client.address, b"POST /x HTTP/1.1\r\n")).collect();
    for round in 0..3 {
        for socket in &mut slow {
            socket.write_all(format!("A{round}: b\r\n").as_bytes()).unwrap();
        }
        assert_served(&client, &mut open);
    }
}

/// Each peer sends most of a large body: memory stays bounded, and some of those peers are
/// disconnected.
#[test]
fn slow_bodies() {
    let proxy = patient(Setup::new()).set("limits.max_buffered_bytes", 4 * 1024 * 1024).start();
    let client = proxy.client();
    let mut open = client.connect();
    assert_served(&client, &mut open);
    let before = resident_kilobytes(&proxy);
    let mut begun = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n".to_vec();
    begun.resize(begun.len() + 29_000, b'x');
    let mut slow: Vec<TcpStream> =
        (0..SLOW_PEERS).map(|_| connect(client.address, &begun)).collect();
    assert_served(&client, &mut open);
    let after = resident_kilobytes(&proxy);
    assert!(after < before + 16 * 1024, "{before} kB became {after} kB");
    let is_gone = |socket: &mut TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket.read(&mut [0]).map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true)
    };
    let gone = slow.iter_mut().map(is_gone).filter(|is_gone| *is_gone).count();
    assert!((100..SLOW_PEERS).contains(&gone), "{gone} are gone");
    proxy.log_with("max_buffered_bytes is reached");
}

/// Each peer asks for more answers than the kernel buffers, and reads none of them.
#[test]
fn never_reading() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let proxy = patient(setup)
            .set("limits.max_buffered_bytes", 4 * 1024 * 1024)
            .set("limits.write_timeout_milli", 1000)
            .start();
        let client = proxy.client();
        let mut open = client.connect();
        assert_served(&client, &mut open);
        let before = resident_kilobytes(&proxy);
        let requests = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
        let mut deaf: Vec<Connection> = (0..SLOW_PEERS / 10).map(|_| client.connect()).collect();
        for connection in &mut deaf {
            connection.set_write_timeout(Duration::from_millis(20));
            // Until sending would block or the proxy disconnects.
            while connection.send(&requests).is_ok() {}
        }
        assert_served(&client, &mut open);
        let after = resident_kilobytes(&proxy);
        assert!(after < before + 24 * 1024, "{before} kB became {after} kB");
    }
}

//! Limits on connections: in total, per address, and requests on each. Strangers cannot lock KMS
//! out.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConnection;

use crate::common::{Client, Connection, Setup, xks};
use crate::load::SetAtEnd;

fn call(client: &Client, connection: &mut Connection) -> std::io::Result<u16> {
    let body = xks::health().to_string();
    let target = client.target("health");
    let headers = client.headers(&target, body.as_bytes());
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes())?;
    connection.receive().map(|response| response.status)
}

fn ping(connection: &mut Connection) -> std::io::Result<u16> {
    connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")?;
    connection.receive().map(|response| response.status)
}

/// At the limit a new connection is served at once. The oldest connection without an authentic
/// request is closed; authenticated ones stay, however idle.
#[test]
fn strangers_make_room_first() {
    let proxy = Setup::new().set("limits.max_connections", 8).start();
    let client = proxy.client();
    let mut proven = client.connect();
    assert_eq!(call(&client, &mut proven).unwrap(), 200);
    let mut strangers: Vec<Connection> = (0..7).map(|_| client.connect()).collect();
    for stranger in &mut strangers {
        assert_eq!(ping(stranger).unwrap(), 200);
    }
    for _ in 0..3 {
        let mut newcomer = client.connect();
        assert_eq!(call(&client, &mut newcomer).unwrap(), 200);
        strangers.push(newcomer);
    }
    for gone in &mut strangers[..3] {
        assert!(gone.is_at_end().unwrap());
    }
    for stays in &mut strangers[3..7] {
        assert_eq!(ping(stays).unwrap(), 200);
    }
    assert_eq!(call(&client, &mut proven).unwrap(), 200);
}

/// If all connections are authenticated, the one that has been idle longest is closed.
#[test]
fn then_the_longest_idle() {
    let proxy = Setup::new().set("limits.max_connections", 8).start();
    let client = proxy.client();
    let mut open: Vec<Connection> = (0..8).map(|_| client.connect()).collect();
    for connection in &mut open {
        assert_eq!(call(&client, connection).unwrap(), 200);
    }
    assert_eq!(call(&client, &mut open[0]).unwrap(), 200);
    let mut newcomer = client.connect();
    assert_eq!(call(&client, &mut newcomer).unwrap(), 200);
    assert!(open[1].is_at_end().unwrap());
    for stays in [0, 2, 3, 4, 5, 6, 7] {
        assert_eq!(call(&client, &mut open[stays]).unwrap(), 200, "{stays}");
    }
}

/// A full API port does not affect the ping port: load balancers still get an answer.
#[test]
fn ping_has_places_of_its_own() {
    let proxy = Setup::new().set("limits.max_connections", 2).start();
    let _open: Vec<Connection> = (0..20).map(|_| proxy.client().connect()).collect();
    assert_eq!(proxy.get("/ping").status, 200);
    assert_eq!(proxy.get("/readyz").status, 200);
}

#[test]
fn connections_of_one_address() {
    let proxy = Setup::new().set("limits.max_connections_per_address", 3).start();
    let client = proxy.client();
    let open = |last| Connection::open_from([127, 0, 0, last], client.address).unwrap();
    let mut first: Vec<Connection> = (0..3).map(|_| open(2)).collect();
    for connection in &mut first {
        assert_eq!(call(&client, connection).unwrap(), 200);
    }
    for _ in 0..5 {
        assert!(call(&client, &mut open(2)).is_err(), "one too many");
    }
    assert_eq!(call(&client, &mut open(3)).unwrap(), 200);
    // Existing connections are unaffected, and each one that closes frees a place.
    for connection in &mut first {
        assert_eq!(call(&client, connection).unwrap(), 200);
    }
    first.pop();
    let served = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        call(&client, &mut open(2)).is_ok()
    });
    assert!(served, "there is room again");
    proxy.log_with("max_connections_per_address");
}

/// The last answer announces the close, so that no request is lost.
#[test]
fn requests_on_one_connection() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let proxy = setup.set("limits.max_requests_per_connection", 3).start();
        let client = proxy.client();
        let mut connection = client.connect();
        for number in 1..=3 {
            let body = xks::encrypt(b"plaintext", None).to_string();
            client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
            let response = connection.receive().unwrap();
            let expected = (number == 3).then_some("close");
            assert_eq!((response.status, response.header("connection")), (200, expected));
        }
        assert!(connection.is_at_end().unwrap());
    }
}

/// Pipelined requests are all answered in order, although each pass of the loop answers only a few
/// and the peer reads no answers at first.
#[test]
fn many_requests_sent_ahead() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let proxy = setup.start();
        let client = proxy.client();
        let mut connection = Connection::open_small(client.address, client.tls.as_ref()).unwrap();
        let ping = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n";
        let not_found = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut requests = Vec::new();
        for number in 0..500 {
            requests.extend_from_slice(if number % 3 == 0 { not_found } else { ping });
        }
        connection.send(&requests).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        for number in 0..500 {
            let expected = if number % 3 == 0 { 404 } else { 200 };
            assert_eq!(connection.receive().unwrap().status, expected, "{number}");
        }
        connection.end_sending().unwrap();
        assert!(connection.is_at_end().unwrap());
    }
}

/// A proxy with one event loop, in which a few milliseconds are too long a wait.
fn soon_overloaded() -> Setup {
    let setup = Setup::new().set("limits.request_deadline_milli", 10).set("admin.port", 0);
    setup.set("server.event_loops", 1)
}

/// More requests than the event loop can handle: calls that have waited too long are refused, which
/// the log reports, and probes and health are still answered. The proxy recovers by itself.
#[test]
fn more_than_the_loop_can_look_at() {
    let mut proxy = soon_overloaded().start();
    let client = proxy.client();
    let encrypt = xks::encrypt(b"plaintext", None);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ended = SetAtEnd(&enough);
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connections: Vec<_> = (0..200).map(|_| client.connect()).collect();
                for connection in &mut connections {
                    assert_eq!(call(&client, connection).unwrap(), 200);
                }
                while !enough.load(Ordering::Relaxed) {
                    for connection in &mut connections {
                        connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                    }
                    for connection in &mut connections {
                        assert_eq!(connection.receive().unwrap().status, 200);
                    }
                }
            });
        }
        let mut proven = client.connect();
        assert_eq!(call(&client, &mut proven).unwrap(), 200);
        proxy.wait_for("a call to be turned away", |_| {
            client.send(&mut proven, "keys/foo/encrypt", encrypt.to_string().as_bytes());
            let answer = proven.receive().unwrap();
            answer.status == 429 && String::from_utf8_lossy(&answer.body).contains("too long")
        });
        client.call("health", &xks::health()).ok();
        let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
        assert!(!metrics.contains("\nxks_proxy_congestion_refusals_total 0\n"), "{metrics}");
    });
    proxy.log_with("cannot keep up");
    proxy.wait_for("calls to be served again", |proxy| {
        let answer = client.call("keys/foo/encrypt", &encrypt);
        answer.status == 200 && proxy.log().contains("keeps up again")
    });
}

/// Strangers send more than the event loop can handle, and leave before they are answered: those
/// connections are ended unread, a customer's calls are not refused, and one that sends nothing is
/// closed in time.
#[test]
fn more_strangers_than_the_loop_can_look_at() {
    let mut proxy = soon_overloaded().set("limits.idle_timeout_milli", 2000).start();
    let client = proxy.client();
    let encrypt = xks::encrypt(b"plaintext", None);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ended = SetAtEnd(&enough);
        for _ in 0..8 {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    // The listening socket's queue may be full.
                    let connections = (0..100).map(|_| Connection::open(client.address, None));
                    for mut connection in connections.flatten().collect::<Vec<_>>() {
                        connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n").ok();
                    }
                }
            });
        }
        let mut proven = client.connect();
        proxy.wait_for("strangers' connections to be ended unread", |proxy| {
            client.send(&mut proven, "keys/foo/encrypt", encrypt.to_string().as_bytes());
            let answer = proven.receive().unwrap();
            let body = String::from_utf8_lossy(&answer.body);
            assert!(!(answer.status == 429 && body.contains("too long")), "{body}");
            let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
            !metrics.contains("\nxks_proxy_congestion_given_up_total 0\n")
        });
        let mut silent = client.connect();
        assert!(silent.is_at_end().unwrap());
    });
    proxy.log_with("without an authentic request");
}

/// More handshakes at once than the rate allows per second: they wait, none fails, and an open
/// connection is still served.
#[test]
fn handshakes_wait_for_their_turn() {
    let proxy = Setup::new().tls().set("limits.max_tls_handshakes_per_sec", 40).start();
    let client = proxy.client();
    let mut open = client.connect();
    std::thread::scope(|scope| {
        let handshakes: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(call(&client, &mut client.connect()).unwrap(), 200);
                    }
                })
            })
            .collect();
        while !handshakes.iter().all(|thread| thread.is_finished()) {
            assert_eq!(call(&client, &mut open).unwrap(), 200);
        }
    });
}

/// Peers that abandon a handshake halfway occupy only their own places.
#[test]
fn handshakes_left_half_done() {
    let proxy = Setup::new()
        .tls()
        .set("limits.max_connections", 100)
        .set("limits.max_tls_handshakes_per_sec", 20)
        .start();
    let client = proxy.client();
    // The header of a full ClientHello record and the start of its message.
    let begun = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut halves = Vec::new();
    for _ in 0..400 {
        let mut half = TcpStream::connect(client.address).unwrap();
        // The proxy may have closed it already.
        let _ = half.write_all(begun);
        halves.push(half);
    }
    for _ in 0..10 {
        assert_eq!(call(&client, &mut client.connect()).unwrap(), 200);
    }
}

/// A complete ClientHello, from a client that then stops.
fn client_hello(client: &Client) -> Vec<u8> {
    let config = Arc::clone(client.tls.as_ref().unwrap());
    let mut session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

/// During an endless flood of new handshakes, an earlier one still gets its turn.
#[test]
fn a_patient_handshake_is_not_passed_over() {
    let proxy = Setup::new().tls().set("limits.max_tls_handshakes_per_sec", 4).start();
    let client = proxy.client();
    let hello = client_hello(&client);
    let begin = || {
        let mut socket = TcpStream::connect(client.address).unwrap();
        socket.write_all(&hello).unwrap();
        socket
    };
    // Uses up what the rate allows at once.
    let first = begin();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| {
            let _ended = SetAtEnd(&is_over);
            Connection::open(client.address, client.tls.as_ref())
                .and_then(|mut connection| call(&client, &mut connection))
        });
        let mut flood = vec![first];
        while !is_over.load(Ordering::Relaxed) {
            flood.push(begin());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(patient.join().unwrap().unwrap(), 200);
    });
}

/// No handshake is computed for peers that have already left.
#[test]
fn who_left_costs_no_handshake() {
    let proxy = Setup::new().tls().set("limits.max_tls_handshakes_per_sec", 2).start();
    let client = proxy.client();
    let hello = client_hello(&client);
    let mut kept = TcpStream::connect(client.address).unwrap();
    kept.write_all(&hello).unwrap();
    for _ in 0..200 {
        TcpStream::connect(client.address).unwrap().write_all(&hello).unwrap();
    }
    // At two per second, two hundred would take longer than this client waits.
    for _ in 0..4 {
        assert_eq!(call(&client, &mut client.connect()).unwrap(), 200);
    }
}

//! The PROXY protocol (version 2) from configured peers.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};

use toml::Value;

use crate::common::proxy::free_port;
use crate::common::settings::set;
use crate::common::{Client, Connection, Proxy, Response, Setup, xks};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a connection from `client` over TCP and IPv4, with a TLV after the addresses.
fn header(client: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = [SIGNATURE, &[0x21, 0x11, 0, 12 + 8]].concat();
    header.extend(client);
    header.extend([127, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend([1, 0xbb]);
    header.extend([0xea, 0, 5, 1, b'v', b'p', b'c', b'e']);
    header
}

/// The header of a load balancer's own connection.
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

fn setup() -> Setup {
    Setup::new().set("server.proxy_protocol_from", vec![Value::from("127.0.0.0/8")])
}

fn open(client: &Client, first: &[u8]) -> std::io::Result<Connection> {
    let mut socket = TcpStream::connect(client.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    socket.write_all(first)?;
    Connection::over(socket, client.tls.as_ref())
}

fn call(client: &Client, connection: &mut Connection) -> std::io::Result<Response> {
    let body = xks::health().to_string();
    let target = client.target("health");
    let headers = client.headers(&target, body.as_bytes());
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes())?;
    connection.receive()
}

fn assert_refused(proxy: &Proxy, first: &[u8]) {
    let client = proxy.client();
    let refused = match open(&client, first) {
        Err(_) => true,
        Ok(mut connection) => call(&client, &mut connection).is_err(),
    };
    assert!(refused, "{}", first.escape_ascii());
}

/// The log shows the client's address, over plain HTTP and over TLS.
#[test]
fn the_log_has_the_clients_address() {
    for setup in [setup(), setup().tls()] {
        let mut proxy = setup.start();
        let client = proxy.client();
        let mut connection = open(&client, &header([192, 0, 2, 77], 40_000)).unwrap();
        call(&client, &mut connection).unwrap().ok();
        call(&client, &mut connection).unwrap().ok();
        proxy.wait_for("the client's address", |proxy| {
            proxy.log().lines().filter(|line| line.contains("peer=192.0.2.77")).count() == 2
        });
        let mut connection = open(&client, &local()).unwrap();
        call(&client, &mut connection).unwrap().ok();
        proxy.wait_for("the load balancer's address", |proxy| {
            proxy.log().contains("peer=127.0.0.1")
        });
    }
}

/// Sent one byte at a time, the header is neither parsed too early nor lost.
#[test]
fn in_pieces() {
    for setup in [setup(), setup().tls()] {
        let proxy = setup.start();
        let client = proxy.client();
        let mut socket = TcpStream::connect(client.address).unwrap();
        socket.set_nodelay(true).unwrap();
        for byte in header([192, 0, 2, 1], 1) {
            socket.write_all(&[byte]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut connection = Connection::over(socket, client.tls.as_ref()).unwrap();
        call(&client, &mut connection).unwrap().ok();
    }
}

/// Peers that must send a header but don't, or send an unreadable one, are disconnected; the next
/// peer is served.
#[test]
fn what_must_be_there() {
    let mut proxy = setup().start();
    let mut too_long = header([1, 2, 3, 4], 5);
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut of_udp = header([1, 2, 3, 4], 5);
    of_udp[13] = 0x12;
    let mut of_no_version = header([1, 2, 3, 4], 5);
    of_no_version[12] = 0x31;
    for first in [
        b"".as_slice(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n",
        b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\r",
        &too_long,
        &of_udp,
        &of_no_version,
    ] {
        assert_refused(&proxy, first);
    }
    // Only one header is read; a second one would be parsed as a request.
    let twice = [header([1, 2, 3, 4], 5), header([1, 2, 3, 4], 5)].concat();
    let client = proxy.client();
    let mut connection = open(&client, &twice).unwrap();
    connection.send(b"\r\n\r\n").unwrap();
    assert!(connection.receive().is_ok_and(|response| response.status == 400));
    let mut connection = open(&client, &header([1, 2, 3, 4], 5)).unwrap();
    call(&client, &mut connection).unwrap().ok();
    proxy.wait_for("the refusals in the log", |proxy| {
        let log = proxy.log();
        log.contains("PROXY protocol header refused") && log.contains("version 1")
    });
}

/// Peers that are not configured cannot claim another address.
#[test]
fn who_must_not_send_it() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let networks = vec![Value::from("192.0.2.0/24"), Value::from("2001:db8::/32")];
        let proxy = setup.set("server.proxy_protocol_from", networks).start();
        let client = proxy.client();
        match open(&client, &header([1, 2, 3, 4], 5)) {
            Err(_) => {}
            Ok(mut connection) => {
                assert!(call(&client, &mut connection).map_or(true, |it| it.status == 400));
            }
        }
        call(&client, &mut client.connect()).unwrap().ok();
        assert!(!proxy.log().contains("1.2.3.4"));
    }
}

/// A header that never ends does not hold its connection open for long.
#[test]
fn slow_header() {
    let proxy = setup().set("limits.handshake_timeout_milli", 300).start();
    let client = proxy.client();
    for first in [&b""[..], &SIGNATURE[..5], &header([1, 2, 3, 4], 5)[..20]] {
        assert!(open(&client, first).unwrap().is_at_end().unwrap());
    }
}

/// Limits per address apply to the client's address.
#[test]
fn connections_of_one_address() {
    let proxy = setup().set("limits.max_connections_per_address", 2).start();
    let client = proxy.client();
    let open = |last| open(&client, &header([192, 0, 2, last], 1)).unwrap();
    let (mut one, mut two) = (open(1), open(1));
    call(&client, &mut one).unwrap().ok();
    call(&client, &mut two).unwrap().ok();
    assert!(call(&client, &mut open(1)).is_err());
    call(&client, &mut open(2)).unwrap().ok();
}

/// On the ping port the header is optional: probes may bypass the load balancer.
#[test]
fn ping_port() {
    let proxy = setup().start();
    assert_eq!(proxy.get("/ping").status, 200);
    for first in [header([192, 0, 2, 1], 1), local()] {
        let mut socket = TcpStream::connect(proxy.ping).unwrap();
        socket.write_all(&first).unwrap();
        let mut connection = Connection::over(socket, None).unwrap();
        connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(connection.receive().unwrap().status, 200);
    }
}

/// The steps of the documentation: with headers accepted, then sent, then required, each step by a
/// reload, no connection is refused, and header addresses count only after the last.
#[test]
fn a_change_over() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let mut proxy = setup
            .set("limits.max_connections_per_address", 3)
            .set("admin.port", free_port())
            .set("server.pid_file", "proxy.pid")
            .start();
        let client = proxy.client();
        let with = |last| open(&client, &header([192, 0, 2, last], 1));
        let answers = |connection: std::io::Result<Connection>| {
            connection.and_then(|mut connection| call(&client, &mut connection)).unwrap().ok()
        };
        let mut before = open(&client, b"").unwrap();
        call(&client, &mut before).unwrap().ok();

        let networks = vec![Value::from("::ffff:127.0.0.0/104")];
        proxy.change_settings(|settings| {
            set(settings, "server.proxy_protocol_from", networks.clone());
            set(settings, "server.proxy_protocol", "accept");
        });
        assert_eq!(proxy.reload().0, Some(0));
        call(&client, &mut before).unwrap().ok();
        answers(open(&client, b""));
        for last in 1..9 {
            // Those before it count until the proxy has seen their end.
            proxy.wait_for("an answer", |_| {
                with(last).and_then(|mut connection| call(&client, &mut connection)).is_ok()
            });
        }
        let log = proxy.log_with("server.proxy_protocol");
        assert!(log.contains("change-over") && !log.contains("192.0.2."), "{log}");
        // The limit is that of the load balancer's address, whatever addresses the headers have.
        let held: Vec<_> = (1..3).map(|last| with(last).unwrap()).collect();
        proxy.wait_for("the limit", |_| {
            with(9).and_then(|mut connection| call(&client, &mut connection)).is_err()
        });
        drop(held);
        // A header must still be a valid one.
        assert_refused(&proxy, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n");
        let count = |proxy: &Proxy, header: &str| {
            let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
            let name =
                format!("xks_proxy_connections_by_proxy_header_total{{header=\"{header}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(count(&proxy, "absent"), 1);
        assert!(count(&proxy, "present") >= 8);

        proxy.change_settings(|settings| set(settings, "server.proxy_protocol", "require"));
        assert_eq!(proxy.reload().0, Some(0));
        call(&client, &mut before).unwrap().ok();
        proxy.wait_for("an answer", |_| {
            with(77).and_then(|mut connection| call(&client, &mut connection)).is_ok()
        });
        proxy.wait_for("the client's address", |proxy| proxy.log().contains("peer=192.0.2.77"));
        assert_refused(&proxy, b"");
    }
}

/// Peers whose IPv4 address the kernel maps into IPv6 are logged by their IPv4 address, and a network
/// of mapped addresses is the IPv4 network.
#[test]
fn mapped_addresses_are_ipv4() {
    let networks = vec![Value::from("::ffff:127.0.0.0/104")];
    let setup = Setup::new().set("server.ip", "::").set("server.proxy_protocol_from", networks);
    let mut proxy = setup.start();
    let mut client = proxy.client();
    client.address = (Ipv4Addr::LOCALHOST, client.address.port()).into();
    let mut connection = open(&client, &local()).unwrap();
    call(&client, &mut connection).unwrap().ok();
    proxy.wait_for("the peer's address", |proxy| proxy.log().contains("peer=127.0.0.1"));
    let mut connection = open(&client, &header([192, 0, 2, 77], 1)).unwrap();
    call(&client, &mut connection).unwrap().ok();
    proxy.wait_for("the client's address", |proxy| proxy.log().contains("peer=192.0.2.77"));
    assert!(!proxy.log().contains("peer=::ffff"), "{}", proxy.log());
}

/// The checksum of a header is verified if it has one, and its additional fields must be whole.
#[test]
fn additional_fields() {
    let proxy = setup().start();
    let client = proxy.client();
    let with = |tlvs: &[u8]| {
        let mut header = [SIGNATURE, &[0x21, 0x11, 0, 12]].concat();
        header[15] += u8::try_from(tlvs.len()).unwrap();
        header.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xd9, 0x03, 0x01, 0xbb]);
        header.extend(tlvs);
        header
    };
    // The sum was computed by another program.
    let mut connection = open(&client, &with(&[3, 0, 4, 0xee, 0x9b, 0x62, 0x41])).unwrap();
    call(&client, &mut connection).unwrap().ok();
    assert_refused(&proxy, &with(&[3, 0, 4, 1, 2, 3, 4]));
    assert_refused(&proxy, &with(&[0xea, 0, 6, 1, b'v', b'p', b'c', b'e']));
}

//! HTTP/1.1 and 1.0 on real sockets (RFC 9110, RFC 9112).

use crate::common::{Client, Connection, Setup, xks};

/// The head of a signed request, without the field that delimits the body.
fn head(client: &Client, call: &str, version: &str, body: &[u8]) -> String {
    let target = client.target(call);
    let mut head = format!("POST {target} {version}\r\nHost: {}\r\n", client.host());
    for (name, value) in client.headers(&target, body) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

fn health_request(client: &Client) -> Vec<u8> {
    let body = xks::health().to_string();
    let head = head(client, "health", "HTTP/1.1", body.as_bytes());
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn many_requests_on_one_connection() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let mut connection = client.connect();
    for number in 0..100_u8 {
        let plaintext = vec![number; usize::from(number)];
        let body = xks::encrypt(&plaintext, None).to_string();
        client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
        let response = connection.receive().unwrap();
        assert_eq!(response.header("connection"), None);
        assert!(response.header("date").is_some());
        let encrypted = response.ok();
        assert_eq!(xks::bytes(&encrypted["ciphertext"]).len(), plaintext.len());
    }
}

/// Answers come in the order of the requests, although some take longer.
#[test]
fn pipelining() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let mut connection = client.connect();
    let mut requests = Vec::new();
    for number in 0..20 {
        let (call, body) = match number % 3 {
            0 => ("keys/foo/encrypt", xks::encrypt_with_cdiv(&vec![0; number], None)),
            1 => ("health", xks::health()),
            _ => ("keys/no_such_key/metadata", xks::metadata("DescribeKey")),
        };
        let body = body.to_string();
        requests.extend_from_slice(head(&client, call, "HTTP/1.1", body.as_bytes()).as_bytes());
        requests.extend(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    }
    connection.send(&requests).unwrap();
    for number in 0..20 {
        let response = connection.receive().unwrap();
        match number % 3 {
            0 => {
                let encrypted = response.ok();
                assert_eq!(xks::bytes(&encrypted["ciphertext"]).len(), number);
            }
            1 => assert!(response.ok().get("xksProxyFleetSize").is_some()),
            _ => response.assert_error(404, "KeyNotFoundException"),
        }
    }
}

/// The network may split a request anywhere.
#[test]
fn byte_by_byte() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let mut connection = client.connect();
    for byte in health_request(&client) {
        connection.send(&[byte]).unwrap();
    }
    connection.receive().unwrap().ok();
}

#[test]
fn chunked_body() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::encrypt(&[7; 4000], Some(&[8; 8000])).to_string();
    let mut request = head(&client, "keys/foo/encrypt", "HTTP/1.1", body.as_bytes());
    request.push_str("Transfer-Encoding: chunked\r\n\r\n");
    let mut rest = body.as_str();
    for size in (1..).map(|number| number * 7) {
        let (chunk, more) = rest.split_at(size.min(rest.len()));
        request.push_str(&format!("{:X};extension=\"x\"\r\n{chunk}\r\n", chunk.len()));
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    request.push_str("0\r\nTrailer: is dropped\r\n\r\n");
    let mut connection = client.connect();
    connection.send(request.as_bytes()).unwrap();
    let encrypted = connection.receive().unwrap().ok();
    // The next request follows the last chunk directly.
    let body = xks::decrypt(&encrypted, Some(&[8; 8000])).to_string();
    client.send(&mut connection, "keys/foo/decrypt", body.as_bytes());
    let decrypted = connection.receive().unwrap().ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), [7; 4000]);
}

/// curl asks for permission before it sends a body of more than 1,024 bytes.
#[test]
fn expect_100_continue() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::encrypt(b"plaintext", None).to_string();
    let head = head(&client, "keys/foo/encrypt", "HTTP/1.1", body.as_bytes());
    let head = format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut connection = client.connect();
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 100);
    connection.send(body.as_bytes()).unwrap();
    connection.receive().unwrap().ok();
}

#[test]
fn http_1_0() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::health().to_string();
    let head = head(&client, "health", "HTTP/1.0", body.as_bytes());
    let mut connection = client.connect();
    connection
        .send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .unwrap();
    let response = connection.receive().unwrap();
    assert_eq!(response.header("connection"), Some("close"));
    response.ok();
    assert!(connection.is_at_end().unwrap());

    let mut connection = client.connect();
    let request =
        format!("{head}Connection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..2 {
        connection.send(request.as_bytes()).unwrap();
        let response = connection.receive().unwrap();
        assert_eq!(response.header("connection"), Some("keep-alive"));
        response.ok();
    }
}

#[test]
fn connection_close() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let request = String::from_utf8(health_request(&client)).unwrap();
    let mut connection = client.connect();
    connection
        .send(request.replace("\r\nHost", "\r\nConnection: close\r\nHost").as_bytes())
        .unwrap();
    let response = connection.receive().unwrap();
    assert_eq!(response.header("connection"), Some("close"));
    response.ok();
    assert!(connection.is_at_end().unwrap());
}

/// RFC 9112, 9.6: requests sent before the peer closed its sending side are answered.
#[test]
fn half_close() {
    for setup in [Setup::new(), Setup::new().tls()] {
        let proxy = setup.start();
        let client = proxy.client();
        let mut connection = client.connect();
        let body = xks::encrypt(b"plaintext", None).to_string();
        client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
        connection.end_sending().unwrap();
        connection.receive().unwrap().ok();
        assert!(connection.is_at_end().unwrap());
    }
}

/// Several event loops share the port; each of them serves.
#[test]
fn several_event_loops() {
    let proxy = Setup::new().tls().set("server.event_loops", 4).start();
    let client = proxy.client();
    let mut connections: Vec<Connection> = (0..40).map(|_| client.connect()).collect();
    for round in 0..3 {
        for (number, connection) in (round..).zip(&mut connections) {
            let body = xks::encrypt_with_cdiv(&vec![0; number], None).to_string();
            client.send(connection, "keys/foo/encrypt", body.as_bytes());
        }
        for (number, connection) in (round..).zip(&mut connections) {
            let encrypted = connection.receive().unwrap().ok();
            assert_eq!(xks::bytes(&encrypted["ciphertext"]).len(), number);
        }
    }
}

/// Each is answered with JSON that gives the reason, and the connection is closed: the start of the
/// next request is unknown.
#[test]
fn what_is_no_request() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let get = "GET /ping HTTP/1.1\r\nHost: localhost\r\n";
    let post = "POST /ping HTTP/1.1\r\nHost: localhost\r\n";
    for (status, request) in [
        (400, "\0\x01\x02\r\n\r\n".to_owned()),
        (400, "GET /ping\r\n\r\n".to_owned()),
        (400, "GET ping HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        (400, "GET /ping HTTP/1.1\r\n\r\n".to_owned()),
        (400, format!("{get}Host: other\r\n\r\n")),
        (400, format!("{get}No colon\r\n\r\n")),
        (400, format!("{get}Space : before the colon\r\n\r\n")),
        (400, format!("{get} folded: line\r\n\r\n")),
        (400, format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n")),
        (400, format!("{post}Content-Length: -1\r\n\r\n")),
        (400, format!("{post}Content-Length: +1\r\n\r\n")),
        (400, format!("{post}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")),
        (400, format!("{post}Transfer-Encoding: chunked\r\n\r\nnot hexadecimal\r\n")),
        (400, format!("{post}Transfer-Encoding: chunked\r\n\r\n1\r\nxx")),
        (413, format!("{post}Content-Length: 1000000000\r\n\r\n")),
        (413, format!("{post}Content-Length: 99999999999999999999999\r\n\r\n")),
        (413, format!("{post}Transfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n")),
        (414, format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "p".repeat(300))),
        (417, format!("{post}Expect: 200-ok\r\n\r\n")),
        (431, format!("{get}Long: {}\r\n\r\n", "x".repeat(9000))),
        (431, format!("{get}{}\r\n", "A: b\r\n".repeat(100))),
        (501, format!("{post}Transfer-Encoding: gzip\r\n\r\n")),
        (505, "GET /ping HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned()),
    ] {
        let mut connection = client.connect();
        connection.send(request.as_bytes()).unwrap();
        let response = connection
            .receive()
            .unwrap_or_else(|error| panic!("{error}: {}", request.escape_debug()));
        assert_eq!(response.status, status, "{}", request.escape_debug());
        assert_eq!(response.header("connection"), Some("close"));
        assert!(response.json()["errorName"].is_string());
        assert!(connection.is_at_end().unwrap(), "{}", request.escape_debug());
    }
    client.call("health", &xks::health()).ok();
}

/// A peer that is too slow gets 408 if it has begun a request; otherwise the connection is just
/// closed.
#[test]
fn slow_peers() {
    let proxy = Setup::new()
        .set("limits.head_timeout_milli", 300)
        .set("limits.body_timeout_milli", 300)
        .set("limits.idle_timeout_milli", 300)
        .start();
    let client = proxy.client();
    for begun in ["GET /pi", "POST /ping HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"] {
        let mut connection = client.connect();
        connection.send(begun.as_bytes()).unwrap();
        let response = connection.receive().unwrap();
        assert_eq!((response.status, response.header("connection")), (408, Some("close")));
        assert!(connection.is_at_end().unwrap());
    }
    assert!(client.connect().is_at_end().unwrap());
}

/// The proxy keeps serving when peers disconnect at any point.
#[test]
fn peers_that_leave() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::encrypt(b"plaintext", None).to_string();
    let mut request = head(&client, "keys/foo/encrypt", "HTTP/1.1", body.as_bytes());
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    for cut in (0..=request.len()).step_by(37) {
        let mut connection = client.connect();
        connection.send(&request.as_bytes()[..cut]).unwrap();
    }
    let mut connection = client.connect();
    for _ in 0..50 {
        connection.send(request.as_bytes()).unwrap();
    }
    drop(connection);
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

//! Exchanges that no honest client makes. Smuggled, ambiguous, malformed or oversized requests are
//! refused and the connection is closed, or they have the single reading that RFC 9110 and 9112
//! give them. After each, a good request on a new connection is answered.

use crate::common::{Client, Connection, Setup, xks};

/// Expected outcome.
enum Outcome {
    /// One answer with that status, a body of the specification's form and `Connection: close`;
    /// then the connection ends. Bytes after the request are not read as another one.
    Refused(u16),
    /// An answer with that status, after which the connection accepts the next request.
    Answered(u16),
    /// An answer with that status that ends the connection, as the request asked.
    Last(u16),
    /// No answer: the request is incomplete, and its sender closes the connection.
    Nothing,
}

use Outcome::{Answered, Last, Nothing, Refused};

/// A request that would be answered if it were read as one.
const NEXT: &[u8] = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n";

const GET: &str = "GET /ping HTTP/1.1\r\nHost: h\r\n";
const POST: &str = "POST /ping HTTP/1.1\r\nHost: h\r\n";
/// Refused only after it has been read completely.
const API: &str = "POST /example/uri/path/prefix/kms/xks/v1/health HTTP/1.1\r\nHost: h\r\n";

fn cases() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let mut cases = Vec::new();
    let mut case = |what, parts: &[&str], outcome| {
        cases.push((what, parts.concat().into_bytes(), outcome));
    };
    let long = "x".repeat(9000);
    let many = "A: b\r\n".repeat(65);

    // The request line.
    case("HTTP/0.9", &["GET /ping\r\n\r\n"], Refused(400));
    case("no version", &["GET /ping \r\nHost: h\r\n\r\n"], Refused(400));
    case("lower-case version", &["GET /ping http/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("HTTP/1.2", &["GET /ping HTTP/1.2\r\nHost: h\r\n\r\n"], Refused(505));
    case("HTTP/2's preface", &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], Refused(505));
    case("HTTP/11", &["GET /ping HTTP/11\r\nHost: h\r\n\r\n"], Refused(400));
    case("version and more", &["GET /ping HTTP/1.1 x\r\nHost: h\r\n\r\n"], Refused(400));
    case("two spaces", &["GET  /ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("tabs", &["GET\t/ping\tHTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("space first", &[" ", GET, "\r\n"], Refused(400));
    case("empty lines first", &["\r\n\r\n", GET, "\r\n"], Answered(200));
    case("lone LF first", &["\n", GET, "\r\n"], Refused(400));
    case("NUL first", &["\0", GET, "\r\n"], Refused(400));
    case("no method", &["/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("lower-case method", &["get /ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(405));
    case("method of other characters", &["G(T /ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("very long method", &[&long, " /ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(414));
    case("TRACE", &["TRACE /ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(405));
    case("CONNECT", &["CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));

    // The target.
    case("asterisk-form", &["OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("absolute-form", &["GET http://h/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(200));
    case("absolute-form, no path", &["GET http://h HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("absolute-form, no host", &["GET http:///ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case(
        "absolute-form, query",
        &["GET http://a?x/ping HTTP/1.1\r\nHost: h\r\n\r\n"],
        Refused(400),
    );
    case("absolute-form, #", &["GET http://a#x/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("absolute-form, user", &["GET http://u@h/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("absolute-form, port", &["GET http://h:x/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("another scheme", &["GET ftp://h/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("no slash", &["GET ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("fragment", &["GET /ping#x HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("two slashes", &["GET //ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("dot segments", &["GET /x/../ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("encoded dots", &["GET /x/%2e%2e/ping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("encoded letter", &["GET /%70ing HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("encoded slash", &["GET /%2fping HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("encoded NUL", &["GET /ping%00 HTTP/1.1\r\nHost: h\r\n\r\n"], Answered(404));
    case("backslash", &["GET \\ping HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("space in it", &["GET /pi ng HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("control character in it", &["GET /pi\x01ng HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(400));
    case("too long", &["GET /", &long[..300], " HTTP/1.1\r\nHost: h\r\n\r\n"], Refused(414));

    // Header fields.
    case("no Host", &["GET /ping HTTP/1.1\r\n\r\n"], Refused(400));
    case("two Hosts", &[GET, "Host: other\r\n\r\n"], Refused(400));
    case("two equal Hosts", &[GET, "Host: h\r\n\r\n"], Refused(400));
    case("space before the colon", &[GET, "A : b\r\n\r\n"], Refused(400));
    case("Host with a space", &["GET /ping HTTP/1.1\r\nHost: a b\r\n\r\n"], Refused(400));
    case("Host with a slash", &["GET /ping HTTP/1.1\r\nHost: a/b\r\n\r\n"], Refused(400));
    case("Host with a user", &["GET /ping HTTP/1.1\r\nHost: a@b\r\n\r\n"], Refused(400));
    case(
        "Host without a port's number",
        &["GET /ping HTTP/1.1\r\nHost: a:b\r\n\r\n"],
        Refused(400),
    );
    case("Host in HTTP/1.0", &["GET /ping HTTP/1.0\r\nHost: a b\r\n\r\n"], Refused(400));
    case("empty Host", &["GET /ping HTTP/1.1\r\nHost:\r\n\r\n"], Answered(200));
    case("Host by address", &["GET /ping HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"], Answered(200));
    case("obsolete folding", &[GET, "A: b\r\n c\r\n\r\n"], Refused(400));
    case("folding by tab", &[GET, "A: b\r\n\tc\r\n\r\n"], Refused(400));
    case("folding in the first field", &["GET /ping HTTP/1.1\r\n Host: h\r\n\r\n"], Refused(400));
    case("no colon", &[GET, "A\r\n\r\n"], Refused(400));
    case("no name", &[GET, ": b\r\n\r\n"], Refused(400));
    case("name of other characters", &[GET, "A(b): c\r\n\r\n"], Refused(400));
    case("NUL in a value", &[GET, "A: b\0c\r\n\r\n"], Refused(400));
    case("NUL in a name", &[GET, "A\0b: c\r\n\r\n"], Refused(400));
    case("control character in a value", &[GET, "A: \x08\r\n\r\n"], Refused(400));
    case("lone CR in a value", &[GET, "A: b\rc\r\n\r\n"], Refused(400));
    case("lone LF as a line's end", &[GET, "A: b\nC: d\r\n\r\n"], Refused(400));
    case("CR CR LF", &[GET, "A: b\r\r\n\r\n"], Refused(400));
    case("65 fields", &[GET, &many, "\r\n"], Refused(431));
    case("a long field", &[GET, "A: ", &long, "\r\n\r\n"], Refused(431));
    case("an endless head", &[GET, "A: ", &long], Refused(431));
    case(
        "two Content-Types",
        &[API, "Content-Type: a/b\r\nContent-Type: a/b\r\n\r\n"],
        Refused(400),
    );
    case(
        "two Authorizations",
        &[API, "Authorization: a\r\nAuthorization: a\r\n\r\n"],
        Answered(401),
    );
    case("no Authorization", &[API, "\r\n"], Answered(401));
    case("another expectation", &[POST, "Expect: 200-ok\r\n\r\n"], Refused(417));
    case("upgrade to h2c", &[GET, "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"], Answered(200));
    case("close among others", &[GET, "Connection: keep-alive, Close\r\n\r\n"], Last(200));

    // Framing of the body.
    let chunked = "Transfer-Encoding: chunked\r\n";
    case("both", &[POST, "Content-Length: 5\r\n", chunked, "\r\n0\r\n\r\n"], Refused(400));
    case("both, turned", &[POST, chunked, "Content-Length: 5\r\n\r\n0\r\n\r\n"], Refused(400));
    case("both, of 0", &[POST, "Content-Length: 0\r\n", chunked, "\r\n0\r\n\r\n"], Refused(400));
    case("two lengths", &[POST, "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"], Refused(400));
    case("equal lengths", &[POST, "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"], Refused(400));
    case("list of lengths", &[POST, "Content-Length: 1, 1\r\n\r\nx"], Refused(400));
    case("negative length", &[POST, "Content-Length: -1\r\n\r\n"], Refused(400));
    case("length with a plus", &[POST, "Content-Length: +1\r\n\r\nx"], Refused(400));
    case("hexadecimal length", &[POST, "Content-Length: 0x1\r\n\r\nx"], Refused(400));
    case("empty length", &[POST, "Content-Length: \r\n\r\n"], Refused(400));
    case("length with a space", &[POST, "Content-Length: 1 0\r\n\r\n"], Refused(400));
    case(
        "length past 64 bits",
        &[POST, "Content-Length: 18446744073709551617\r\n\r\n"],
        Refused(413),
    );
    case("too large", &[POST, "Content-Length: 1000000\r\n\r\n"], Refused(413));
    case("leading zeros", &[POST, "Content-Length: 0001\r\n\r\nx"], Answered(405));
    case("GET with a body", &[GET, "Content-Length: 5\r\n\r\nGET /"], Answered(200));
    case("other coding", &[POST, "Transfer-Encoding: gzip\r\n\r\n"], Refused(501));
    case("nearly chunked", &[POST, "Transfer-Encoding: xchunked\r\n\r\n"], Refused(501));
    case("quoted", &[POST, "Transfer-Encoding: \"chunked\"\r\n\r\n"], Refused(501));
    case("list of codings", &[POST, "Transfer-Encoding: chunked, chunked\r\n\r\n"], Refused(501));
    case("identity", &[POST, "Transfer-Encoding: identity\r\n\r\n"], Refused(501));
    case("chunked twice", &[POST, chunked, chunked, "\r\n0\r\n\r\n"], Refused(400));
    case("vertical tab", &[POST, "Transfer-Encoding: \x0bchunked\r\n\r\n"], Refused(400));
    case("space before its colon", &[POST, "Transfer-Encoding : chunked\r\n\r\n"], Refused(400));
    case("folded", &[POST, "Transfer-Encoding:\r\n chunked\r\n\r\n"], Refused(400));
    case("no field of that name", &[POST, "Transfer_Encoding: chunked\r\n\r\n"], Answered(405));
    case(
        "chunked in HTTP/1.0",
        &["POST /ping HTTP/1.0\r\n", chunked, "\r\n0\r\n\r\n"],
        Refused(400),
    );

    // Chunks.
    for (what, body, outcome) in [
        ("form feed behind the size", "1\x0c;a\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("NUL in a trailer", "0\r\nA: \0\r\n\r\n", Refused(400)),
        ("none", "0\r\n\r\n", Answered(405)),
        ("one", "1;a=\"b\"\r\nx\r\n0\r\n\r\n", Answered(405)),
        ("trailer", "0\r\nContent-Length: 5\r\nHost: x\r\n\r\n", Answered(405)),
        ("size not hexadecimal", "g\r\n\r\n", Refused(400)),
        ("size with 0x", "0x1\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("size with a minus", "-1\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("no size", "\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("size past 64 bits", "10000000000000001\r\nx\r\n0\r\n\r\n", Refused(413)),
        ("size with an underscore", "1_0\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("size larger than allowed", "fffff\r\nx", Refused(413)),
        ("data longer than its size", "1\r\nxx\r\n0\r\n\r\n", Refused(400)),
        ("lone LF behind the size", "1\nx\r\n0\r\n\r\n", Refused(400)),
        ("lone LF behind the data", "1\r\nx\n0\r\n\r\n", Refused(400)),
        ("NUL in an extension", "1;\0\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("lone CR in an extension", "1;a\rb\r\nx\r\n0\r\n\r\n", Refused(400)),
        ("lone LF in a trailer", "0\r\nA: b\nC: d\r\n\r\n", Refused(400)),
        ("the end is missing", "1\r\nx\r\n0\r\n", Nothing),
    ] {
        case(what, &[POST, chunked, "\r\n", body], outcome);
    }
    case(
        "long extension",
        &[POST, chunked, "\r\n1;", &long[..300], "\r\nx\r\n0\r\n\r\n"],
        Refused(400),
    );
    case("long trailer", &[POST, chunked, "\r\n0\r\nA: ", &long, "\r\n\r\n"], Refused(400));

    // Incomplete, or not HTTP.
    case("nothing", &[""], Nothing);
    case("half a head", &[GET], Nothing);
    case("half a body", &[POST, "Content-Length: 5\r\n\r\nabc"], Nothing);
    let mut raw = |what, bytes: &[u8], outcome| cases.push((what, bytes.to_vec(), outcome));
    raw("TLS", b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\r\n\r\n", Refused(400));
    raw("a PROXY header", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n", Refused(400));
    raw(
        "PROXY, version 2",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
        Refused(400),
    );
    raw("bytes past ASCII in the target", b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", Refused(400));
    raw(
        "bytes past ASCII in a name",
        b"GET /ping HTTP/1.1\r\nHost: h\r\n\xff: b\r\n\r\n",
        Refused(400),
    );
    raw(
        "bytes past ASCII in a value",
        b"GET /ping HTTP/1.1\r\nHost: h\r\nA: \xff\r\n\r\n",
        Answered(200),
    );
    cases
}

fn assert_outcome(client: &Client, what: &str, bytes: &[u8], outcome: &Outcome) {
    let mut connection = client.connect();
    let bytes = match outcome {
        Nothing => bytes.to_vec(),
        // In one write, so that a misread request would be answered.
        Answered(_) | Last(_) | Refused(_) => [bytes, NEXT].concat(),
    };
    connection.send(&bytes).unwrap();
    let receive = |connection: &mut Connection| {
        connection.receive().unwrap_or_else(|error| panic!("{what}: {error}"))
    };
    match outcome {
        Refused(status) => {
            let response = receive(&mut connection);
            let got = (response.status, response.header("connection"));
            assert_eq!(got, (*status, Some("close")), "{what}: {response:?}");
            assert!(response.json()["errorName"].is_string(), "{what}");
        }
        Answered(status) => {
            let response = receive(&mut connection);
            let got = (response.status, response.header("connection"));
            assert_eq!(got, (*status, None), "{what}: {response:?}");
            assert_eq!(receive(&mut connection).status, 200, "{what}: the next one");
            connection.end_sending().unwrap();
        }
        Last(status) => {
            let response = receive(&mut connection);
            let got = (response.status, response.header("connection"));
            assert_eq!(got, (*status, Some("close")), "{what}: {response:?}");
        }
        Nothing => connection.end_sending().unwrap(),
    }
    assert!(connection.is_at_end().unwrap(), "{what}");
}

#[test]
fn hostile_exchanges() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let cases = cases();
    assert_eq!(cases.len(), 128, "what the documentation says");
    for (what, bytes, outcome) in &cases {
        assert_outcome(&client, what, bytes, outcome);
        client.call("health", &xks::health()).ok();
    }
}

/// The same inside TLS, where one record may carry the bytes of several packets.
#[test]
fn hostile_exchanges_in_tls() {
    let proxy = Setup::new().tls().start();
    let client = proxy.client();
    for (what, bytes, outcome) in cases().iter().step_by(5) {
        assert_outcome(&client, what, bytes, outcome);
        client.call("health", &xks::health()).ok();
    }
}

/// A head or chunk whose lines end in a lone LF or CR never gets to its empty line, so it is refused
/// before the peer sends more.
#[test]
fn lone_line_ends_are_refused_at_once() {
    let proxy = Setup::new()
        .set("limits.head_timeout_milli", 60_000)
        .set("limits.body_timeout_milli", 60_000)
        .start();
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    for bytes in [
        "GET /ping HTTP/1.1\nHost: h\n\n",
        "GET /ping HTTP/1.1\rHost: h\r\r",
        "\n",
        &format!("{GET}\n"),
        &format!("{chunked}1\n"),
        &format!("{chunked}1\rx"),
        &format!("{chunked}0\r\nA: b\n"),
    ] {
        let mut connection = proxy.client().connect();
        connection.send(bytes.as_bytes()).unwrap();
        let response = connection.receive().unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        assert_eq!((response.status, response.header("connection")), (400, Some("close")));
    }
}

//! Requests that the holder of the secret would not send, or that were changed in transit: each is
//! refused, and the next valid request is answered.
//!
//! The minimal signer here signs requests that AWS's own rejects: a nonexistent day, another
//! service's scope. So each such request is refused for that defect and not for its signature.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::common::{Client, Response, Setup, Store, xks};

/// The signed parts of a request, and the input of its signature.
#[derive(Clone)]
struct Request {
    method: String,
    target: String,
    /// Signed path, without the query; `None` for the path that is sent.
    signed_path: Option<String>,
    query: String,
    /// Header fields as they are sent and signed, sorted by name.
    headers: Vec<(String, String)>,
    /// Names in `SignedHeaders` and in the canonical request.
    signed: Vec<String>,
    body: String,
    signed_body: Option<String>,
    algorithm: String,
    access_key_id: String,
    secret: String,
    scope_date: String,
    region: String,
    service: String,
    terminator: String,
}

impl Request {
    /// A health call as KMS would sign it now.
    fn new(client: &Client) -> Self {
        let store = &client.signer.store;
        let body = xks::health().to_string();
        let target = client.target("health");
        let signed = client.headers(&target, body.as_bytes());
        let date = signed.iter().find(|(name, _)| name == "x-amz-date").unwrap().1.clone();
        Self {
            method: "POST".into(),
            target,
            signed_path: None,
            query: String::new(),
            headers: vec![
                ("content-type".into(), "application/json".into()),
                ("host".into(), client.host()),
                ("x-amz-date".into(), date.clone()),
            ],
            signed: vec!["host".into(), "x-amz-date".into()],
            body,
            signed_body: None,
            algorithm: "AWS4-HMAC-SHA256".into(),
            access_key_id: store.access_key_id.clone(),
            secret: store.secret_access_key.clone(),
            scope_date: date[..8].to_owned(),
            region: "us-east-1".into(),
            service: "kms-xks-proxy".into(),
            terminator: "aws4_request".into(),
        }
    }

    fn header(&mut self, name: &str) -> &mut String {
        &mut self.headers.iter_mut().find(|(field, _)| field == name).unwrap().1
    }

    /// Sets the time that is signed: `x-amz-date` and the scope's date.
    fn date(&mut self, date: &str) {
        *self.header("x-amz-date") = date.to_owned();
        self.scope_date = date.chars().take(8).collect();
    }

    fn signature(&self) -> String {
        let mut canonical = format!(
            "{}\n{}\n{}\n",
            self.method,
            self.signed_path.as_ref().unwrap_or(&self.target),
            self.query
        );
        for name in &self.signed {
            let values = self.headers.iter().filter(|(field, _)| field == name);
            let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
            canonical.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        let body = self.signed_body.as_ref().unwrap_or(&self.body);
        canonical.push_str(&format!("\n{}\n{}", self.signed.join(";"), hash(body)));
        let scope =
            [&self.scope_date, &self.region, &self.service, &self.terminator].map(String::as_str);
        let date = &self.headers.iter().find(|(name, _)| name == "x-amz-date");
        let date = date.map_or("", |(_, value)| value);
        let text = format!("{}\n{date}\n{}\n{}", self.algorithm, scope.join("/"), hash(&canonical));
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in scope.iter().copied().chain([text.as_str()]) {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        hex(&key)
    }

    /// The signed request as text, which a test can still change.
    fn text(&self) -> String {
        let mut target = self.target.clone();
        if !self.query.is_empty() {
            target.push_str(&format!("?{}", self.query));
        }
        let mut text = format!("{} {target} HTTP/1.1\r\n", self.method);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!(
            "authorization: {} Credential={}/{}/{}/{}/{}, SignedHeaders={}, Signature={}\r\n\
             content-length: {}\r\n\r\n{}",
            self.algorithm,
            self.access_key_id,
            self.scope_date,
            self.region,
            self.service,
            self.terminator,
            self.signed.join(";"),
            self.signature(),
            self.body.len(),
            self.body
        ));
        text
    }
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces a text that must occur exactly once.
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replace(from, to)
}

fn send(client: &Client, text: &str) -> Response {
    let mut connection = client.connect();
    connection.send(text.as_bytes()).unwrap();
    connection.receive().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends a forgery, checks that it is refused with this status and error, and then that a valid
/// request is still answered.
#[track_caller]
fn refused(client: &Client, what: &str, text: &str, status: u16, error: &str) -> Response {
    let response = send(client, text);
    assert_eq!(response.status, status, "{what}: {text}\n{response:?}");
    response.assert_error(status, error);
    send(client, &Request::new(client).text()).ok();
    response
}

const FAILED: &str = "AuthenticationFailedException";

type Before = fn(&mut Request);

/// Requests whose signature matches their contents. They are refused even from a client that knows
/// the secret.
#[rustfmt::skip]
const SIGNED_WELL: &[(&str, Before, u16, &str)] = &[
    ("a secret of the same length", |it| it.secret = it.secret.replace('P', "Q"), 401, FAILED),
    ("the secret in lower case", |it| it.secret = it.secret.to_lowercase(), 401, FAILED),
    ("an empty secret", |it| it.secret = String::new(), 401, FAILED),
    ("another store's key", |it| { let store = Store::second(); it.access_key_id = store.access_key_id; it.secret = store.secret_access_key; }, 401, FAILED),
    ("another store's id, this one's secret", |it| it.access_key_id = Store::second().access_key_id, 401, FAILED),
    ("another store's secret, this one's id", |it| it.secret = Store::second().secret_access_key, 401, FAILED),
    ("an unknown access key id", |it| it.access_key_id = "UNKNOWNUNKNOWNUNKNOWN".into(), 401, FAILED),
    ("an access key id in lower case", |it| it.access_key_id = it.access_key_id.to_lowercase(), 401, FAILED),
    ("an empty access key id", |it| it.access_key_id = String::new(), 401, FAILED),
    ("an endless access key id", |it| it.access_key_id = "A".repeat(500), 401, FAILED),
    ("another Region", |it| it.region = "us-east-2".into(), 401, FAILED),
    ("the Region in upper case", |it| it.region = "US-EAST-1".into(), 401, FAILED),
    ("no Region", |it| it.region = String::new(), 401, FAILED),
    ("another service", |it| it.service = "kms".into(), 401, FAILED),
    ("no service", |it| it.service = String::new(), 401, FAILED),
    ("another terminator", |it| it.terminator = "aws5_request".into(), 401, FAILED),
    ("no terminator", |it| it.terminator = String::new(), 401, FAILED),
    ("six parts in the scope", |it| it.terminator = "aws4_request/aws4_request".into(), 401, FAILED),
    ("a scope of yesterday's year", |it| it.scope_date.replace_range(..4, "2001"), 401, FAILED),
    ("no scope date", |it| it.scope_date = String::new(), 401, FAILED),
    ("letters in the scope date", |it| it.scope_date = "2025Jan1".into(), 401, FAILED),
    ("a scope date that is longer", |it| it.scope_date.push('T'), 401, FAILED),
    ("host not signed", |it| it.signed.retain(|name| name != "host"), 401, FAILED),
    ("x-amz-date not signed", |it| it.signed.retain(|name| name != "x-amz-date"), 401, FAILED),
    ("only content-type signed", |it| it.signed = vec!["content-type".into()], 401, FAILED),
    ("nothing signed", |it| it.signed.clear(), 401, FAILED),
    ("a signed name twice", |it| it.signed.push("x-amz-date".into()), 401, FAILED),
    ("signed names not sorted", |it| it.signed.reverse(), 401, FAILED),
    ("signed names in upper case", |it| { it.headers.push(("X-A".into(), "1".into())); it.signed = vec!["X-A".into(), "host".into(), "x-amz-date".into()]; }, 401, FAILED),
    ("a signed field that is not sent", |it| it.signed.push("x-zzz".into()), 401, FAILED),
    ("an empty name among the signed", |it| it.signed.insert(0, String::new()), 401, FAILED),
    ("33 signed fields", |it| it.signed.extend((10..41).map(|it| format!("y-{it}"))), 401, FAILED),
    ("no x-amz-date", |it| it.headers.retain(|(name, _)| name != "x-amz-date"), 401, FAILED),
    ("x-amz-date twice, both signed", |it| { let date = it.header("x-amz-date").clone(); it.headers.push(("x-amz-date".into(), date)); }, 401, FAILED),
    ("date in place of x-amz-date", |it| { it.headers[2].0 = "date".into(); it.signed = vec!["date".into(), "host".into()]; }, 401, FAILED),
    ("AWS4-HMAC-SHA512", |it| it.algorithm = "AWS4-HMAC-SHA512".into(), 401, FAILED),
    ("AWS4-ECDSA-P256-SHA256", |it| it.algorithm = "AWS4-ECDSA-P256-SHA256".into(), 401, FAILED),
    ("the algorithm in lower case", |it| it.algorithm = "aws4-hmac-sha256".into(), 401, FAILED),
    ("version 2", |it| it.algorithm = "AWS".into(), 401, FAILED),
    ("the path signed with a slash at its end", |it| it.signed_path = Some(format!("{}/", it.target)), 401, FAILED),
    ("the path signed in upper case", |it| it.signed_path = Some(it.target.to_uppercase()), 401, FAILED),
    ("the path signed without its prefix", |it| it.signed_path = Some("/kms/xks/v1/health".into()), 401, FAILED),
    ("the path signed empty", |it| it.signed_path = Some(String::new()), 401, FAILED),
    ("another body signed", |it| it.signed_body = Some("{}".into()), 401, FAILED),
    ("an empty body signed", |it| it.signed_body = Some(String::new()), 401, FAILED),
    ("UNSIGNED-PAYLOAD", |it| { it.headers.push(("x-amz-content-sha256".into(), "UNSIGNED-PAYLOAD".into())); it.signed_body = Some("UNSIGNED-PAYLOAD".into()); }, 401, FAILED),
    ("signed as PUT, sent as PUT", |it| it.method = "PUT".into(), 405, "ValidationException"),
    ("signed as GET, sent as GET", |it| it.method = "GET".into(), 405, "ValidationException"),
    ("another store's path", |it| it.target = it.target.replace("/example/uri/path/prefix", "/second/store"), 401, FAILED),
    ("a path that is none", |it| it.target.push('s'), 404, "InvalidUriPathException"),
];

/// A change made after signing: description, old text, new text.
type After = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const CHANGED: &[(After, u16, &str)] = &[
    (("method", "POST ", "PUT "), 405, "ValidationException"),
    (("method's case", "POST ", "Post "), 405, "ValidationException"),
    (("call", "/v1/health ", "/v1/keys/foo/metadata "), 401, FAILED),
    (("slash at the path's end", "/v1/health ", "/v1/health/ "), 404, "InvalidUriPathException"),
    (("slash doubled", "/v1/health ", "/v1//health "), 404, "InvalidUriPathException"),
    (("dot segment", "/v1/health ", "/v1/./health "), 404, "InvalidUriPathException"),
    (("dots that lead to the same", "/v1/health ", "/v1/x/../health "), 404, "InvalidUriPathException"),
    (("percent-encoding", "/v1/health ", "/v1/%68ealth "), 404, "InvalidUriPathException"),
    (("path's case", "/v1/health ", "/v1/Health "), 404, "InvalidUriPathException"),
    (("a slash encoded", "/v1/health ", "/v1%2Fhealth "), 404, "InvalidUriPathException"),
    (("query", "/v1/health ", "/v1/health?a "), 401, FAILED),
    (("query with a value", "/v1/health ", "/v1/health?a=b "), 401, FAILED),
    (("signature in the query", "/v1/health ", "/v1/health?X-Amz-Signature=0 "), 401, FAILED),
    (("host", "host: 127.0.0.1", "host: 127.0.0.2"), 401, FAILED),
    (("a dot at the host's end", "host: 127.0.0.1:", "host: 127.0.0.1.:"), 401, FAILED),
    (("host twice", "host: 127.0.0.1", "host: x\r\nhost: 127.0.0.1"), 400, "ValidationException"),
    (("x-amz-date twice", "x-amz-date: ", "x-amz-date: 20250101T000000Z\r\nx-amz-date: "), 401, FAILED),
    (("x-amz-date a second time, empty", "content-length", "x-amz-date:\r\ncontent-length"), 401, FAILED),
    (("body", "KmsHealthCheck", "KmsHealthcheck"), 401, FAILED),
    (("a blank in the body", "\"kmsOperation\":", "\"kmsOperation\" :"), 401, FAILED),
    (("authorization twice", "authorization: ", "authorization: x\r\nauthorization: "), 401, FAILED),
    (("authorization gone", "authorization: ", "authorisation: "), 401, FAILED),
    (("Credential gone", "Credential=", "Credentials="), 401, FAILED),
    (("Credential twice", " Credential=", " Credential=a/b/c/d/e, Credential="), 401, FAILED),
    (("Signature twice", " Signature=", " Signature=0, Signature="), 401, FAILED),
    (("SignedHeaders twice", " SignedHeaders=", " SignedHeaders=host, SignedHeaders="), 401, FAILED),
    (("one part more", " Signature=", " Extra=1, Signature="), 401, FAILED),
    (("no commas", ", Signature=", " Signature="), 401, FAILED),
    (("a digit before the signature", "Signature=", "Signature=0"), 401, FAILED),
    (("a quoted signature", "Signature=", "Signature=\""), 401, FAILED),
    (("a digit behind the signature", "\r\ncontent-length", "0\r\ncontent-length"), 401, FAILED),
    (("fewer signed fields", "SignedHeaders=host;x-amz-date", "SignedHeaders=host"), 401, FAILED),
    (("more signed fields", "SignedHeaders=host", "SignedHeaders=content-type;host"), 401, FAILED),
    (("a field of that name twice", "SignedHeaders=host", "SignedHeaders=host;host"), 401, FAILED),
];

#[test]
fn signed_well() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for (what, before, status, error) in SIGNED_WELL {
        let mut request = Request::new(&client);
        before(&mut request);
        refused(&client, what, &request.text(), *status, error);
    }
}

#[test]
fn changed_after_signing() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for ((what, from, to), status, error) in CHANGED {
        let text = replace(&Request::new(&client).text(), from, to);
        refused(&client, what, &text, *status, error);
    }
    let good = Request::new(&client);
    let (signature, text) = (good.signature(), good.text());
    let zeros = "0".repeat(64);
    let upper = signature.to_uppercase();
    for forged in [&upper, &zeros, &signature[1..], &signature[..32], &signature[..63], ""] {
        if *forged != signature {
            refused(&client, "signature", &replace(&text, &signature, forged), 401, FAILED);
        }
    }
    // Every digit of the signature counts.
    for at in 0..64 {
        let mut forged = signature.clone();
        let digit = if &forged[at..=at] == "0" { "1" } else { "0" };
        forged.replace_range(at..=at, digit);
        refused(&client, "a digit of it", &replace(&text, &signature, &forged), 401, FAILED);
    }
    assert_eq!(SIGNED_WELL.len() + CHANGED.len(), 84, "what the documentation says");
}

/// Nonexistent times are refused as such, although the signatures match.
#[test]
fn impossible_dates() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let year = &Request::new(&client).scope_date[..4];
    let dates = [
        format!("{year}0230T000000Z"),
        format!("{year}0231T000000Z"),
        "21000229T000000Z".to_owned(),
        format!("{year}0431T000000Z"),
        format!("{year}0132T000000Z"),
        format!("{year}0100T000000Z"),
        format!("{year}0001T000000Z"),
        format!("{year}1301T000000Z"),
        format!("{year}9999T999999Z"),
        format!("{year}0101T240000Z"),
        format!("{year}0101T250000Z"),
        format!("{year}0101T006000Z"),
        format!("{year}0101T000060Z"),
        format!("{year}0101T000061Z"),
        format!("{year}0101T000099Z"),
        "00000101T000000Z".to_owned(),
        "0000000T000000Z".to_owned(),
        format!("{year}-01-01T00:00:00Z"),
        format!("{year}0101T000000"),
        format!("{year}0101T000000z"),
        format!("{year}0101t000000Z"),
        format!("{year}0101 000000Z"),
        format!("{year}0101T000000Z0"),
        format!("{year}0101T000000+0000"),
        format!("-{}0101T000000Z", &year[1..]),
        format!("+{}0101T000000Z", &year[1..]),
        format!("{year}01０1T000000Z"),
        "２０２５０１０１T000000Z".to_owned(),
        "٢٠٢٥٠١٠١T٠٠٠٠٠٠Z".to_owned(),
        "not a date at all".to_owned(),
        "T".to_owned(),
        "0".repeat(4_000),
        "99999999999999999999999999999999".to_owned(),
    ];
    for date in &dates {
        // Wrong in both places, in x-amz-date alone, and in the scope alone.
        let mut both = Request::new(&client);
        both.date(date);
        let response = refused(&client, date, &both.text(), 401, FAILED);
        let message = response.json()["errorMessage"].as_str().unwrap().to_owned();
        assert!(message.contains("date") || message.contains("Date"), "{date}: {message}");
        let mut field = Request::new(&client);
        *field.header("x-amz-date") = date.clone();
        refused(&client, date, &field.text(), 401, FAILED);
        let mut scope = Request::new(&client);
        scope.scope_date = date.chars().take(8).collect();
        refused(&client, date, &scope.text(), 401, FAILED);
    }
    // Valid times far from the present.
    for date in ["00010101T000000Z", "19700101T000000Z", "20240229T235959Z", "99991231T235959Z"] {
        let mut request = Request::new(&client);
        request.date(date);
        let response = refused(&client, date, &request.text(), 401, FAILED);
        let message = response.json()["errorMessage"].as_str().unwrap().to_owned();
        assert!(message.contains("5 minutes"), "{date}: {message}");
    }
}

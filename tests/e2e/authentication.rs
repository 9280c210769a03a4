//! Requests that are not validly signed get no service and no information.

use std::time::{Duration, SystemTime};

use crate::common::{Client, Response, Setup, Store, xks};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn assert_refused(response: &Response) {
    response.assert_error(401, "AuthenticationFailedException");
}

/// Sends a health call whose header fields `change` modified after signing.
fn with_headers(client: &Client, change: impl FnOnce(&mut Vec<(String, String)>)) -> Response {
    let target = client.target("health");
    let body = xks::health().to_string();
    let mut headers = client.headers(&target, body.as_bytes());
    change(&mut headers);
    let mut connection = client.connect();
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes()).unwrap();
    connection.receive().unwrap()
}

fn value_of<'h>(headers: &'h mut [(String, String)], name: &str) -> &'h mut String {
    let field = headers.iter_mut().find(|(field, _)| field.eq_ignore_ascii_case(name));
    &mut field.unwrap().1
}

type Change = fn(&mut Client);

#[test]
fn wrong_credential_or_scope() {
    let proxy = Setup::new().start();
    let right = proxy.client();
    right.call("health", &xks::health()).ok();
    let cases: [(&str, Change); 7] = [
        ("secret", |client| client.signer.store.secret_access_key.push('x')),
        ("access key id", |client| client.signer.store.access_key_id.push('2')),
        ("another store's credential", |client| {
            client.signer.store = Store { prefix: Store::first().prefix, ..Store::second() };
        }),
        ("region", |client| client.signer.region = "us-east-2".into()),
        ("service", |client| client.signer.service = "kms".into()),
        ("six minutes ago", |client| client.signer.time = SystemTime::now() - 6 * MINUTE),
        ("in six minutes", |client| client.signer.time = SystemTime::now() + 6 * MINUTE),
    ];
    for (what, change) in cases {
        let mut client = right.clone();
        change(&mut client);
        eprintln!("{what}");
        for call in ["health", "keys/foo/metadata", "keys/foo/encrypt", "keys/foo/decrypt"] {
            assert_refused(&client.call(call, &xks::health()));
        }
    }
}

/// XKS specification, Appendix A: clocks may differ by five minutes either way.
#[test]
fn clocks_may_differ() {
    let proxy = Setup::new().start();
    for time in [SystemTime::now() - 4 * MINUTE, SystemTime::now() + 4 * MINUTE] {
        let mut client = proxy.client();
        client.signer.time = time;
        client.call("health", &xks::health()).ok();
    }
}

#[test]
fn changed_after_signing() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::health().to_string();
    let target = client.target("health");
    let headers = client.headers(&target, body.as_bytes());
    let send = |method: &str, target: &str, host: &str, body: &str| {
        let mut connection = client.connect();
        connection.send_request(method, target, host, &headers, body.as_bytes()).unwrap();
        connection.receive().unwrap()
    };
    send("POST", &target, &client.host(), &body).ok();
    assert_refused(&send("POST", &target, &client.host(), &body.replace("4112", "4113")));
    assert_refused(&send("POST", &target, "other.example.com", &body));
    assert_refused(&send("POST", &format!("{target}?a=b"), &client.host(), &body));
    let other = client.target("keys/foo/metadata");
    assert_refused(&send("POST", &other, &client.host(), &body));

    for name in ["content-type", "x-amz-date"] {
        assert_refused(&with_headers(&client, |headers| value_of(headers, name).push('0')));
    }
    // Another field with a signed name changes the signed text.
    assert_refused(&with_headers(&client, |headers| {
        headers.push(("x-amz-date".into(), "20250101T000000Z".into()));
    }));
}

#[test]
fn authorization_header_field() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let change = |change: &dyn Fn(&str) -> String| {
        with_headers(&client, |headers| {
            let value = value_of(headers, "authorization");
            *value = change(value);
        })
    };
    change(&|value| value.to_owned()).ok();
    assert_refused(&with_headers(&client, |headers| {
        headers.retain(|(name, _)| name != "authorization");
    }));
    assert_refused(&with_headers(&client, |headers| {
        let value = value_of(headers, "authorization").clone();
        headers.push(("authorization".into(), value));
    }));
    for (from, to) in [
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
        ("AWS4-HMAC-SHA256", "Basic"),
        ("aws4_request", "aws5_request"),
        ("host;x-amz-date", "x-amz-date"),
        ("host;x-amz-date", "host"),
        ("host;x-amz-date", "host;x-absent;x-amz-date"),
        ("Signature=", "Signature=0"),
        ("Signature=", "Sig="),
        ("SignedHeaders=", "SignedHeaders=;"),
        ("Credential=", "Credential=/"),
        ("/us-east-1/", "//"),
    ] {
        let response = change(&|value| {
            assert!(value.contains(from), "{value}");
            value.replace(from, to)
        });
        assert_refused(&response);
    }
    assert_refused(&change(&|_| String::new()));
    assert_refused(&change(&|value| value[..value.len() - 1].to_owned()));
}

/// The signature is checked before body and key; path and method before the signature.
#[test]
fn order_of_the_checks() {
    let proxy = Setup::new().start();
    let mut client = proxy.client();
    client.signer.store.secret_access_key.push('x');
    assert_refused(&client.post("health", b"not JSON"));
    assert_refused(&client.call("keys/no_such_key/encrypt", &xks::encrypt(b"", None)));
    client.post("keys/foo/sign", b"").assert_error(404, "InvalidUriPathException");
    client.signer.store.prefix = "/no/such/store".into();
    client.post("health", b"").assert_error(404, "InvalidUriPathException");
}

/// Authentication can be switched off, and then the log warns of it at every start.
#[test]
fn switched_off() {
    let proxy = Setup::new().set("security.is_sigv4_auth_enabled", false).start();
    let client = proxy.client();
    with_headers(&client, |headers| {
        headers.retain(|(name, _)| name != "authorization" && name != "x-amz-date");
    })
    .ok();
    let log = proxy.log();
    let warns = |line: &str| line.contains("WARN") && line.to_lowercase().contains("sigv4");
    assert!(log.lines().any(warns), "{log}");
}

/// Neither secrets nor plaintexts may appear in the log, at any level.
#[test]
fn the_log_keeps_secrets() {
    let mut proxy = Setup::new().set("tracing.level", "TRACE").start();
    let client = proxy.client();
    let plaintext = b"a plaintext that must stay unseen";
    let encrypted = client.call("keys/foo/encrypt", &xks::encrypt_with_cdiv(plaintext, None)).ok();
    client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None)).ok();
    client.post("keys/foo/encrypt", &xks::encrypt(plaintext, None).to_string().as_bytes()[1..]);
    // The log may lag behind.
    proxy.wait_for("the third call in the log", |proxy| {
        proxy.log().matches("4112f4d6-db54-4af4-ae30-c55a22a8dfae").count() >= 2
            && proxy.log().contains("ValidationException")
    });
    let log = proxy.log();
    let encoded = xks::base64(plaintext);
    let bytes = format!("{:?}", &plaintext[..8]);
    for secret in [
        &String::from_utf8_lossy(plaintext),
        encoded.as_str(),
        bytes.trim_matches(['[', ']']),
        &Store::first().secret_access_key,
        &Store::second().secret_access_key,
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

//! The specification's error table, row by row, as far as a peer can provoke the errors. (Those
//! that an HSM provokes are tested in `hsm_trouble`.)

use serde_json::{Value, json};

use crate::common::{Setup, token, xks};

/// Returns an encrypt request with a change.
fn encrypt(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = xks::encrypt(b"plaintext", Some(b"aad"));
    change(&mut body);
    body
}

/// Returns a decrypt request of a good ciphertext, with a change.
fn decrypt(change: impl FnOnce(&mut Value)) -> Value {
    let encrypted = xks::encrypt_here(&token::FULL, b"plaintext", Some(b"aad"), b"metadata");
    let mut body = xks::decrypt(&encrypted, Some(b"aad"));
    change(&mut body);
    body
}

fn without(mut body: Value, member: &str) -> Value {
    assert!(body.as_object_mut().unwrap().remove(member).is_some());
    body
}

#[test]
fn validation_exception() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let refuse = |call: &str, body: &[u8]| {
        eprintln!("{call} {}", String::from_utf8_lossy(body));
        client.post(call, body).assert_error(400, "ValidationException");
    };
    for call in ["health", "keys/foo/metadata", "keys/foo/encrypt", "keys/foo/decrypt"] {
        let bodies: [&[u8]; 11] = [
            b"",
            b" ",
            b"x",
            b"null",
            b"[]",
            b"{}",
            b"{\"requestMetadata\":{}}",
            b"{\"requestMetadata\":[]}",
            b"{\"requestMetadata\":",
            b"{\"requestMetadata\":{\"kmsRequestId\":1,\"kmsOperation\":\"x\"}}",
            b"\xff\xfe",
        ];
        for body in bodies {
            refuse(call, body);
        }
    }
    for body in [
        encrypt(|body| body["encryptionAlgorithm"] = json!("AES_CBC")),
        encrypt(|body| body["encryptionAlgorithm"] = json!("aes_gcm")),
        encrypt(|body| body["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_512")),
        encrypt(|body| body["plaintext"] = json!(1)),
        encrypt(|body| body["plaintext"] = json!(null)),
        encrypt(|body| body["plaintext"] = json!("QUJ")),
        encrypt(|body| body["plaintext"] = json!("QUI")),
        encrypt(|body| body["plaintext"] = json!("QUJ=")),
        encrypt(|body| body["plaintext"] = json!("QU JD")),
        encrypt(|body| body["plaintext"] = json!("QUJD\n")),
        encrypt(|body| body["plaintext"] = json!("QU-_")),
        encrypt(|body| body["plaintext"] = json!("=")),
        encrypt(|body| body["additionalAuthenticatedData"] = json!("*")),
        encrypt(|body| body["additionalAuthenticatedData"] = json!({})),
        without(xks::encrypt(b"", None), "plaintext"),
        without(xks::encrypt(b"", None), "encryptionAlgorithm"),
        without(xks::encrypt(b"", None), "requestMetadata"),
    ] {
        refuse("keys/foo/encrypt", body.to_string().as_bytes());
    }
    for member in ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"] {
        let mut body = xks::encrypt(b"", None);
        body["requestMetadata"].as_object_mut().unwrap().remove(member);
        refuse("keys/foo/encrypt", body.to_string().as_bytes());
    }
    for body in [
        decrypt(|body| body["ciphertext"] = json!("*")),
        decrypt(|body| body["initializationVector"] = json!("*")),
        decrypt(|body| body["authenticationTag"] = json!("*")),
        decrypt(|body| body["ciphertextMetadata"] = json!("*")),
        decrypt(|body| body["ciphertextMetadata"] = json!(xks::base64(&[0; 21]))),
        decrypt(|body| *body = without(body.clone(), "ciphertext")),
        decrypt(|body| *body = without(body.clone(), "initializationVector")),
        decrypt(|body| *body = without(body.clone(), "authenticationTag")),
    ] {
        refuse("keys/foo/decrypt", body.to_string().as_bytes());
    }
    let good = xks::encrypt(b"plaintext", None).to_string();
    refuse("keys/foo/encrypt", format!("{good}x").as_bytes());
    refuse("keys/foo/encrypt", format!("{good}{good}").as_bytes());
    let doubled = good.replacen('{', "{\"plaintext\":\"QUJD\",", 1);
    refuse("keys/foo/encrypt", doubled.as_bytes());
    client.post("keys/foo/encrypt", format!(" {good}\r\n").as_bytes()).ok();
}

#[test]
fn validation_exception_for_the_content_type() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let target = client.target("health");
    let body = xks::health().to_string();
    let post = |content_type: Option<&str>| {
        let mut headers = Vec::new();
        if let Some(value) = content_type {
            headers.push(("content-type".to_owned(), value.to_owned()));
        }
        headers.extend(client.sign("POST", &target, &headers, body.as_bytes()));
        let mut connection = client.connect();
        connection
            .send_request("POST", &target, &client.host(), &headers, body.as_bytes())
            .unwrap();
        connection.receive().unwrap()
    };
    post(Some("application/json")).ok();
    post(Some("Application/JSON;charset=UTF-8")).ok();
    for content_type in [None, Some("text/plain"), Some("application/jsonx"), Some("")] {
        post(content_type).assert_error(400, "ValidationException");
    }
}

#[test]
fn invalid_ciphertext_exception() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    client.call("keys/foo/decrypt", &decrypt(|_| {})).ok();
    let flip = |member: &'static str| {
        move |body: &mut Value| {
            let mut bytes = xks::bytes(&body[member]);
            bytes[3] ^= 1;
            body[member] = json!(xks::base64(&bytes));
        }
    };
    for body in [
        decrypt(flip("ciphertext")),
        decrypt(flip("initializationVector")),
        decrypt(flip("authenticationTag")),
        decrypt(flip("ciphertextMetadata")),
        decrypt(|body| body["additionalAuthenticatedData"] = json!(xks::base64(b"other"))),
        decrypt(|body| body["additionalAuthenticatedData"] = json!("")),
        decrypt(|body| *body = without(body.clone(), "additionalAuthenticatedData")),
        decrypt(|body| *body = without(body.clone(), "ciphertextMetadata")),
        decrypt(|body| body["ciphertext"] = json!("")),
        decrypt(|body| body["ciphertext"] = json!(xks::base64(b"longer than it was"))),
        decrypt(|body| body["initializationVector"] = json!(xks::base64(&[0; 11]))),
        decrypt(|body| body["initializationVector"] = json!(xks::base64(&[0; 13]))),
        decrypt(|body| body["initializationVector"] = json!(xks::base64(&[0; 16]))),
        decrypt(|body| body["initializationVector"] = json!("")),
        decrypt(|body| body["authenticationTag"] = json!(xks::base64(&[0; 15]))),
        decrypt(|body| body["authenticationTag"] = json!(xks::base64(&[0; 17]))),
        decrypt(|body| body["authenticationTag"] = json!("")),
    ] {
        eprintln!("{body}");
        let answer = client.call("keys/foo/decrypt", &body);
        answer.assert_error(400, "InvalidCiphertextException");
        // A bad ciphertext does not disturb the session.
        client.call("keys/foo/decrypt", &decrypt(|_| {})).ok();
    }
    let other_key = client.call("keys/bar/decrypt", &decrypt(|_| {}));
    other_key.assert_error(400, "InvalidCiphertextException");
}

/// Secondary authorization, tested further in `policy`.
#[test]
fn access_denied_exception() {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/configuration/oso.cedar");
    let proxy = Setup::new()
        .set("security.secondary_auth", "Cedar")
        .set("security.cedar.policy_file", policy)
        .start();
    let client = proxy.client();
    let rejected = encrypt(|body| body["requestMetadata"]["kmsViaService"] = json!("s3"));
    let answer = client.call("keys/foo/encrypt", &rejected);
    answer.assert_error(403, "AccessDeniedException");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    // The table's row does not include GetHealthStatus.
    client.call("health", &xks::health()).ok();
}

#[test]
fn invalid_uri_path_exception() {
    let proxy = Setup::new().start();
    let mut client = proxy.client();
    for call in [
        "",
        "healthy",
        "health/",
        "keys/foo",
        "keys/foo/sign",
        "keys/foo/encrypt/",
        "keys//encrypt",
        "keys/foo%20/encrypt",
        "keys/a/b/encrypt",
    ] {
        client.call(call, &xks::health()).assert_error(404, "InvalidUriPathException");
    }
    for prefix in ["", "/example", "/Example/uri/path/prefix", "/example/uri/path/prefix/x"] {
        client.signer.store.prefix = prefix.into();
        client.call("health", &xks::health()).assert_error(404, "InvalidUriPathException");
    }
}

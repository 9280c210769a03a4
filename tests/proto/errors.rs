//! The specification's error table, row by row, and HTTP's own errors.

use serde_json::{Value, json};
use xks_proxy::job::{Failure, ReturnCode};

use crate::calls::{b64, call, decrypt, encrypt, metadata};
use crate::rig::signer::Unsigned;
use crate::rig::{KEY, PREFIX, Rig};

fn encrypt_path() -> String {
    format!("keys/{KEY}/encrypt")
}

fn refused(request: &[u8], status: u16, name: &str) {
    let mut rig = Rig::usual();
    let answer = rig.ask(request);
    assert_eq!(answer.error(), (status, name.to_owned()), "{}", String::from_utf8_lossy(request));
    assert_eq!(rig.hsm.jobs, 0);
    // Regardless of the call's error, the connection stays open.
    assert!(!rig.is_closed() && !answer.closes());
}

/// Failures of the HSM side.
#[test]
fn failures_of_the_hsm() {
    let mut rig = Rig::usual();
    for (failure, status, name) in [
        (Failure::KeyNotFound, 404, "KeyNotFoundException"),
        (Failure::KeyAmbiguous(2), 400, "InvalidStateException"),
        (Failure::KeysDiffer, 400, "InvalidStateException"),
        (Failure::MayNotEncrypt, 400, "InvalidKeyUsageException"),
        (Failure::MayNotDecrypt, 400, "InvalidKeyUsageException"),
        (Failure::InvalidCiphertext, 400, "InvalidCiphertextException"),
        (Failure::TooLarge, 501, "UnsupportedOperationException"),
        (Failure::Overloaded, 429, "ThrottlingException"),
        (Failure::TimedOut, 503, "DependencyTimeoutException"),
        (Failure::NoToken, 503, "DependencyTimeoutException"),
        (Failure::CdivMismatch, 500, "InternalException"),
        (Failure::Malformed, 500, "InternalException"),
        (Failure::Defect, 500, "InternalException"),
        (Failure::Pkcs11(ReturnCode::Other(0x30)), 500, "InternalException"),
    ] {
        rig.hsm.failure = Some(failure);
        let answer = rig.ask(&call(&encrypt_path(), &encrypt(b"x", None)));
        assert_eq!(answer.error(), (status, name.to_owned()), "{failure:?}");
        assert!(!rig.is_closed());
    }
    rig.hsm.failure = None;
    let body = json!({"requestMetadata": metadata()});
    let answer = rig.ask(&call("keys/not-in-hsm/metadata", &body));
    assert_eq!(answer.error(), (404, "KeyNotFoundException".to_owned()));
}

/// A key of another store and one that no store has are both unknown here.
#[test]
fn keys_outside_the_store_are_not_found() {
    for key in ["key-3", "key-9", "KEY-1", "key-1."] {
        refused(
            &call(&format!("keys/{key}/encrypt"), &encrypt(b"x", None)),
            404,
            "KeyNotFoundException",
        );
    }
}

/// XKS specification: InvalidUriPathException for an invalid path, checked before anything else.
#[test]
fn paths_that_do_not_exist() {
    for target in [
        "/".to_owned(),
        "/kms/xks/v1/health".to_owned(),
        format!("{PREFIX}/kms/xks/v1"),
        format!("{PREFIX}/kms/xks/v1/"),
        format!("{PREFIX}/kms/xks/v1/keys"),
        format!("{PREFIX}/kms/xks/v1/health/"),
        format!("{PREFIX}/kms/xks/v2/health"),
        format!("{PREFIX}//kms/xks/v1/health"),
        format!("{PREFIX}/x/../kms/xks/v1/health"),
        format!("{PREFIX}/%6bms/xks/v1/health"),
        format!("{PREFIX}/kms/xks/v1/keys/{KEY}/sign"),
        format!("{PREFIX}/kms/xks/v1/keys/{KEY}/encrypt/x"),
        format!("{PREFIX}/kms/xks/v1/keys/a%2Fb/encrypt"),
        format!("{PREFIX}/kms/xks/v1/keys/{}/encrypt", "k".repeat(129)),
        format!("{}/kms/xks/v1/health", PREFIX.to_uppercase()),
    ] {
        for method in ["POST", "GET"] {
            let request =
                format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            refused(request.as_bytes(), 404, "InvalidUriPathException");
        }
    }
}

/// XKS specification: GET on the URI of any of the four calls gets a 405.
#[test]
fn other_methods_are_not_allowed() {
    for path in ["health".to_owned(), encrypt_path(), format!("keys/{KEY}/metadata")] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "post", "PATCH"] {
            let mut rig = Rig::usual();
            let request =
                format!("{method} {PREFIX}/kms/xks/v1/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = rig.ask(request.as_bytes());
            assert_eq!(answer.error(), (405, "ValidationException".to_owned()), "{method}");
            assert_eq!(answer.field("allow"), Some("POST"));
        }
    }
}

/// Not even a correct body is read without a valid signature.
#[test]
fn the_signature_comes_before_the_body() {
    let target = format!("{PREFIX}/kms/xks/v1/{}", encrypt_path());
    let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{{");
    refused(request.as_bytes(), 401, "AuthenticationFailedException");
}

/// XKS specification, API content type.
#[test]
fn the_content_type_is_json() {
    for (value, is_good) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/json ;x=y", true),
        ("application/jsonp", false),
        ("application/x-amz-json-1.1", false),
        ("text/plain", false),
        ("", false),
    ] {
        let mut request = Unsigned::call(&encrypt_path(), encrypt(b"x", None).to_string());
        request.headers[1].1 = value.to_owned();
        let mut rig = Rig::usual();
        let answer = rig.ask(&request.signed());
        if is_good {
            assert_eq!(answer.status, 200, "{value}");
        } else {
            assert_eq!(answer.error(), (400, "ValidationException".to_owned()), "{value}");
        }
    }
    let mut request = Unsigned::call(&encrypt_path(), encrypt(b"x", None).to_string());
    request.headers.truncate(1);
    refused(&request.signed(), 400, "ValidationException");
}

/// Each member that encrypt and decrypt require, and each invalid form of it.
#[test]
fn members() {
    let base = [
        ("encrypt", encrypt(b"x", Some(b"a"))),
        (
            "decrypt",
            decrypt(
                &json!({
                    "ciphertext": b64(b"x"),
                    "initializationVector": b64(&[1; 12]),
                    "authenticationTag": b64(&[1; 16]),
                    "ciphertextMetadata": b64(b"m"),
                }),
                Some(b"a"),
            ),
        ),
    ];
    let optional =
        ["additionalAuthenticatedData", "ciphertextMetadata", "kmsViaService", "awsPrincipalArn"];
    for (path, good) in base {
        let path = format!("keys/{KEY}/{path}");
        for member in good.as_object().unwrap().keys() {
            let mut missing = good.clone();
            missing.as_object_mut().unwrap().remove(member);
            if !optional.contains(&member.as_str()) {
                refused(&call(&path, &missing), 400, "ValidationException");
            }
            for wrong in [Value::Null, json!(1), json!(true), json!([]), json!({}), json!("*")] {
                let mut body = good.clone();
                body[member] = wrong;
                refused(&call(&path, &body), 400, "ValidationException");
            }
        }
    }
    let path = encrypt_path();
    for algorithm in ["AES_GCM_256", "aes_gcm", "", "RSAES_OAEP_SHA_256"] {
        let mut body = encrypt(b"x", None);
        body["encryptionAlgorithm"] = algorithm.into();
        refused(&call(&path, &body), 400, "ValidationException");
    }
    for algorithm in [json!("SHA_512"), json!(""), Value::Null] {
        let mut body = encrypt(b"x", None);
        body["ciphertextDataIntegrityValueAlgorithm"] = algorithm;
        refused(&call(&path, &body), 400, "ValidationException");
    }
}

/// Required sizes of decrypt's members (XKS specification, Decrypt).
#[test]
fn sizes_of_decrypt_s_members() {
    let path = format!("keys/{KEY}/decrypt");
    for (iv, tag, ciphertext_metadata, name) in [
        (0, 16, 0, "InvalidCiphertextException"),
        (11, 16, 0, "InvalidCiphertextException"),
        (13, 16, 0, "InvalidCiphertextException"),
        (17, 16, 0, "InvalidCiphertextException"),
        (300, 16, 0, "InvalidCiphertextException"),
        (12, 0, 0, "InvalidCiphertextException"),
        (12, 15, 0, "InvalidCiphertextException"),
        (16, 17, 0, "InvalidCiphertextException"),
        (12, 16, 21, "ValidationException"),
    ] {
        let body = json!({
            "requestMetadata": metadata(),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertext": b64(b"x"),
            "initializationVector": b64(&vec![1; iv]),
            "authenticationTag": b64(&vec![1; tag]),
            "ciphertextMetadata": b64(&vec![1; ciphertext_metadata]),
        });
        refused(&call(&path, &body), 400, name);
    }
}

/// A value above the configured limit, in a body that is within the limit.
#[test]
fn values_above_the_configured_limits() {
    let path = encrypt_path();
    for body in [encrypt(&[1; 6_145], None), encrypt(b"x", Some(&[1; 12_289]))] {
        refused(&call(&path, &body), 501, "UnsupportedOperationException");
    }
    let mut rig = Rig::usual();
    for body in [encrypt(&[1; 6_144], None), encrypt(b"x", Some(&[1; 12_288]))] {
        assert_eq!(rig.ask(&call(&path, &body)).status, 200);
    }
    let body = json!({
        "requestMetadata": metadata(),
        "encryptionAlgorithm": "AES_GCM",
        "ciphertext": b64(&[1; 6_145]),
        "initializationVector": b64(&[1; 12]),
        "authenticationTag": b64(&[1; 16]),
    });
    refused(&call(&format!("keys/{KEY}/decrypt"), &body), 501, "UnsupportedOperationException");
}

/// A malformed request is answered with an HTTP status and a JSON body, then the connection ends.
#[test]
fn limits_and_malformed_requests_have_http_s_answers() {
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    let long = "a".repeat(9_000);
    for (request, status) in [
        (get(&format!("/{}", "a".repeat(256)), ""), 414),
        (get(&format!("/{long}"), ""), 414),
        (format!("GET /{long}").into_bytes(), 414),
        (get("/ping", &format!("X: {long}\r\n")), 431),
        (format!("GET /ping HTTP/1.1\r\nX: {long}").into_bytes(), 431),
        (get("/ping", &"X: a\r\n".repeat(64)), 431),
        (get("/ping", "Content-Length: 99999\r\n"), 413),
        (get("/ping", "Content-Length: 99999999999999999999999\r\n"), 413),
        ([get("/ping", "Transfer-Encoding: chunked\r\n"), b"FFFFF\r\n".to_vec()].concat(), 413),
        (get("/ping", "Transfer-Encoding: gzip, chunked\r\n"), 501),
        (get("/ping", "Transfer-Encoding: identity\r\n"), 501),
        (get("/ping", "Expect: the-impossible\r\n"), 417),
        (b"GET /ping HTTP/2.0\r\n\r\n".to_vec(), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        (b"GET /ping\r\n\r\n".to_vec(), 400),
        (b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        (b"GET /ping HTTP/1.1\nHost: a\n\n\r\n\r\n".to_vec(), 400),
        (b"GET /ping HTTP/1.1\r\n\r\n".to_vec(), 400),
        (get("/ping", "Host: b\r\n"), 400),
        (get("*", ""), 400),
        (get("/ping#x", ""), 400),
        (get("ftp://a/ping", ""), 400),
        ([get("/ping", "Transfer-Encoding: chunked\r\n"), b"zz\r\n".to_vec()].concat(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        (b"\0\0\0\0\r\n\r\n".to_vec(), 400),
    ] {
        let mut rig = Rig::usual();
        let answer = rig.ask(&request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert_eq!(answer.status, status, "{shown}");
        answer.error_name();
        assert!(answer.closes() && rig.is_closed(), "{shown}");
    }
}

/// The largest head and the largest target are accepted, whether split or in one piece.
#[test]
fn what_is_just_within_the_limits_is_taken() {
    let start = "GET /ping HTTP/1.1\r\nHost: a\r\nX: ";
    let fill = "a".repeat(8_192 - start.len() - 4);
    let request = format!("{start}{fill}\r\n\r\n");
    assert_eq!(request.len(), 8_192);
    for piece in [1, 4_095, 8_192] {
        let mut rig = Rig::usual();
        rig.send_in_pieces(request.as_bytes(), piece);
        assert_eq!(rig.responses()[0].status, 200, "{piece}");
    }
    let target = format!("/ping?{}", "a".repeat(250));
    assert_eq!(
        Rig::usual().ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).status,
        200
    );
    let mut rig = Rig::usual();
    let many = "X: a\r\n".repeat(63);
    let answer = rig.ask(format!("GET /ping HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes());
    assert_eq!(answer.status, 200);
}

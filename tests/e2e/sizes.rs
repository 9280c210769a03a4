//! Sizes at the specification's limits, and above them.

use serde_json::json;

use crate::calls::round_trip;
use crate::common::{Setup, token, xks};

fn bytes(count: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(count).collect()
}

/// XKS specification, Encrypt: a plaintext of 4,300 bytes and an AAD of 8,192 bytes must be
/// accepted.
#[test]
fn what_must_be_taken() {
    let proxy = Setup::new().tls().start();
    let client = proxy.client();
    for (plaintext, aad) in [(4300, 8192), (0, 8192), (4300, 0), (1, 1), (15, 16), (16, 15)] {
        round_trip(&client, &token::FULL, &bytes(plaintext), Some(&bytes(aad)), b"");
    }
}

/// The limits count base64 characters: 8,192 of them are 6,144 bytes, 16,384 are 12,288.
#[test]
fn what_is_past_the_limits() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    round_trip(&client, &token::FULL, &bytes(6144), Some(&bytes(12_288)), b"");
    for (plaintext, aad) in [(6145, 0), (0, 12_289), (6145, 12_289)] {
        let (plaintext, aad) = (bytes(plaintext), bytes(aad));
        let body = xks::encrypt(&plaintext, Some(&aad));
        let response = client.call("keys/foo/encrypt", &body);
        response.assert_error(501, "UnsupportedOperationException");
        let encrypted = xks::encrypt_here(&token::FULL, &plaintext, Some(&aad), b"");
        let response = client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, Some(&aad)));
        response.assert_error(501, "UnsupportedOperationException");
    }
}

#[test]
fn limits_can_be_raised() {
    let proxy = Setup::new()
        .set("limits.max_plaintext_in_base64", 60_000)
        .set("limits.max_aad_in_base64", 87_380)
        // A generous deadline, since the machine may be busy.
        .set("limits.request_deadline_milli", 10_000)
        .start();
    round_trip(&proxy.client(), &token::FULL, &bytes(45_000), Some(&bytes(65_535)), b"");
}

/// ARNs of 2,048 characters, members that KMS may add, and an unknown operation are accepted.
#[test]
fn metadata_of_any_shape() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let arn = format!("arn:aws:iam::123456789012:role/{}", "r".repeat(2048 - 31));
    assert_eq!(arn.len(), 2048);
    for call in ["metadata", "encrypt"] {
        let mut body = xks::encrypt(b"plaintext", None);
        let metadata = &mut body["requestMetadata"];
        metadata["awsPrincipalArn"] = json!(arn);
        metadata["kmsKeyArn"] = json!(arn);
        metadata["kmsOperation"] = json!("AnOperationOfTheFuture");
        metadata["kmsRequestId"] = json!("\u{e9} \" \\ \u{1f600} any text");
        metadata["aMemberOfTheFuture"] = json!({"deep": [[[{"er": null}]]]});
        body["anotherMember"] = json!([1, -2.5e300, true, "text"]);
        client.call(&format!("keys/foo/{call}"), &body).ok();
    }
    let mut health = xks::health();
    health["requestMetadata"]["another"] = json!(1);
    health["andAnother"] = json!(2);
    client.call("health", &health).ok();
}

/// One character above the specification's limit is refused: longer values could fill the log.
#[test]
fn an_arn_that_is_too_long() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for member in ["awsPrincipalArn", "kmsKeyArn"] {
        let mut body = xks::encrypt(b"plaintext", None);
        body["requestMetadata"][member] = json!("a".repeat(2049));
        client.call("keys/foo/encrypt", &body).assert_error(400, "ValidationException");
    }
}

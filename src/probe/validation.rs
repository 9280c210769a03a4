//! Rules about malformed requests, unknown keys and unknown paths.

use serde_json::{Value, json};

use super::answers::{came, expect_error, is_denied};
use super::calls::{any_sealed, of_key, plaintext};
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};

const NO_PLAINTEXT: Rule = Rule::must(
    "validation.no-plaintext",
    "Encrypt; Error codes",
    "plaintext is required: 400 ValidationException.",
);
const PLAINTEXT_TYPE: Rule = Rule::must(
    "validation.plaintext-type",
    "Encrypt; Error codes",
    "plaintext is a string: 400 ValidationException.",
);
const BASE64: Rule = Rule::must(
    "validation.base64",
    "Encrypt; Error codes",
    "plaintext is base64: 400 ValidationException.",
);
const BASE64URL: Rule = Rule::should(
    "validation.base64url",
    "Background; Appendix E, 1.0.2",
    "Base64 is the standard one of RFC 4648, section 4, not the URL-safe one: 400 \
     ValidationException.",
);
const NO_ALGORITHM: Rule = Rule::must(
    "validation.no-algorithm",
    "Encrypt; Error codes",
    "encryptionAlgorithm is required: 400 ValidationException.",
);
const ALGORITHM: Rule = Rule::must(
    "validation.algorithm",
    "Encrypt; Error codes",
    "encryptionAlgorithm must be AES_GCM: 400 ValidationException or 501 \
     UnsupportedOperationException.",
);
const CDIV_ALGORITHM: Rule = Rule::must(
    "validation.cdiv-algorithm",
    "Encrypt; Error codes",
    "ciphertextDataIntegrityValueAlgorithm must be SHA_256: 400 ValidationException or 501 \
     UnsupportedOperationException.",
);
const NOT_JSON: Rule = Rule::must(
    "validation.not-json",
    "API content type; Error codes",
    "A body that is not JSON: 400 ValidationException.",
);
const EMPTY: Rule = Rule::must(
    "validation.empty-body",
    "API content type; Error codes",
    "No body: 400 ValidationException.",
);
const TRAILING: Rule = Rule::should(
    "validation.bytes-after-json",
    "(RFC 8259, 2)",
    "Bytes after the JSON object make the body invalid JSON: 400 ValidationException.",
);
const NO_METADATA: Rule = Rule::should(
    "validation.no-request-metadata",
    "GetKeyMetadata",
    "requestMetadata is in every request: 400 ValidationException.",
);
const EMPTY_METADATA: Rule = Rule::should(
    "validation.empty-request-metadata",
    "GetKeyMetadata",
    "awsPrincipalArn, kmsOperation and kmsRequestId are required: 400 ValidationException.",
);
const NO_KEY_ARN: Rule = Rule::should(
    "validation.no-key-arn",
    "Encrypt",
    "kmsKeyArn is required at Encrypt: 400 ValidationException.",
);
const HEALTH_METADATA: Rule = Rule::should(
    "validation.health-metadata",
    "GetHealthStatus",
    "kmsRequestId and kmsOperation are required: 400 ValidationException.",
);
const NO_TAG: Rule = Rule::must(
    "validation.no-tag",
    "Decrypt; Error codes",
    "authenticationTag is required: 400 ValidationException or InvalidCiphertextException.",
);
const NO_IV: Rule = Rule::must(
    "validation.no-iv",
    "Decrypt; Error codes",
    "initializationVector is required: 400 ValidationException or InvalidCiphertextException.",
);
const NO_CIPHERTEXT: Rule = Rule::must(
    "validation.no-ciphertext",
    "Decrypt; Error codes",
    "ciphertext is required: 400 ValidationException or InvalidCiphertextException.",
);
const KEY_METADATA: Rule = Rule::must(
    "key.unknown-metadata",
    "Error codes",
    "GetKeyMetadata of an unknown key: 404 KeyNotFoundException.",
);
const KEY_ENCRYPT: Rule = Rule::must(
    "key.unknown-encrypt",
    "Error codes",
    "Encrypt with an unknown key: 404 KeyNotFoundException.",
);
const KEY_DECRYPT: Rule = Rule::must(
    "key.unknown-decrypt",
    "Error codes",
    "Decrypt with an unknown key: 404 KeyNotFoundException.",
);
const PATH_CALL: Rule =
    Rule::must("path.unknown-call", "Error codes", "An unknown call: 404 InvalidUriPathException.");
const PATH_PREFIX: Rule = Rule::must(
    "path.unknown-prefix",
    "Error codes",
    "An unknown path prefix: 404 InvalidUriPathException.",
);
const GET: Rule = Rule::must(
    "path.get",
    "API operations",
    "GET at the path of a call must be rejected with 405.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &NO_PLAINTEXT,
    &PLAINTEXT_TYPE,
    &BASE64,
    &BASE64URL,
    &NO_ALGORITHM,
    &ALGORITHM,
    &CDIV_ALGORITHM,
    &NOT_JSON,
    &EMPTY,
    &TRAILING,
    &NO_METADATA,
    &EMPTY_METADATA,
    &NO_KEY_ARN,
    &HEALTH_METADATA,
    &NO_TAG,
    &NO_IV,
    &NO_CIPHERTEXT,
    &KEY_METADATA,
    &KEY_ENCRYPT,
    &KEY_DECRYPT,
    &PATH_CALL,
    &PATH_PREFIX,
    &GET,
];

const VALIDATION: &[&str] = &["ValidationException"];
const UNSUPPORTED: &[&str] = &["ValidationException", "UnsupportedOperationException"];
const INVALID: &[&str] = &["ValidationException", "InvalidCiphertextException"];

/// Id of a key that no HSM has.
const UNKNOWN_KEY: &str = "xks-proxy-probe.no-such-key";

/// Makes malformed requests.
pub fn bodies(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let caller = &prober.options.caller;
    let encrypt = caller.encrypt(&plaintext(), None, false);
    let decrypt = caller.decrypt(&any_sealed(), None);
    let without = |body: &Value, name: &str| {
        let mut body = body.clone();
        if let Some(object) = body.as_object_mut() {
            object.remove(name);
        }
        body.to_string()
    };
    let with = |name: &str, value: Value| {
        let mut body = encrypt.clone();
        body[name] = value;
        body.to_string()
    };
    let mut no_key_arn = encrypt.clone();
    if let Some(metadata) = no_key_arn["requestMetadata"].as_object_mut() {
        metadata.remove("kmsKeyArn");
    }
    let of = |call: &str| of_key(key_id, call);
    for (rule, call, body, names) in [
        (&NO_PLAINTEXT, of("encrypt"), without(&encrypt, "plaintext"), VALIDATION),
        (&PLAINTEXT_TYPE, of("encrypt"), with("plaintext", json!(1)), VALIDATION),
        (&BASE64, of("encrypt"), with("plaintext", json!("A*AA")), VALIDATION),
        (&BASE64URL, of("encrypt"), with("plaintext", json!("-_-_")), VALIDATION),
        (&NO_ALGORITHM, of("encrypt"), without(&encrypt, "encryptionAlgorithm"), VALIDATION),
        (&ALGORITHM, of("encrypt"), with("encryptionAlgorithm", json!("AES_CBC")), UNSUPPORTED),
        (
            &CDIV_ALGORITHM,
            of("encrypt"),
            with("ciphertextDataIntegrityValueAlgorithm", json!("SHA_512")),
            UNSUPPORTED,
        ),
        (&NOT_JSON, of("encrypt"), "no JSON".to_owned(), VALIDATION),
        (&EMPTY, of("encrypt"), String::new(), VALIDATION),
        (&TRAILING, of("encrypt"), format!("{encrypt}x"), VALIDATION),
        (&NO_METADATA, of("metadata"), "{}".to_owned(), VALIDATION),
        (&EMPTY_METADATA, of("metadata"), r#"{"requestMetadata":{}}"#.to_owned(), VALIDATION),
        (&NO_KEY_ARN, of("encrypt"), no_key_arn.to_string(), VALIDATION),
        (
            &HEALTH_METADATA,
            "/health".to_owned(),
            r#"{"requestMetadata":{}}"#.to_owned(),
            VALIDATION,
        ),
        (&NO_TAG, of("decrypt"), without(&decrypt, "authenticationTag"), INVALID),
        (&NO_IV, of("decrypt"), without(&decrypt, "initializationVector"), INVALID),
        (&NO_CIPHERTEXT, of("decrypt"), without(&decrypt, "ciphertext"), INVALID),
    ] {
        let reply = prober.post_text(&call, &body);
        report.add(rule, None, expect_error(&reply, names));
    }
}

/// Calls unknown keys and paths.
pub fn paths(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let caller = &prober.options.caller;
    for (rule, call, body) in [
        (&KEY_METADATA, "metadata", caller.key_metadata()),
        (&KEY_ENCRYPT, "encrypt", caller.encrypt(&plaintext(), None, false)),
        (&KEY_DECRYPT, "decrypt", caller.decrypt(&any_sealed(), None)),
    ] {
        let reply = prober.post(&of_key(UNKNOWN_KEY, call), &body);
        report.add(rule, None, expect_error(&reply, &["KeyNotFoundException"]));
    }
    let body = caller.encrypt(&plaintext(), None, false).to_string();
    let reply = prober.post_text(&of_key(key_id, "sign"), &body);
    report.add(&PATH_CALL, None, expect_error(&reply, &["InvalidUriPathException"]));

    let endpoint = &prober.options.endpoint;
    let path = format!("{}/no-such-store/kms/xks/v1/health", endpoint.prefix);
    let body = caller.health().to_string();
    let host = endpoint.host_header();
    let now = std::time::SystemTime::now();
    let signed = prober.options.signer.sign("POST", &host, &path, body.as_bytes(), now);
    let reply = prober.deliver_to("POST", &path, Some(signed), &body);
    report.add(&PATH_PREFIX, None, expect_error(&reply, &["InvalidUriPathException"]));

    let path = endpoint.path("/health");
    let signed = prober.options.signer.sign("GET", &host, &path, b"", now);
    let reply = prober.deliver_to("GET", &path, Some(signed), "");
    let outcome = match &reply {
        Ok(answer) if answer.status == 405 => Outcome::Held("405".to_owned()),
        Ok(answer) if is_denied(&reply) => Outcome::Doubtful(came(answer)),
        Ok(answer) => Outcome::Broken(came(answer)),
        Err(why) => Outcome::Broken(why.to_string()),
    };
    report.add(&GET, None, outcome);
}

//! The four calls as KMS makes them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::rig::signer::Unsigned;
use crate::rig::{KEY, PREFIX, Rig, service};

pub fn b64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

pub fn unb64(value: &Value) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(value.as_str().expect("a string")).expect("base64")
}

/// `requestMetadata` with all members that encrypt and decrypt require.
pub fn metadata() -> Value {
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": "Encrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kmsViaService": "ebs",
    })
}

pub fn call(path: &str, body: &Value) -> Vec<u8> {
    Unsigned::call(path, body.to_string()).signed()
}

pub fn encrypt(plaintext: &[u8], aad: Option<&[u8]>) -> Value {
    let mut body = json!({
        "requestMetadata": metadata(),
        "plaintext": b64(plaintext),
        "encryptionAlgorithm": "AES_GCM",
    });
    if let Some(aad) = aad {
        body["additionalAuthenticatedData"] = b64(aad).into();
    }
    body
}

/// Makes the decrypt request for encrypt's answer.
pub fn decrypt(answer: &Value, aad: Option<&[u8]>) -> Value {
    let mut body = json!({
        "requestMetadata": metadata(),
        "encryptionAlgorithm": "AES_GCM",
    });
    for member in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"]
    {
        if let Some(value) = answer.get(member) {
            body[member] = value.clone();
        }
    }
    if let Some(aad) = aad {
        body["additionalAuthenticatedData"] = b64(aad).into();
    }
    body
}

fn round_trip(rig: &mut Rig, plaintext: &[u8], aad: Option<&[u8]>) -> Value {
    let answer = rig.ask(&call(&format!("keys/{KEY}/encrypt"), &encrypt(plaintext, aad)));
    assert_eq!(answer.status, 200);
    let encrypted = answer.json();
    assert_eq!(unb64(&encrypted["ciphertext"]).len(), plaintext.len());
    let answer = rig.ask(&call(&format!("keys/{KEY}/decrypt"), &decrypt(&encrypted, aad)));
    assert_eq!(answer.status, 200);
    assert_eq!(unb64(&answer.json()["plaintext"]), plaintext);
    assert_eq!(answer.json().as_object().unwrap().len(), 1);
    encrypted
}

/// XKS specification, GetKeyMetadata: spec, usage and status, from the key's own attributes.
#[test]
fn metadata_tells_of_the_key() {
    let mut rig = Rig::usual();
    let body = json!({"requestMetadata": metadata()});
    let answer = rig.ask(&call(&format!("keys/{KEY}/metadata"), &body));
    assert_eq!(answer.status, 200);
    let expected = json!({
        "keySpec": "AES_256",
        "keyUsage": ["ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"],
        "keyStatus": "ENABLED",
    });
    assert_eq!(answer.json(), expected);

    rig.hsm.attributes.bits = 128;
    let answer = rig.ask(&call(&format!("keys/{KEY}/metadata"), &body));
    assert_eq!(answer.json()["keySpec"], "AES_128");
}

/// GetKeyMetadata needs no kmsKeyArn; GetHealthStatus needs neither that nor a principal.
#[test]
fn each_call_requires_its_own_metadata() {
    let mut rig = Rig::usual();
    let full = metadata();
    let key = format!("keys/{KEY}");
    for (path, required) in [
        (format!("{key}/metadata"), &["kmsRequestId", "kmsOperation", "awsPrincipalArn"][..]),
        ("health".to_owned(), &["kmsRequestId", "kmsOperation"]),
        (
            format!("{key}/encrypt"),
            &["kmsRequestId", "kmsOperation", "awsPrincipalArn", "kmsKeyArn"],
        ),
    ] {
        for member in full.as_object().unwrap().keys() {
            let mut body = encrypt(b"x", None);
            body["requestMetadata"].as_object_mut().unwrap().remove(member);
            let answer = rig.ask(&call(&path, &body));
            let is_required = required.contains(&member.as_str());
            assert_eq!(answer.status, if is_required { 400 } else { 200 }, "{path} {member}");
            if is_required {
                assert_eq!(answer.error_name(), "ValidationException");
                let message = answer.json()["errorMessage"].to_string();
                assert!(message.contains(member), "{message}");
            }
        }
    }
}

/// XKS specification, GetHealthStatus.
#[test]
fn health_tells_of_the_fleet() {
    let mut rig = Rig::usual();
    let body = json!({"requestMetadata": {"kmsRequestId": "", "kmsOperation": "KmsHealthCheck"}});
    let answer = rig.ask(&call("health", &body));
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!(json["xksProxyFleetSize"], 1);
    assert_eq!(json["ekmVendor"], "tests");
    let tokens = json!([{"id": "0123", "model": "memory 1.0", "healthStatus": "ACTIVE"}]);
    assert_eq!(json["ekmFleetDetails"], tokens);
    assert!(json["xksProxyVendor"].is_string() && json["xksProxyModel"].is_string());
    assert_eq!(rig.hsm.jobs, 0, "health is answered from what the probes found");
}

/// Encrypted plaintexts can be decrypted again, at every size up to the specification's maximum.
#[test]
fn encrypt_and_decrypt_at_all_sizes() {
    let mut rig = Rig::usual();
    for plaintext in [0, 1, 2, 3, 32, 4_300] {
        let plaintext: Vec<u8> =
            (0..plaintext).map(|index| u8::try_from(index % 251).unwrap()).collect();
        for aad in [None, Some(0), Some(1), Some(33), Some(8_192)] {
            let aad = aad.map(|length| vec![0xA5; length]);
            for iv_bytes in [12, 16] {
                rig.hsm.iv_bytes = iv_bytes;
                let answer = round_trip(&mut rig, &plaintext, aad.as_deref());
                assert_eq!(unb64(&answer["initializationVector"]).len(), iv_bytes);
                assert_eq!(unb64(&answer["authenticationTag"]).len(), 16);
                assert!(answer.get("ciphertextMetadata").is_none());
                assert!(answer.get("ciphertextDataIntegrityValue").is_none());
            }
        }
    }
}

/// The AAD passed to the HSM determines whether ciphertexts can move between proxies.
#[test]
fn the_hsm_s_aad_has_its_exact_form() {
    let digest = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    let aad = b"project=nile,department=marketing";
    for (given, metadata, expected) in [
        (None, None, [&[0, 0][..], &[0]].concat()),
        (Some(&b""[..]), None, [&[0, 0][..], &digest(b""), &[0]].concat()),
        (Some(aad), None, [&[0, 33][..], &digest(aad), &[0]].concat()),
        (None, Some(&b"v1"[..]), [&[0, 0][..], &[2], b"v1"].concat()),
        (Some(&[7; 0x1234]), Some(&[9; 20]), {
            [&[0x12, 0x34][..], &digest(&[7; 0x1234]), &[20], &[9; 20]].concat()
        }),
    ] {
        let mut service = service();
        service.options.ciphertext_metadata = metadata.map(<[u8]>::to_vec);
        let mut rig = Rig::new(service);
        let encrypted = round_trip(&mut rig, b"Hello World!", given);
        assert_eq!(rig.hsm.last_aad, expected, "decrypt");
        rig.ask(&call(&format!("keys/{KEY}/encrypt"), &encrypt(b"Hello World!", given)));
        assert_eq!(rig.hsm.last_aad, expected, "encrypt");
        let shown = encrypted.get("ciphertextMetadata").map(unb64);
        assert_eq!(shown.as_deref(), metadata);
    }
}

/// A caller must not be able to pass metadata off as AAD, or an empty AAD as an absent one (XKS
/// specification, Encrypt, ciphertextMetadata, NOTE).
#[test]
fn aad_and_metadata_are_kept_apart() {
    let mut service = service();
    service.options.ciphertext_metadata = Some(b"v1".to_vec());
    let mut rig = Rig::new(service);
    let encrypted = round_trip(&mut rig, b"secret", None);
    let mut swapped = decrypt(&encrypted, Some(b"v1"));
    swapped.as_object_mut().unwrap().remove("ciphertextMetadata");
    let empty = decrypt(&encrypted, Some(b""));
    let mut changed = decrypt(&encrypted, None);
    changed["ciphertextMetadata"] = b64(b"v2").into();
    let mut removed = decrypt(&encrypted, None);
    removed.as_object_mut().unwrap().remove("ciphertextMetadata");
    for body in [swapped, empty, changed, removed] {
        let answer = rig.ask(&call(&format!("keys/{KEY}/decrypt"), &body));
        assert_eq!(answer.error(), (400, "InvalidCiphertextException".to_owned()), "{body}");
    }
}

/// Each part of a ciphertext is bound to the other parts and to the key.
#[test]
fn a_changed_ciphertext_does_not_decrypt() {
    let mut rig = Rig::usual();
    let encrypted = round_trip(&mut rig, b"secret", Some(b"aad"));
    for member in ["ciphertext", "initializationVector", "authenticationTag"] {
        let mut body = decrypt(&encrypted, Some(b"aad"));
        let mut bytes = unb64(&body[member]);
        bytes[0] ^= 1;
        body[member] = b64(&bytes).into();
        let answer = rig.ask(&call(&format!("keys/{KEY}/decrypt"), &body));
        assert_eq!(answer.error(), (400, "InvalidCiphertextException".to_owned()), "{member}");
    }
    for (key, aad) in [(KEY, &b"AAD"[..]), ("key-2", b"aad")] {
        let body = decrypt(&encrypted, Some(aad));
        let answer = rig.ask(&call(&format!("keys/{key}/decrypt"), &body));
        assert_eq!(answer.error(), (400, "InvalidCiphertextException".to_owned()));
    }
}

/// XKS specification, Appendix C: a hash of AAD, metadata, IV, ciphertext and tag, without lengths.
#[test]
fn cdiv_is_over_all_parts_in_order() {
    for metadata in [None, Some(b"key_version=1".to_vec())] {
        for aad in [None, Some(&b""[..]), Some(b"project=nile,department=marketing")] {
            let mut service = service();
            service.options.ciphertext_metadata.clone_from(&metadata);
            let mut rig = Rig::new(service);
            let mut body = encrypt(b"Hello World!", aad);
            body["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256".into();
            let answer = rig.ask(&call(&format!("keys/{KEY}/encrypt"), &body));
            assert_eq!(answer.status, 200);
            let json = answer.json();
            let parts = [
                aad.unwrap_or_default().to_vec(),
                metadata.clone().unwrap_or_default(),
                unb64(&json["initializationVector"]),
                unb64(&json["ciphertext"]),
                unb64(&json["authenticationTag"]),
            ];
            let expected = Sha256::digest(parts.concat());
            assert_eq!(unb64(&json["ciphertextDataIntegrityValue"]), expected[..]);
        }
    }
}

/// The example in the specification (Appendix C): the prefix in the job, continued with the
/// example's IV, ciphertext and tag, gives the example's value.
#[test]
fn cdiv_of_appendix_c() {
    use xks_proxy::job::Operation;

    let mut service = service();
    service.options.ciphertext_metadata = Some(b"key_version=1".to_vec());
    let mut rig = Rig::new(service);
    rig.hold_jobs = true;
    let mut body = encrypt(b"Hello World!", Some(b"project=nile,department=marketing"));
    body["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256".into();
    rig.send(&call(&format!("keys/{KEY}/encrypt"), &body));
    let job = rig.jobs.pop_front().unwrap();
    let Operation::Encrypt { cdiv: Some(prefix) } = &job.request.operation else {
        panic!("a CDIV was asked for");
    };
    let part = |text: &str| base64_simd::STANDARD.decode_to_vec(text).unwrap();
    let value = prefix
        .clone()
        .chain_update(part("HMrlRw85cAJUd5Ax"))
        .chain_update(part("ghxkK1txeDNn3q8Y"))
        .chain_update(part("vBxN2ncH1oEkR8WVXpmyYQ=="))
        .finalize();
    assert_eq!(b64(&value), "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
}

/// The answer contains the metadata that the ciphertext is bound to, even if the settings changed
/// while the HSM was at work: with any other, it could never be decrypted.
#[test]
fn metadata_in_the_answer_is_that_in_the_aad() {
    use std::sync::Arc;

    let mut old = service();
    old.options.ciphertext_metadata = Some(b"old".to_vec());
    let mut rig = Rig::new(old);
    rig.hold_jobs = true;
    rig.send(&call(&format!("keys/{KEY}/encrypt"), &encrypt(b"secret", None)));
    let mut new = service();
    new.options.ciphertext_metadata = Some(b"new".to_vec());
    rig.loop_state.service = Arc::new(new);
    assert!(rig.work());
    let answer = rig.responses().remove(0);
    assert_eq!(unb64(&answer.json()["ciphertextMetadata"]), b"old");
}

/// XKS specification: an unknown kmsOperation, members that KMS may add and an opaque kmsRequestId
/// are no reason to refuse a call.
#[test]
fn what_kms_may_add_is_accepted() {
    let mut rig = Rig::usual();
    let mut body = encrypt(b"x", None);
    body["requestMetadata"]["kmsOperation"] = "BulkEncrypt".into();
    body["requestMetadata"]["kmsRequestId"] = "no uuid \u{1F600} \" \\".into();
    body["requestMetadata"]["awsSourceVpc"] = "vpc-1".into();
    body["requestMetadata"]["awsSourceVpce"] = "vpce-1".into();
    body["requestMetadata"]["SourceIdentity"] = json!({"requestMetadata": [1, {"a": null}]});
    body["requestMetadata"]["tags"] = json!(["a", 1.5e300, true]);
    body["plaintextHint"] = json!({"plaintext": "?"});
    body["ciphertext"] = json!([[["not a member of encrypt"]]]);
    let answer = rig.ask(&call(&format!("keys/{KEY}/encrypt"), &body));
    assert_eq!(answer.status, 200);
}

/// ARNs of up to 2,048 characters must be supported; longer ones are not ARNs.
#[test]
fn arns_have_their_length() {
    let mut rig = Rig::usual();
    for member in ["awsPrincipalArn", "kmsKeyArn"] {
        for (length, status) in [(2_048, 200), (2_049, 400)] {
            let mut body = encrypt(&[1; 4_300], Some(&[2; 8_192]));
            body["requestMetadata"]["awsPrincipalArn"] = "p".repeat(2_048).into();
            body["requestMetadata"]["kmsKeyArn"] = "k".repeat(2_048).into();
            body["requestMetadata"][member] = "a".repeat(length).into();
            let answer = rig.ask(&call(&format!("keys/{KEY}/encrypt"), &body));
            assert_eq!(answer.status, status, "{member} {length}");
        }
    }
}

/// With `is_sigv4_auth_enabled = false`, requests need no signature.
#[test]
fn signatures_can_be_switched_off() {
    let mut service = service();
    service.options.is_sigv4_auth_enabled = false;
    let mut rig = Rig::new(service);
    let body = json!({"requestMetadata": metadata()}).to_string();
    let request = format!(
        "POST {PREFIX}/kms/xks/v1/keys/{KEY}/metadata HTTP/1.1\r\nHost: a\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(rig.ask(request.as_bytes()).status, 200);
}

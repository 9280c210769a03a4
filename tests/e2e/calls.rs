//! The four calls, over each transport, checked against an independent AES-GCM.

use serde_json::{Value, json};

use crate::common::token::{self, Key};
use crate::common::{Client, Proxy, Setup, xks};

const METADATA: &[u8] = b"key version 7";

/// Makes every call once, as KMS does when a key store is connected and a key is created and used.
pub fn four_calls(proxy: &Proxy, metadata: &[u8]) {
    let client = proxy.client();
    let health = client.call("health", &xks::health()).ok();
    assert!(health["xksProxyFleetSize"].as_u64().is_some_and(|size| size > 0), "{health}");
    for member in ["xksProxyVendor", "xksProxyModel", "ekmVendor"] {
        assert!(health[member].as_str().is_some_and(|text| !text.is_empty()), "{health}");
    }
    let fleet = health["ekmFleetDetails"].as_array().unwrap();
    assert!((1..=10).contains(&fleet.len()));
    for ekm in fleet {
        assert!(ekm["id"].is_string() && ekm["model"].is_string(), "{health}");
        assert_eq!(ekm["healthStatus"], "ACTIVE");
    }

    let described = client.call("keys/foo/metadata", &xks::metadata("DescribeKey")).ok();
    assert_eq!(described["keyStatus"], "ENABLED");

    let plaintexts: [&[u8]; 3] = [b"", b"x", b"a data key is 32 bytes, but it's encoded"];
    for plaintext in plaintexts {
        for aad in [None, Some(b"".as_slice()), Some(b"project=nile".as_slice())] {
            round_trip(&client, &token::FULL, plaintext, aad, metadata);
        }
    }
}

/// Encrypts through the proxy and decrypts here; encrypts here and decrypts through the proxy.
#[track_caller]
pub fn round_trip(
    client: &Client,
    key: &Key,
    plaintext: &[u8],
    aad: Option<&[u8]>,
    metadata: &[u8],
) {
    let encrypt = format!("keys/{}/encrypt", key.label);
    let decrypt = format!("keys/{}/decrypt", key.label);
    let encrypted = client.call(&encrypt, &xks::encrypt_with_cdiv(plaintext, aad)).ok();
    assert_eq!(xks::bytes(&encrypted["ciphertext"]).len(), plaintext.len());
    assert_eq!(xks::bytes(&encrypted["authenticationTag"]).len(), 16);
    assert_eq!(encrypted.get("ciphertextMetadata").map_or(Vec::new(), xks::bytes), metadata);
    assert_eq!(xks::bytes(&encrypted["ciphertextDataIntegrityValue"]), xks::cdiv(aad, &encrypted));
    let hsm_aad = xks::hsm_aad(aad, metadata);
    assert_eq!(xks::decrypt_here(key, &encrypted, &hsm_aad).as_deref(), Some(plaintext));

    for encrypted in [encrypted, xks::encrypt_here(key, plaintext, aad, metadata)] {
        let decrypted = client.call(&decrypt, &xks::decrypt(&encrypted, aad)).ok();
        assert_eq!(decrypted, json!({"plaintext": xks::base64(plaintext)}));
    }
    let unasked: Value = client.call(&encrypt, &xks::encrypt(plaintext, aad)).ok();
    assert!(unasked.get("ciphertextDataIntegrityValue").is_none(), "{unasked}");
}

#[test]
fn over_http() {
    four_calls(&Setup::new().start(), b"");
}

#[test]
fn over_https() {
    four_calls(&Setup::new().tls().start(), b"");
}

#[test]
fn over_https_with_client_certificates() {
    four_calls(&Setup::new().mtls().start(), b"");
}

/// Ciphertext metadata goes into the answer, the AAD and the CDIV.
#[test]
fn with_ciphertext_metadata() {
    let setup = Setup::new().set("server.ciphertext_metadata_b64", xks::base64(METADATA));
    four_calls(&setup.start(), METADATA);
}

/// GCM fails when an IV is reused with the same key.
#[test]
fn no_iv_comes_twice() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let mut connection = client.connect();
    let mut ivs = std::collections::HashSet::new();
    let body = xks::encrypt(b"the same", None).to_string();
    for _ in 0..1000 {
        client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
        let encrypted = connection.receive().unwrap().ok();
        let iv = xks::bytes(&encrypted["initializationVector"]);
        assert_eq!(iv.len(), 12);
        assert!(ivs.insert(iv));
    }
}

//! Keys: which are found, their permitted uses, and their metadata.

use serde_json::{Value, json};

use crate::common::token::{self, Key};
use crate::common::{Client, Response, Setup, xks};

fn encrypt(client: &Client, key: &Key) -> Response {
    client.call(&format!("keys/{}/encrypt", key.label), &xks::encrypt(b"plaintext", None))
}

fn encrypt_with_cdiv(client: &Client, key: &Key) -> Response {
    let body = xks::encrypt_with_cdiv(b"plaintext", None);
    client.call(&format!("keys/{}/encrypt", key.label), &body)
}

fn decrypt(client: &Client, key: &Key) -> Response {
    let encrypted = xks::encrypt_here(&Key { length: 32, ..*key }, b"plaintext", None, b"");
    client.call(&format!("keys/{}/decrypt", key.label), &xks::decrypt(&encrypted, None))
}

fn describe(client: &Client, key: &Key) -> Response {
    client.call(&format!("keys/{}/metadata", key.label), &xks::metadata("DescribeKey"))
}

#[test]
fn metadata_says_what_the_key_is() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for (key, spec, usage) in [
        (token::FULL, "AES_256", &["DECRYPT", "ENCRYPT"][..]),
        (token::SECOND, "AES_256", &["DECRYPT", "ENCRYPT", "SIGN", "UNWRAP", "VERIFY", "WRAP"]),
        (token::ENCRYPT_ONLY, "AES_256", &["ENCRYPT"]),
        (token::DECRYPT_ONLY, "AES_256", &["DECRYPT"]),
        (token::IMPOTENT, "AES_256", &["UNWRAP", "WRAP"]),
        (token::SHORT, "AES_128", &["DECRYPT", "ENCRYPT"]),
    ] {
        let mut described = describe(&client, &key).ok();
        let mut usages: Vec<String> = described["keyUsage"]
            .as_array_mut()
            .unwrap()
            .iter()
            .map(|usage| usage.as_str().unwrap().to_owned())
            .collect();
        usages.sort();
        described["keyUsage"] = json!(usages);
        let expected = json!({"keySpec": spec, "keyUsage": usage, "keyStatus": "ENABLED"});
        assert_eq!(described, expected, "{}", key.label);
    }
}

#[test]
fn key_usage() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let refused = |response: Response| response.assert_error(400, "InvalidKeyUsageException");

    encrypt(&client, &token::ENCRYPT_ONLY).ok();
    refused(decrypt(&client, &token::ENCRYPT_ONLY));
    // The verifying decrypt is not permitted either.
    refused(encrypt_with_cdiv(&client, &token::ENCRYPT_ONLY));

    decrypt(&client, &token::DECRYPT_ONLY).ok();
    refused(encrypt(&client, &token::DECRYPT_ONLY));
    refused(encrypt_with_cdiv(&client, &token::DECRYPT_ONLY));

    refused(encrypt(&client, &token::IMPOTENT));
    refused(encrypt_with_cdiv(&client, &token::IMPOTENT));
    refused(decrypt(&client, &token::IMPOTENT));
}

/// A label that fits two keys is refused: the key used for encryption would be arbitrary.
#[test]
fn a_label_of_two_keys_names_none() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for response in [
        describe(&client, &token::TWIN),
        encrypt(&client, &token::TWIN),
        decrypt(&client, &token::TWIN),
    ] {
        response.assert_error(400, "InvalidStateException");
    }
    encrypt(&client, &token::FULL).ok();
}

/// A setting for migration from a proxy that uses the first match.
#[test]
fn a_label_of_two_keys_may_be_allowed() {
    let proxy = Setup::new().set("pkcs11.allow_ambiguous_labels", true).start();
    let client = proxy.client();
    describe(&client, &token::TWIN).ok();
    decrypt(&client, &token::TWIN).ok();
    encrypt(&client, &token::TWIN).ok();
}

/// Only AES secret keys count.
#[test]
fn other_kinds_of_key() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    for response in [
        describe(&client, &token::GENERIC),
        encrypt(&client, &token::GENERIC),
        decrypt(&client, &token::GENERIC),
    ] {
        response.assert_error(404, "KeyNotFoundException");
    }
    let encrypted: Value = encrypt(&client, &token::SHARED).ok();
    let aad = xks::hsm_aad(None, b"");
    let plaintext = xks::decrypt_here(&token::SHARED, &encrypted, &aad);
    assert_eq!(plaintext.as_deref(), Some(b"plaintext".as_slice()));
}

/// An administrator creates a key in the HSM while the proxy runs, and deletes it.
#[test]
fn a_key_that_comes_and_goes() {
    let mut proxy = Setup::new().start();
    let client = proxy.client();
    encrypt(&client, &token::LATER).assert_error(404, "KeyNotFoundException");
    proxy.token().add(&token::LATER);
    proxy.wait_for("the new key to be found", |_| encrypt(&client, &token::LATER).status == 200);
    decrypt(&client, &token::LATER).ok();
    proxy.token().destroy(&token::LATER);
    proxy.wait_for("the key to be gone", |_| {
        let response = encrypt(&client, &token::LATER);
        if response.status != 200 {
            response.assert_error(404, "KeyNotFoundException");
        }
        response.status != 200
    });
    encrypt(&client, &token::FULL).ok();
}

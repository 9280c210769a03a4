//! Isolation of key stores: each has its own path, credential and keys.

use crate::common::{Client, Setup, Store, token, xks};

fn encrypt(client: &Client, key: &token::Key) -> crate::common::Response {
    client.call(&format!("keys/{}/encrypt", key.label), &xks::encrypt(b"plaintext", None))
}

#[test]
fn a_store_has_its_keys_alone() {
    let proxy = Setup::new().start();
    let first = proxy.client();
    let second = proxy.client_of(&Store::second());
    let not_found = |client: &Client, key| {
        encrypt(client, key).assert_error(404, "KeyNotFoundException");
        for call in ["metadata", "decrypt"] {
            let body = xks::decrypt(&xks::encrypt_here(key, b"", None, b""), None);
            let response = client.call(&format!("keys/{}/{call}", key.label), &body);
            response.assert_error(404, "KeyNotFoundException");
        }
    };
    encrypt(&first, &token::FULL).ok();
    encrypt(&first, &token::SECOND).ok();
    not_found(&first, &token::FOREIGN);
    encrypt(&second, &token::SECOND).ok();
    not_found(&second, &token::FULL);
    not_found(&second, &token::FOREIGN);
    let prefix_of_a_key = token::Key::new("fo", "");
    not_found(&first, &prefix_of_a_key);
    let other_case = token::Key::new("FOO", "");
    not_found(&first, &other_case);
}

#[test]
fn a_store_has_its_credential_alone() {
    let proxy = Setup::new().start();
    let crossed = [
        Store { prefix: Store::second().prefix, ..Store::first() },
        Store { prefix: Store::first().prefix, ..Store::second() },
        Store { secret_access_key: Store::first().secret_access_key, ..Store::second() },
    ];
    for store in crossed {
        let client = proxy.client_of(&store);
        encrypt(&client, &token::SECOND).assert_error(401, "AuthenticationFailedException");
    }
}

/// A ciphertext of one store can be decrypted in another that has the same key.
#[test]
fn stores_may_share_a_key() {
    let proxy = Setup::new().start();
    let encrypted = encrypt(&proxy.client(), &token::SECOND).ok();
    let second = proxy.client_of(&Store::second());
    let decrypted = second.call("keys/bar/decrypt", &xks::decrypt(&encrypted, None)).ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), b"plaintext");
}

/// The reference proxy's sample settings have a store with no prefix.
#[test]
fn an_empty_prefix() {
    let prepared = Setup::new().prepare();
    let text = std::fs::read_to_string(&prepared.settings_file).unwrap();
    let text = text.replace("\"/second/store\"", "\"\"");
    std::fs::write(&prepared.settings_file, text).unwrap();
    let proxy = prepared.start();
    let store = Store { prefix: String::new(), ..Store::second() };
    encrypt(&proxy.client_of(&store), &token::SECOND).ok();
    encrypt(&proxy.client(), &token::FULL).ok();
}

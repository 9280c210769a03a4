//! `xks-proxy keys rotate`, followed step by step.

use toml::{Table, Value};

use crate::common::token::{self, Module};
use crate::common::{Proxy, Setup, xks};

const ENCRYPT: &str = "keys/foo/encrypt";

/// Returns the first `[[external_key_stores.keys]]` that the command printed.
fn table_of(printed: &str) -> Table {
    let (_, lines) = printed.split_once("[[external_key_stores.keys]]\n").expect("a table");
    let (lines, _) = lines.split_once("\n\n").expect("the end of the table");
    lines.parse().unwrap()
}

/// Does what step 1 says: the table replaces the id in the first store.
fn step_1(proxy: &Proxy, table: Table) {
    proxy.change_settings(|settings| {
        let store =
            settings["external_key_stores"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        let set = store["xks_key_id_set"].as_array_mut().unwrap();
        set.retain(|id| id.as_str() != Some("foo"));
        store.insert("keys".to_owned(), Value::Array(vec![table.into()]));
    });
    reload(proxy);
}

/// Does what step 2 says.
fn step_2(proxy: &Proxy, version: i64) {
    proxy.change_settings(|settings| {
        let key = &mut settings["external_key_stores"][0]["keys"][0];
        key.as_table_mut().unwrap().insert("encrypt_with".to_owned(), version.into());
    });
    reload(proxy);
}

fn reload(proxy: &Proxy) {
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
}

/// Returns the version in the tag of a new ciphertext.
fn version_of(encrypted: &serde_json::Value) -> u32 {
    let Some(metadata) = encrypted["ciphertextMetadata"].as_str() else { return 1 };
    let bytes = base64_simd::STANDARD.decode_to_vec(metadata).unwrap();
    assert_eq!(bytes[..2], [0, 0x6b]);
    u32::from_be_bytes(bytes[2..].try_into().unwrap())
}

/// Rotates "foo" twice on a token of that module, as the command says.
fn rotates(module: Module) {
    let named = Table::from_iter([("label".to_owned(), module.token_label().into())]);
    let setup = Setup::with_module(module)
        .set("pkcs11.tokens", Value::Array(vec![named.into()]))
        .set("server.pid_file", "proxy.pid");
    let mut proxy = setup.start();
    let client = proxy.client();
    let encrypt = || client.call(ENCRYPT, &xks::encrypt(b"plaintext", None)).ok();
    let mut ciphertexts = vec![encrypt()];
    for (version, label) in [(2, None), (3, Some("third of foo"))] {
        let mut arguments = vec!["keys", "rotate", "foo", "--yes"];
        arguments.extend(label.map(|label| ["--label", label]).into_iter().flatten());
        let (code, printed) = proxy.run(&arguments);
        assert_eq!(code, Some(0), "{printed}");
        let table = table_of(&printed);
        let listed = table["versions"].as_array().unwrap();
        assert_eq!(listed.len(), usize::try_from(version).unwrap());
        assert_eq!(listed[0]["label"].as_str(), Some("foo"));
        let new = listed.last().unwrap();
        assert_eq!(new["version"].as_integer(), Some(version));
        match label {
            Some(label) => assert_eq!(new["label"].as_str(), Some(label)),
            // By default the year and month follow.
            None => {
                let month = new["label"].as_str().unwrap().strip_prefix("foo-20").unwrap();
                assert!(month.len() == 5 && month.as_bytes()[2] == b'-', "{month}");
            }
        }
        assert_eq!(table["encrypt_with"].as_integer(), Some(version - 1), "as before");
        assert!(printed.contains(&format!("\nencrypt_with = {version}\n")), "{printed}");
        let way_back = format!("The way back is encrypt_with = {}", version - 1);
        assert!(printed.contains(&way_back), "{printed}");
        let place = if version == 2 {
            "take \"foo\" out of xks_key_id_set"
        } else {
            "this replaces the table of \"foo\""
        };
        assert!(printed.contains(place), "{printed}");

        step_1(&proxy, table);
        ciphertexts.push(encrypt());
        step_2(&proxy, version);
        proxy.wait_for("the new version to encrypt", |_| {
            version_of(&encrypt()) == u32::try_from(version).unwrap()
        });
        ciphertexts.push(encrypt());
    }
    for encrypted in &ciphertexts {
        let answer = client.call("keys/foo/decrypt", &xks::decrypt(encrypted, None)).ok();
        assert_eq!(answer["plaintext"], xks::base64(b"plaintext"));
    }
    let versions: Vec<u32> = ciphertexts.iter().map(version_of).collect();
    assert_eq!(versions, [1, 1, 2, 2, 3]);
}

#[test]
fn on_softhsm2() {
    rotates(Module::SoftHsm2);
}

#[test]
fn on_kryoptic() {
    rotates(Module::Kryoptic);
}

#[test]
fn on_nss() {
    rotates(Module::Nss);
}

/// An id that several stores have is rotated in each of them.
#[test]
fn an_id_of_two_stores() {
    let prepared = Setup::new().prepare();
    let (code, printed) = prepared.run(&["keys", "rotate", token::SECOND.label, "--yes"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(printed.matches("[[external_key_stores.keys]]").count(), 2, "{printed}");
    for prefix in ["/example/uri/path/prefix", "/second/store"] {
        assert!(printed.contains(&format!("uri_path_prefix \"{prefix}\"")), "{printed}");
    }
}

/// With several tokens, the new version is made on the one that is named, and has to be replicated
/// before it is listed.
#[test]
fn on_one_of_two_tokens() {
    let names = [token::LABEL, "other"]
        .map(|label| Value::Table(Table::from_iter([("label".to_owned(), Value::from(label))])));
    let prepared = Setup::new().set("pkcs11.tokens", Value::Array(names.to_vec())).prepare();
    prepared.token.add_token("other", &[token::FULL]);
    let (code, printed) = prepared.run(&["keys", "rotate", "foo", "--yes"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("Say on which, with --on TOKEN"), "{printed}");
    let (code, printed) = prepared.run(&["keys", "rotate", "foo", "--on", "other", "--yes"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("Made on token \"other\""), "{printed}");
    let (before, _) = printed.split_once("\nSTEP 1").expect("the steps");
    assert!(before.contains("REPLICATE the key to the other tokens now"), "{printed}");
}

/// What cannot be rotated is refused before a key is made.
#[test]
fn refusals() {
    let mut prepared = Setup::new().prepare();
    let (code, printed) = prepared.run(&["keys", "rotate", "nobody", "--yes"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("no store has the external key id \"nobody\""), "{printed}");
    let (code, printed) = prepared.run(&["keys", "rotate", "foo", "--label", "bar", "--yes"]);
    assert_eq!(code, Some(69), "{printed}");
    assert!(printed.contains("has an object with CKA_LABEL \"bar\" already"), "{printed}");
    let (code, printed) = prepared.run(&["keys", "rotate", "foo"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("say --yes in scripts"), "{printed}");
    // Metadata that leaves no room for the tag would be refused in step 1.
    let metadata = xks::base64(&[7; 15]);
    prepared.change_settings("server.ciphertext_metadata_b64", metadata);
    let (code, printed) = prepared.run(&["keys", "rotate", "foo", "--yes"]);
    assert_eq!(code, Some(78), "{printed}");
    assert!(printed.contains("Nothing was made"), "{printed}");
}

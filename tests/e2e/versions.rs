//! Versions behind one external key id, with a token: rotation by reload, and what shows it.

use serde_json::{Value, json};
use toml::Table;

use crate::common::proxy::free_port;
use crate::common::token::{self, Key};
use crate::common::{Proxy, Setup, xks};

const ID: &str = "rotated";
const PLAINTEXT: &[u8] = b"32 bytes of a data key, or so...";
const AAD: &[u8] = b"project=nile,department=marketing";
const FIRST: Key = Key::new("rotated", "ed");
const SECOND: Key = Key::new("rotated 2026-11", "ed");
const THIRD: Key = Key::new("rotated-2027", "ed");

/// One version in the settings: number, key, and whether it is retired.
type Version = (u32, Key, bool);

/// The table of the key, as `[[external_key_stores.keys]]`.
fn table(versions: &[Version], encrypt_with: u32) -> toml::Value {
    let version = |(number, key, is_retired): &Version| {
        toml::Value::Table(Table::from_iter([
            ("version".to_owned(), i64::from(*number).into()),
            ("label".to_owned(), key.label.into()),
            ("retired".to_owned(), (*is_retired).into()),
        ]))
    };
    let versions = versions.iter().map(version).collect::<Vec<_>>();
    let key = Table::from_iter([
        ("id".to_owned(), ID.into()),
        ("versions".to_owned(), versions.into()),
        ("encrypt_with".to_owned(), i64::from(encrypt_with).into()),
    ]);
    toml::Value::Array(vec![key.into()])
}

fn setup() -> Setup {
    Setup::new().set("admin.port", free_port()).set("server.pid_file", "proxy.pid")
}

fn start(setup: Setup) -> Proxy {
    let prepared = setup.prepare();
    for key in [FIRST, SECOND, THIRD] {
        prepared.token.add(&key);
    }
    prepared.start()
}

#[track_caller]
fn reload(proxy: &Proxy, versions: &[Version], encrypt_with: u32) -> String {
    proxy.change_settings(|settings| {
        let stores = settings["external_key_stores"].as_array_mut().unwrap();
        let store = stores[0].as_table_mut().unwrap();
        let set = store["xks_key_id_set"].as_array_mut().unwrap();
        set.retain(|id| id.as_str() != Some(ID));
        store.insert("keys".to_owned(), table(versions, encrypt_with));
    });
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
    printed
}

/// Encrypts, and asserts that this key of the token did, with this metadata.
#[track_caller]
fn encrypts_with(proxy: &Proxy, key: &Key, metadata: &[u8]) -> Value {
    let call = format!("keys/{ID}/encrypt");
    let encrypted = proxy.client().call(&call, &xks::encrypt(PLAINTEXT, Some(AAD))).ok();
    let shown = encrypted.get("ciphertextMetadata").map(xks::bytes);
    assert_eq!(shown.unwrap_or_default(), metadata);
    let aad = xks::hsm_aad(Some(AAD), metadata);
    assert_eq!(xks::decrypt_here(key, &encrypted, &aad).as_deref(), Some(PLAINTEXT));
    encrypted
}

#[track_caller]
fn decrypts(proxy: &Proxy, encrypted: &Value) {
    let call = format!("keys/{ID}/decrypt");
    let answer = proxy.client().call(&call, &xks::decrypt(encrypted, Some(AAD))).ok();
    assert_eq!(xks::bytes(&answer["plaintext"]), PLAINTEXT);
}

/// `/status.json` about the key: each version with its state.
fn status(proxy: &Proxy) -> Value {
    let status = proxy.admin_get("/status.json").json();
    let of_key = status["keyVersions"].as_array().unwrap();
    let versions = of_key.iter().find(|key| key["externalKeyId"] == ID);
    let versions = versions.map_or(&[][..], |key| key["versions"].as_array().unwrap());
    versions.iter().map(|it| json!([it["version"], it["key"], it["state"]])).collect()
}

/// The samples about the key, as version and value.
fn samples(proxy: &Proxy, name: &str) -> Vec<String> {
    let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let start = format!("{name}{{store=\"/example/uri/path/prefix\",external_key_id=\"{ID}\",");
    text.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

/// A key of the usual set gets a second version, which is listed, used, taken back, used again, and
/// makes the first one superfluous. Everything encrypted on the way decrypts at each step until its
/// version is retired, and then again once that is taken back.
#[test]
fn from_one_version_to_the_next() {
    let setup = setup().set("server.ciphertext_metadata_b64", xks::base64(b"v1")).set_in_store(
        0,
        "xks_key_id_set",
        vec![ID, token::FULL.label],
    );
    let proxy = start(setup);
    assert_eq!(status(&proxy), json!([]));
    let mut made = vec![encrypts_with(&proxy, &FIRST, b"v1")];
    let (first, second) = ((1, FIRST, false), (2, SECOND, false));
    let tag = b"\x00\x6b\x00\x00\x00\x02v1";

    reload(&proxy, &[first, second], 1);
    made.push(encrypts_with(&proxy, &FIRST, b"v1"));
    assert_eq!(
        status(&proxy),
        json!([[1, FIRST.label, "encrypts"], [2, SECOND.label, "decrypts"]])
    );
    let encrypts = |proxy: &Proxy| samples(proxy, "xks_proxy_key_version_encrypts");
    let decrypts_now = |proxy: &Proxy| samples(proxy, "xks_proxy_key_version_decrypts");
    assert_eq!(encrypts(&proxy), ["version=\"1\"} 1", "version=\"2\"} 0"]);
    assert_eq!(decrypts_now(&proxy), ["version=\"1\"} 1", "version=\"2\"} 1"]);

    reload(&proxy, &[first, second], 2);
    made.push(encrypts_with(&proxy, &SECOND, tag));
    assert_eq!(encrypts(&proxy), ["version=\"1\"} 0", "version=\"2\"} 1"]);
    reload(&proxy, &[first, second], 1);
    made.push(encrypts_with(&proxy, &FIRST, b"v1"));
    reload(&proxy, &[first, second], 2);
    made.push(encrypts_with(&proxy, &SECOND, tag));
    made.iter().for_each(|encrypted| decrypts(&proxy, encrypted));

    reload(&proxy, &[(1, FIRST, true), second], 2);
    assert_eq!(status(&proxy), json!([[1, FIRST.label, "retired"], [2, SECOND.label, "encrypts"]]));
    assert_eq!(decrypts_now(&proxy), ["version=\"1\"} 0", "version=\"2\"} 1"]);
    let call = format!("keys/{ID}/decrypt");
    for (place, encrypted) in made.iter().enumerate() {
        if [2, 4].contains(&place) {
            decrypts(&proxy, encrypted);
        } else {
            let answer = proxy.client().call(&call, &xks::decrypt(encrypted, Some(AAD)));
            answer.assert_error(400, "InvalidStateException");
        }
    }
    reload(&proxy, &[first, second], 2);
    made.iter().for_each(|encrypted| decrypts(&proxy, encrypted));
}

/// The log line of a call whose version is missing says which one it is, and why.
#[test]
fn a_missing_version_is_in_the_log() {
    let proxy = start(setup().set_in_store(0, "xks_key_id_set", vec![ID]));
    reload(&proxy, &[(1, FIRST, false), (2, SECOND, false)], 2);
    let tag = b"\x00\x6b\x00\x00\x00\x02";
    let second = encrypts_with(&proxy, &SECOND, tag);
    proxy.log_with(&format!("externalKeyId={ID} keyVersion=2 "));
    reload(&proxy, &[(1, FIRST, false), (3, THIRD, false)], 1);
    let call = format!("keys/{ID}/decrypt");
    let answer = proxy.client().call(&call, &xks::decrypt(&second, Some(AAD)));
    answer.assert_error(500, "InternalException");
    let reason = "the ciphertext is of version 2 of the key, and the settings list 1, 3: either this \
                  replica has not been told of the version yet, or the version was taken out too soon";
    proxy.log_with(reason);
    // A replica that has no table for the key at all.
    proxy.change_settings(|settings| {
        let stores = settings["external_key_stores"].as_array_mut().unwrap();
        let store = stores[0].as_table_mut().unwrap();
        store.remove("keys").unwrap();
        store.insert("xks_key_id_set".to_owned(), vec![toml::Value::from(ID)].into());
    });
    assert_eq!(proxy.reload().0, Some(0));
    let answer = proxy.client().call(&call, &xks::decrypt(&second, Some(AAD)));
    answer.assert_error(500, "InternalException");
    let reason = "the HSM refuses the ciphertext, whose metadata names version 2 of the key";
    proxy.log_with(reason);
}

//! Versions behind one external key id, with a token: rotation by reload, and what shows it.

use serde_json::{Value, json};
use toml::Table;

use crate::common::proxy::free_port;
use crate::common::token::{self, Key};
use crate::common::{Interposed, Proxy, Setup, xks};
use crate::fixed_ciphertexts::FIXED;

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

/// Changes the table of the key in the settings file.
fn change(proxy: &Proxy, versions: &[Version], encrypt_with: u32) {
    proxy.change_settings(|settings| {
        let stores = settings["external_key_stores"].as_array_mut().unwrap();
        let store = stores[0].as_table_mut().unwrap();
        let set = store["xks_key_id_set"].as_array_mut().unwrap();
        set.retain(|id| id.as_str() != Some(ID));
        store.insert("keys".to_owned(), table(versions, encrypt_with));
    });
}

#[track_caller]
fn reload(proxy: &Proxy, versions: &[Version], encrypt_with: u32) {
    change(proxy, versions, encrypt_with);
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
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

/// A reload that would make the key encrypt with a version whose key no token has is refused, and
/// nothing changes. One that does not change the version is not refused.
#[test]
fn a_version_without_a_key_is_refused() {
    let missing = Key::new("not-made-yet", "ed");
    let unable = token::DECRYPT_ONLY;
    let proxy = start(setup().set_in_store(0, "xks_key_id_set", vec![ID]));
    let first = (1, FIRST, false);
    // It may be listed before the token has it.
    reload(&proxy, &[first, (2, missing, false), (3, unable, false)], 1);
    for (number, key) in [(2, missing), (3, unable)] {
        change(&proxy, &[first, (2, missing, false), (3, unable, false)], number);
        let (code, printed) = proxy.reload();
        assert_ne!(code, Some(0), "{printed}");
        let reason = format!(
            "the external key id \"{ID}\" of the store \"/example/uri/path/prefix\" would encrypt \
             with version {number}, and no usable token has a key \"{}\" that may encrypt",
            key.label
        );
        proxy.log_with(&reason.replace('"', "\\\""));
        encrypts_with(&proxy, &FIRST, b"");
    }
    proxy.token().add(&missing);
    reload(&proxy, &[first, (2, missing, false), (3, unable, false)], 2);
    encrypts_with(&proxy, &missing, b"\x00\x6b\x00\x00\x00\x02");
}

/// `check` and the log warn if a version encrypts that was never listed before, as the file in the
/// state directory says, and only then.
#[test]
fn a_version_that_was_not_listed_first() {
    let prepared = setup().set_in_store(0, "xks_key_id_set", vec![ID]).prepare();
    for key in [FIRST, SECOND, THIRD] {
        prepared.token.add(&key);
    }
    let directory = prepared.directory().join("state").to_str().unwrap().to_owned();
    let mut proxy = prepared.start_with("state.directory", directory.as_str());
    let file = std::path::Path::new(&directory).join("versions");
    let recorded = |versions: usize| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().count() == 1 + versions
    };
    proxy.wait_for("the file of versions", |_| recorded(0));
    let (first, second, third) = ((1, FIRST, false), (2, SECOND, false), (3, THIRD, false));
    let warned = "would encrypt with version 3, which this proxy has never listed";
    let logged = "this version encrypts without having been listed first";

    reload(&proxy, &[first, second], 1);
    proxy.wait_for("the versions to be recorded", |_| recorded(2));
    change(&proxy, &[first, second], 2);
    let (code, printed) = proxy.run(&["check"]);
    assert_eq!((code, printed.contains("has never listed")), (Some(0), false), "{printed}");
    reload(&proxy, &[first, second], 2);
    assert!(!proxy.log().contains(logged));

    change(&proxy, &[first, second, third], 3);
    let (code, printed) = proxy.run(&["check"]);
    assert_eq!((code, printed.contains(warned)), (Some(0), true), "{printed}");
    reload(&proxy, &[first, second, third], 3);
    proxy.log_with(logged);
    proxy.wait_for("the new version to be recorded", |_| recorded(3));
    let (_, printed) = proxy.run(&["check"]);
    assert!(!printed.contains("has never listed"), "{printed}");
}

/// The maker of a ciphertext, encrypt's answer, the AAD and the plaintext.
type Made<'m> = (&'m str, Value, Option<&'m [u8]>, Vec<u8>);

/// The same with a token: ciphertexts of the sample proxy, of an earlier release and of all three
/// versions decrypt through a proxy with three versions, under no other id, and not with a bit
/// changed.
#[test]
fn all_ciphertexts_decrypt_with_three_versions() {
    let other_ids = vec![token::SECOND.label];
    let proxy = start(setup().set_in_store(0, "xks_key_id_set", other_ids));
    let versions = [(1, token::FULL, false), (2, SECOND, false), (3, THIRD, false)];
    let mut made: Vec<Made<'_>> = FIXED
        .iter()
        .map(|fixed| (fixed.by, fixed.answer(), fixed.aad, fixed.plaintext.to_vec()))
        .collect();
    for (number, key, _) in versions {
        reload(&proxy, &versions, number);
        let tag = [&b"\x00\x6b"[..], &number.to_be_bytes()].concat();
        let metadata = if number > 1 { &tag[..] } else { b"" };
        let encrypted = encrypts_with(&proxy, &key, metadata);
        made.push(("this proxy", encrypted, Some(AAD), PLAINTEXT.to_vec()));
    }
    let client = proxy.client();
    let own = format!("keys/{ID}/decrypt");
    let other = format!("keys/{}/decrypt", token::SECOND.label);
    for (by, encrypted, aad, plaintext) in &made {
        let body = xks::decrypt(encrypted, *aad);
        assert_eq!(xks::bytes(&client.call(&own, &body).ok()["plaintext"]), *plaintext, "{by}");
        assert_ne!(client.call(&other, &body).status, 200);
        for member in ["ciphertext", "initializationVector", "authenticationTag"] {
            let mut changed = body.clone();
            let mut bytes = xks::bytes(&body[member]);
            bytes[0] ^= 1;
            changed[member] = xks::base64(&bytes).into();
            client.call(&own, &changed).assert_error(400, "InvalidCiphertextException");
        }
    }
}

/// A request for a key with versions makes as many PKCS#11 calls as any other: two, and four for an
/// encryption with CDIV.
#[test]
fn versions_cost_no_call() {
    const REQUESTS: i64 = 300;
    const FUNCTIONS: [&str; 7] = [
        "C_EncryptInit",
        "C_Encrypt",
        "C_DecryptInit",
        "C_Decrypt",
        "C_FindObjectsInit",
        "C_GetAttributeValue",
        "C_GetSessionInfo",
    ];
    let versions = [(1, token::FULL, false), (2, token::SECOND, false)];
    let setup = Setup::new()
        .set_in_store(0, "xks_key_id_set", vec![token::SHARED.label])
        .set_in_store(0, "keys", table(&versions, 2));
    let mut proxy = Interposed::new(setup);
    let client = proxy.client();
    let mut connection = client.connect();
    let tagged = client.call(&format!("keys/{ID}/encrypt"), &xks::encrypt(PLAINTEXT, None)).ok();
    let untagged = xks::encrypt_here(&token::FULL, PLAINTEXT, None, &[]);
    for (call, body, last, calls) in [
        ("encrypt", xks::encrypt(PLAINTEXT, None), "C_Encrypt", 2),
        ("encrypt", xks::encrypt_with_cdiv(PLAINTEXT, None), "C_Decrypt", 4),
        ("decrypt", xks::decrypt(&tagged, None), "C_Decrypt", 2),
        ("decrypt", xks::decrypt(&untagged, None), "C_Decrypt", 2),
    ] {
        let (target, body) = (format!("keys/{ID}/{call}"), body.to_string());
        let mut ask = |times: i64| {
            for _ in 0..times {
                client.send(&mut connection, &target, body.as_bytes());
                connection.receive().unwrap().ok();
            }
        };
        ask(5);
        // Waits until the counts are written.
        proxy.set("");
        let counts = proxy.counts();
        let all = || FUNCTIONS.map(|function| counts.calls(function)).iter().sum::<i64>();
        let (before, before_last) = (all(), counts.calls(last));
        ask(REQUESTS);
        proxy.wait_for("the calls to be counted", |_| counts.calls(last) >= before_last + REQUESTS);
        let made = all() - before;
        // Health checks and proofs make some too; the five before may have been counted late.
        let expected = calls * REQUESTS;
        assert!((expected..expected + REQUESTS / 2).contains(&made), "{call}, {last}: {made}");
    }
}

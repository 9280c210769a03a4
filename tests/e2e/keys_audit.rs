//! `xks-proxy keys`: the attributes, uses and faults of keys, as text and as JSON.

use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};
use toml::{Table, Value};
use xks_proxy::hsm::key_date::Date;
use xks_proxy::observe::timestamp::unix_secs;

use crate::common::token::{self, Module};
use crate::common::{Prepared, Setup, tools, xks};
use crate::metrics::watched;

/// The day that is this many days from today.
fn day(days: u64) -> String {
    let then = SystemTime::now() + Duration::from_secs(days * 86_400);
    Date::of_unix_secs(unix_secs(then)).to_string()
}

/// Returns `[[pkcs11.tokens]]` with these tokens.
fn tokens(labels: &[&str]) -> Value {
    let token = |label: &&str| Table::from_iter([("label".to_owned(), Value::from(*label))]);
    Value::Array(labels.iter().map(token).map(Value::Table).collect())
}

/// Returns the list for machines.
fn listed(prepared: &Prepared) -> Json {
    let (code, printed) = prepared.run(&["keys", "--json"]);
    assert_eq!(code, Some(0), "{printed}");
    let list: Json = serde_json::from_str(&printed).expect("JSON alone");
    assert_eq!((&list["format"], &list["version"]), (&json!("xks-proxy keys"), &json!(1)));
    list
}

fn key_of<'l>(list: &'l Json, token: usize, label: &str) -> &'l Json {
    let keys = list["tokens"][token]["keys"].as_array().unwrap();
    keys.iter().find(|key| key["label"] == label).unwrap_or_else(|| panic!("{label}: {list}"))
}

fn warnings(key: &Json) -> Vec<&str> {
    let warnings = key["warnings"].as_array().unwrap();
    warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect()
}

/// Returns the lines of the block about a key.
fn block<'p>(printed: &'p str, label: &str) -> &'p str {
    let (_, rest) = printed.split_once(&format!("\n\n{label}\n  key ")).expect(label);
    rest.split("\n\n").next().unwrap()
}

/// Keys that were made, imported, made extractable, and that end soon, on a token of that module.
fn tells(module: Module) {
    let setup = Setup::with_module(module).set("pkcs11.tokens", tokens(&[module.token_label()]));
    let setup = setup.set_in_store(
        0,
        "xks_key_id_set",
        Value::Array(["foo", "bar", "good", "ending", "absent"].map(Value::from).to_vec()),
    );
    let versions = "[{ id = \"v\", encrypt_with = 2, versions = [{ label = \"open\" }, { version = 2, \
                    cka_id = \"0a0b\" }, { version = 3, label = \"foreign_key\", retired = true }] }]";
    let versions: Table = format!("keys = {versions}").parse().unwrap();
    let prepared = setup.set_in_store(1, "keys", versions["keys"].clone()).prepare();
    let end = day(20);
    for arguments in [
        &["good", "--id", "0a0b", "--end-date", "2039-12-31"][..],
        &["ending", "--end-date", &end],
        &["open", "--extractable"],
    ] {
        let arguments = [&["keys", "new", "--yes"], arguments].concat();
        let (code, printed) = prepared.run(&arguments);
        assert_eq!(code, Some(0), "{printed}");
    }
    let list = listed(&prepared);
    assert_eq!(list["tokens"][0]["missing"], json!(["absent"]));
    assert_eq!(list["tokens"][0]["trouble"], Json::Null);
    let good = key_of(&list, 0, "good");
    assert_eq!(good["ckaId"], "0a0b");
    assert_eq!((&good["keyType"], &good["bits"]), (&json!("AES"), &json!(256)));
    assert!(good["handle"].as_u64().is_some());
    for (member, value) in [
        ("private", true),
        ("sensitive", true),
        ("alwaysSensitive", true),
        ("extractable", false),
        ("neverExtractable", true),
    ] {
        // NSS does not keep these two.
        let is_kept =
            module != Module::Nss || !matches!(member, "alwaysSensitive" | "neverExtractable");
        assert!(!is_kept || good[member] == value, "{member}: {good}");
    }
    assert_eq!(good["uses"]["encrypt"], true);
    assert_eq!(good["uses"]["wrap"], false);
    // SoftHSM2 cannot read the date of a private key that has one.
    let has_dates = module != Module::SoftHsm2;
    let end_date = if has_dates { json!("2039-12-31") } else { Json::Null };
    assert_eq!((&good["startDate"], &good["endDate"]), (&json!("none"), &end_date));
    let of = |store: &str, id: &str, version: Option<u32>, encrypts: bool, retired: bool| json!({"store": store, "id": id, "version": version, "encrypts": encrypts, "retired": retired});
    let first = "/example/uri/path/prefix";
    let expected = json!([
        of(first, "good", None, true, false),
        of("/second/store", "v", Some(2), true, false)
    ]);
    assert_eq!(good["externalKeyIds"], expected);
    assert_eq!(warnings(good), ["two_names"], "by label and by CKA_ID");
    let of_ending: &[&str] = if has_dates { &["end_date_near"] } else { &[] };
    assert_eq!(warnings(key_of(&list, 0, "ending")), of_ending);
    assert_eq!(warnings(key_of(&list, 0, "open")), ["extractable"]);
    assert_eq!(warnings(key_of(&list, 0, "bar")), ["surplus_uses"]);
    let retired = &key_of(&list, 0, "foreign_key")["externalKeyIds"];
    assert_eq!(*retired, json!([of("/second/store", "v", Some(3), false, true)]));
    let unnamed = key_of(&list, 0, "encrypt_only_key");
    assert_eq!((&unnamed["names"], &unnamed["externalKeyIds"]), (&json!([]), &json!([])));
    // Imported, so its value has been outside.
    assert_eq!(key_of(&list, 0, "foo")["local"], false);
    assert_eq!(key_of(&list, 0, "foo")["neverExtractable"], false);

    let (code, printed) = prepared.run(&["keys"]);
    assert_eq!(code, Some(0), "{printed}");
    let ending = block(&printed, "ending");
    if has_dates {
        assert!(ending.contains(&format!("end {end}")), "{printed}");
        assert!(ending.contains("WARNING     its end date is in "), "{printed}");
    } else {
        assert!(ending.contains("end unknown"), "{printed}");
    }
    let good = block(&printed, "good");
    assert!(good.contains("AES-256, handle") && good.contains("CKA_ID 0a0b"), "{printed}");
    assert!(good.contains("v version 2, encrypts (store /second/store)"), "{printed}");
    assert!(good.contains("private yes, sensitive yes"), "{printed}");
    assert!(block(&printed, "foreign_key").contains("v version 3, retired"), "{printed}");
    assert!(printed.contains("\nabsent\n  MISSING"), "{printed}");
    let blocks = printed.split("\n\n").filter(|block| block.contains("\n  key "));
    for line in blocks.flat_map(str::lines) {
        assert!(line.len() <= 100, "{line}");
    }
}

#[test]
fn on_softhsm2() {
    tells(Module::SoftHsm2);
}

#[test]
fn on_kryoptic() {
    tells(Module::Kryoptic);
}

#[test]
fn on_nss() {
    tells(Module::Nss);
}

/// Each token has its own list.
#[test]
fn on_two_tokens() {
    let setup = Setup::new().set("pkcs11.tokens", tokens(&[token::LABEL, "other"]));
    let prepared = setup.prepare();
    prepared.token.add_token("other", &[token::FULL]);
    let list = listed(&prepared);
    assert_eq!(list["tokens"].as_array().unwrap().len(), 2);
    assert_eq!(list["tokens"][0]["label"], token::LABEL);
    assert_eq!(list["tokens"][1]["keys"].as_array().unwrap().len(), 1);
    key_of(&list, 0, "bar");
    assert!(list["tokens"][1]["missing"].as_array().unwrap().contains(&json!("bar")));
}

/// Names that are one key on the token: `check --hsm` tells, and it is a mistake if both are versions
/// of one external key id, as a rotation between them would change nothing.
#[test]
fn two_names_of_one_key() {
    let mut prepared = Setup::new().prepare();
    let arguments = ["keys", "new", "new-key", "--id", "0a0b", "--yes"];
    let (code, printed) = prepared.run(&arguments);
    assert_eq!(code, Some(0), "{printed}");
    let mut keys = |keys: &str| {
        let table: Table = format!("keys = {keys}").parse().unwrap();
        let mut stores = prepared.member("external_key_stores");
        let store = stores.as_array_mut().unwrap()[0].as_table_mut().unwrap();
        store.insert("keys".to_owned(), table["keys"].clone());
        prepared.change_settings("external_key_stores", stores);
        prepared.run(&["check", "--hsm"]).1
    };
    let printed = keys(
        "[{ id = \"a\", versions = [{ label = \"new-key\" }] }, { id = \"b\", versions = [{ cka_id = \
         \"0a0b\" }] }]",
    );
    assert!(printed.contains("WARNING: new-key and id:0a0b are one key, counted"), "{printed}");
    let printed = keys(
        "[{ id = \"a\", versions = [{ label = \"new-key\" }, { version = 2, cka_id = \"0a0b\" }] }]",
    );
    let said =
        "MISTAKE: new-key and id:0a0b are one key, and both are versions of the external key id";
    assert!(printed.contains(said), "{printed}");
}

/// Attributes that a token does not report are unknown, neither good nor bad.
#[test]
fn attributes_that_are_not_reported() {
    let mut prepared = Setup::new()
        .set("pkcs11.PKCS11_HSM_MODULE", tools::interposer().to_str().unwrap())
        .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap())
        .prepare();
    let file = prepared.directory().join("interposer.toml");
    std::fs::write(&file, "[odd]\nattributes_at_most = 13").unwrap();
    prepared.env("XKS_INTERPOSER_CONFIG", file.to_str().unwrap());
    // Each attribute is read by itself.
    let list = listed(&prepared);
    assert_eq!(key_of(&list, 0, "foo")["sensitive"], true);
    // CKA_SENSITIVE, CKA_DERIVE, CKA_END_DATE and CKA_VALUE_LEN
    std::fs::write(&file, "[odd]\nattributes_hidden = [0x103, 0x10c, 0x111, 0x161]").unwrap();
    let list = listed(&prepared);
    let foo = key_of(&list, 0, "foo");
    for member in [&foo["sensitive"], &foo["endDate"], &foo["bits"], &foo["uses"]["derive"]] {
        assert_eq!(*member, Json::Null, "{foo}");
    }
    assert_eq!((&foo["extractable"], warnings(foo)), (&json!(false), Vec::new()));
    let (_, printed) = prepared.run(&["keys"]);
    let foo = block(&printed, "foo");
    for text in ["AES-?", "sensitive unknown", "unknown: derive", "end unknown"] {
        assert!(foo.contains(text), "{foo}");
    }
}

/// The counted uses of a key, from the state directory.
#[test]
fn uses_are_counted() {
    let prepared = watched().prepare();
    assert_eq!(key_of(&listed(&prepared), 0, "foo")["usage"], Json::Null);
    let (_, printed) = prepared.run(&["keys"]);
    let unknown = "used        unknown: the settings have no [state] directory";
    assert!(block(&printed, "foo").contains(unknown), "{printed}");

    let state = prepared.directory().join("state").to_str().unwrap().to_owned();
    let mut proxy = prepared.start_with("state.directory", state);
    let client = proxy.client();
    let encrypt = || client.call("keys/foo/encrypt", &xks::encrypt(b"x", None)).ok();
    let all = [encrypt(), encrypt(), encrypt()];
    for encrypted in &all[1..] {
        client.call("keys/foo/decrypt", &xks::decrypt(encrypted, None)).ok();
    }
    proxy.signal("TERM");
    proxy.wait_for_end();
    let (code, printed) = proxy.run(&["keys", "--json"]);
    assert_eq!(code, Some(0), "{printed}");
    let list: Json = serde_json::from_str(&printed).unwrap();
    let usage = &key_of(&list, 0, "foo")["usage"];
    // The proxy's own encryptions count too; of the decryptions, those for clients.
    assert!(usage["encryptions"].as_u64().unwrap() >= 3, "{usage}");
    assert_eq!(usage["decryptions"], 2, "{usage}");
    let now = unix_secs(SystemTime::now());
    for member in ["lastEncryption", "lastDecryption"] {
        let then = usage[member].as_u64().unwrap();
        assert!(then <= now && now - then < 120, "{usage}");
    }
    let (_, printed) = proxy.run(&["keys"]);
    let words: Vec<&str> = block(&printed, "foo").split_whitespace().collect();
    assert!(words.join(" ").contains("; decryptions 2, last 20"), "{printed}");
}

/// A running proxy warns of end dates at its start, and its metrics have them.
#[test]
fn end_dates() {
    let set = Value::Array(["foo", "ending", "good"].map(Value::from).to_vec());
    let setup = Setup::with_module(Module::Kryoptic).set("admin.port", 0);
    let prepared = setup.set_in_store(0, "xks_key_id_set", set).prepare();
    let end = day(29);
    for (label, date) in [("ending", end.as_str()), ("good", "2039-12-31")] {
        let (code, printed) = prepared.run(&["keys", "new", label, "--end-date", date, "--yes"]);
        assert_eq!(code, Some(0), "{printed}");
    }
    let proxy = prepared.start();
    let log = proxy.log_with("HSM keys are near their end date");
    let line = log.lines().find(|line| line.contains("near their end date")).unwrap();
    for part in ["key=ending", "keys=1", "past=0", "WARN", &format!("end_date={end}")] {
        assert!(line.contains(part), "{line}");
    }
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let good = Date::parse_text("2039-12-31").unwrap().unix_secs();
    let sample = format!(
        "xks_proxy_hsm_key_end_date_timestamp_seconds{{index=\"0\",token=\"xks-proxy\",key=\"good\"}} \
         {good}\n"
    );
    assert!(metrics.contains(&sample), "{metrics}");
    let family = "xks_proxy_hsm_key_end_date_timestamp_seconds{";
    let dated = metrics.lines().filter(|line| line.starts_with(family)).count();
    assert_eq!(dated, 2, "\"foo\" has no date: {metrics}");
}

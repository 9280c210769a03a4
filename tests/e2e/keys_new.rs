//! `xks-proxy keys new`: makes keys on tokens of several modules, and explains refusals.

use toml::{Table, Value};

use crate::common::token::{self, Module};
use crate::common::{Prepared, Proxy, Setup, tools, xks};

/// The settings lines that the command printed.
fn lines_of(printed: &str) -> Table {
    let (_, lines) = printed.split_once("[[external_key_stores.keys]]\n").expect("lines to paste");
    lines.parse().unwrap()
}

/// Pastes the lines into the first store's settings, in place of its `xks_key_id_set`.
fn paste(table: &mut Table, lines: Table) {
    let store = table["external_key_stores"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
    store.insert("keys".to_owned(), Value::Array(vec![lines.into()]));
}

/// Returns `[[pkcs11.tokens]]` with these tokens.
fn tokens(labels: &[&str]) -> Value {
    let token = |label: &&str| Table::from_iter([("label".to_owned(), Value::from(*label))]);
    Value::Array(labels.iter().map(token).map(Value::Table).collect())
}

/// Asserts that a key is made on a token of that module, serves, and is refused the second time.
fn makes(module: Module) {
    let setup = Setup::with_module(module).set("pkcs11.tokens", tokens(&[module.token_label()]));
    let mut proxy = setup.set("server.pid_file", "proxy.pid").start();
    let id = "000102030405060708090a0b0c0d0e0f";
    let arguments = ["keys", "new", "new-key", "--id", id, "--end-date", "2031-01-31"];
    // Nobody is asked, and nothing is made, without a terminal.
    let (code, printed) = proxy.run(&arguments);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("CKA_LABEL \"new-key\", end date 2031-01-31, on token"), "{printed}");
    assert!(printed.contains("say --yes in scripts"), "{printed}");
    let with_consent = [&arguments[..], &["--yes"]].concat();
    let (code, printed) = proxy.run(&with_consent);
    assert_eq!(code, Some(0), "{module:?}: {printed}");
    // NSS does not say of a key that it was made on the token.
    let local = if module == Module::Nss { "no" } else { "yes" };
    let attributes = format!("private yes, sensitive yes, extractable no, local {local}");
    assert!(printed.contains(&attributes), "{printed}");
    // SoftHSM2 cannot read the date of a private key that has one.
    let unread = "ATTENTION: the token does not report the end date";
    assert_eq!(printed.contains(unread), module == Module::SoftHsm2, "{printed}");
    assert_eq!(printed.matches("ATTENTION").count(), printed.matches(unread).count(), "{printed}");
    serves(&mut proxy, "new-key", lines_of(&printed));
    serves(
        &mut proxy,
        "by-id",
        format!("id = \"by-id\"\nversions = [{{ cka_id = \"{id}\" }}]").parse().unwrap(),
    );
    let (code, printed) = proxy.run(&with_consent);
    assert_eq!(code, Some(69), "{printed}");
    assert!(printed.contains("has an object with CKA_LABEL \"new-key\" already"), "{printed}");
    let other = ["keys", "new", "other-key", "--id", id, "--yes"];
    let (code, printed) = proxy.run(&other);
    assert_eq!(code, Some(69), "{printed}");
    assert!(printed.contains(&format!("has an object with CKA_ID {id} already")), "{printed}");
    // The first one is still there, and works.
    let encrypted = proxy.client().call("keys/by-id/encrypt", &xks::encrypt(b"x", None)).ok();
    proxy.client().call("keys/by-id/decrypt", &xks::decrypt(&encrypted, None)).ok();
}

/// Asserts that a running proxy serves that external key id once the lines are in its settings.
fn serves(proxy: &mut Proxy, key_id: &str, lines: Table) {
    proxy.change_settings(|table| paste(table, lines));
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
    let path = |call: &str| format!("keys/{key_id}/{call}");
    let client = proxy.client();
    let encrypt = xks::encrypt(b"plaintext", None);
    // Without an admin listener, the command does not wait for the end of the reload.
    proxy.wait_for("the reload", |_| client.call(&path("encrypt"), &encrypt).status == 200);
    let encrypted = client.call(&path("encrypt"), &encrypt).ok();
    let answer = client.call(&path("decrypt"), &xks::decrypt(&encrypted, None)).ok();
    assert_eq!(answer["plaintext"], xks::base64(b"plaintext"));
}

#[test]
fn on_softhsm2() {
    makes(Module::SoftHsm2);
}

#[test]
fn on_kryoptic() {
    makes(Module::Kryoptic);
}

#[test]
fn on_nss() {
    makes(Module::Nss);
}

/// With several tokens, the command makes the key on the one that is named and says what must follow;
/// a label that any of them has is refused.
#[test]
fn on_one_of_two_tokens() {
    const OTHER: &str = "other";
    let setup = Setup::new().set("pkcs11.tokens", tokens(&[token::LABEL, OTHER]));
    let prepared = setup.prepare();
    prepared.token.add_token(OTHER, &[token::LATER]);
    let (code, printed) = prepared.run(&["keys", "new", "new-key", "--yes"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("cloning, security world, HA group"), "{printed}");
    assert!(printed.contains("--on TOKEN") && printed.contains("\"other\", serial"), "{printed}");
    let (code, printed) = prepared.run(&["keys", "new", "new-key", "--on", "nobody", "--yes"]);
    assert_eq!(code, Some(2), "{printed}");
    // The other token has it.
    let on_first = |label| ["keys", "new", label, "--on", token::LABEL, "--yes"];
    let (code, printed) = prepared.run(&on_first(token::LATER.label));
    assert_eq!(code, Some(69), "{printed}");
    assert!(
        printed.contains("Token \"other\"") && printed.contains("Nothing was made"),
        "{printed}"
    );

    let (code, printed) = prepared.run(&on_first("new-key"));
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("REPLICATE the key") && printed.contains("keys prove"), "{printed}");
    let of = |token: &str| {
        let line =
            printed.lines().find(|line| line.contains(&format!("token \"{token}\", serial")));
        line.expect("the comparison").to_owned()
    };
    assert!(of(token::LABEL).contains(": proven: it "), "{printed}");
    assert!(of(OTHER).ends_with("missing"), "{printed}");
    // With the lines in the settings, the fleet's comparison tells the same.
    let mut table: Table =
        std::fs::read_to_string(&prepared.settings_file).unwrap().parse().unwrap();
    paste(&mut table, lines_of(&printed));
    std::fs::write(&prepared.settings_file, table.to_string()).unwrap();
    let (_, printed) = prepared.run(&["keys", "prove"]);
    let proofs: Vec<&str> = printed.lines().filter(|line| line.contains("new-key ")).collect();
    assert!(proofs.len() == 2 && proofs[1].ends_with("missing"), "{printed}");
}

/// If the other tokens have the key at once, as with HSMs that replicate by themselves, the command
/// proves that all hold the same. Here one token is reached through two modules.
#[test]
fn on_tokens_that_replicate() {
    let member = |name: &str, value: &str| (name.to_owned(), Value::from(value));
    let interposer = tools::interposer().to_str().unwrap();
    let other = [member("label", token::LABEL), member("module", interposer)];
    let other = other.into_iter().chain([member("user_pin", token::PIN)]);
    let mut both = tokens(&[token::LABEL]);
    both.as_array_mut().unwrap().push(Table::from_iter(other).into());
    let prepared = Setup::new()
        .set("pkcs11.tokens", both)
        .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap())
        // One token in two entries would be an error.
        .env("XKS_INTERPOSER_SETTINGS", "odd.serial = \"7\"")
        .prepare();
    let (code, printed) = prepared.run(&["keys", "new", "new-key", "--on", "7", "--yes"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(printed.matches(": proven: it ").count(), 2, "{printed}");
    assert!(printed.contains("All tokens hold the same key."), "{printed}");
    assert!(!printed.contains("REPLICATE"), "{printed}");
}

/// Wrong arguments are refused before the HSM is touched.
#[test]
fn wrong_arguments() {
    let prepared = Setup::new().prepare();
    for (arguments, said) in [
        (&["id:0a", "--yes"][..], "do not begin with \"id:\""),
        (&["", "--yes"], "is no label"),
        (&["a", "--id", "0", "--yes"], "two digits each"),
        (&["a", "--end-date", "2031-02-30", "--yes"], "such as 2027-11-30"),
        (&["a", "--end-date", "2026-01-31", "--yes"], "a day that is still to come"),
        (&["a", "--wrap-with-trusted", "--yes"], "--extractable"),
    ] {
        let (code, printed) = prepared.run(&[&["keys", "new"], arguments].concat());
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.contains(said), "{printed}");
    }
}

/// A key that can be wrapped is one if it was asked for, and the command says what that means.
#[test]
fn extractable() {
    let prepared = Setup::new().prepare();
    let (_, help) = prepared.run(&["keys", "new", "--help"]);
    assert!(help.contains("CKA_NEVER_EXTRACTABLE is false"), "{help}");
    let arguments = ["keys", "new", "backed-up", "--extractable"];
    let (_, printed) = prepared.run(&arguments);
    assert!(printed.contains("any key which may wrap can take out of the HSM"), "{printed}");
    let (code, printed) = prepared.run(&[&arguments[..], &["--yes"]].concat());
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("sensitive yes, extractable yes"), "{printed}");
}

/// The interposer's settings file.
const MODULE_SETTINGS: &str = "interposer.toml";

/// Makes a token behind the interposer, with these settings of it.
fn behind_interposer(module_settings: &str) -> Prepared {
    let mut prepared = Setup::new()
        .set("pkcs11.PKCS11_HSM_MODULE", tools::interposer().to_str().unwrap())
        .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap())
        .prepare();
    let file = prepared.directory().join(MODULE_SETTINGS);
    std::fs::write(&file, module_settings).unwrap();
    prepared.env("XKS_INTERPOSER_CONFIG", file.to_str().unwrap());
    prepared
}

/// Returns whether the token has a key with that label, asked without faults.
fn has_key(prepared: &Prepared, label: &str) -> bool {
    let file = prepared.directory().join(MODULE_SETTINGS);
    std::fs::write(file, "").unwrap();
    let (_, printed) = prepared.run(&["keys"]);
    assert!(printed.contains("later_key"), "{printed}");
    printed.lines().any(|line| line.contains(label))
}

/// A token that refuses to make keys: the error names the code, says what to do, and that nothing
/// was made.
#[test]
fn a_token_that_refuses() {
    let prepared = behind_interposer("");
    for (code, said) in [
        ("CKR_TOKEN_WRITE_PROTECTED", "the token is write-protected"),
        ("CKR_SESSION_READ_ONLY", "the token is write-protected"),
        ("CKR_ATTRIBUTE_TYPE_INVALID", "does not accept the key's attributes"),
        ("CKR_ATTRIBUTE_VALUE_INVALID", "does not accept the key's attributes"),
        ("CKR_TEMPLATE_INCONSISTENT", "does not accept the key's attributes"),
        ("CKR_MECHANISM_INVALID", "makes no AES-256 keys for this user"),
        ("CKR_FUNCTION_REJECTED", "policy does not let this user make keys"),
        ("CKR_ACTION_PROHIBITED", "policy does not let this user make keys"),
        ("CKR_USER_NOT_LOGGED_IN", "a login that the session does not have"),
        ("CKR_DEVICE_MEMORY", "no room for another key"),
    ] {
        let fault = format!("[[fault]]\nreturn = \"{code}\"\nfunctions = [\"C_GenerateKey\"]\n");
        std::fs::write(prepared.directory().join(MODULE_SETTINGS), &fault).unwrap();
        let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--yes"]);
        assert_eq!(exit, Some(69), "{printed}");
        assert!(printed.contains(&format!("C_GenerateKey: {code}")), "{printed}");
        assert!(printed.contains(said) && printed.contains("Nothing was made."), "{printed}");
        assert!(!has_key(&prepared, "new-key"), "{code}");
    }
}

/// A token that says that it is write-protected is not asked to make a key, nor the operator.
#[test]
fn a_write_protected_token() {
    let protected = "no_rw_sessions = true\n[odd]\ntoken_flags_set = 2\n";
    let prepared = behind_interposer(protected);
    for arguments in [&["keys", "new", "new-key", "--yes"][..], &["keys", "new", "new-key"]] {
        let (exit, printed) = prepared.run(arguments);
        assert_eq!(exit, Some(69), "{printed}");
        assert!(printed.contains("the token is write-protected"), "{printed}");
        assert!(printed.contains("Nothing was made."), "{printed}");
    }
    // One that only refuses read-write sessions says so when it is asked.
    let prepared = behind_interposer("no_rw_sessions = true\n");
    let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--yes"]);
    assert_eq!(exit, Some(69), "{printed}");
    assert!(printed.contains("the token is write-protected"), "{printed}");
    assert!(!has_key(&prepared, "new-key"));
}

/// A module that does not accept that uses are denied is asked without them; then the command tells
/// what the key may do beyond the need.
#[test]
fn a_token_with_its_own_uses() {
    let prepared = behind_interposer("[odd]\nnew_key_at_most = 9");
    let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--yes"]);
    assert_eq!(exit, Some(0), "{printed}");
    assert!(printed.contains("ATTENTION: the token also lets it sign, verify"), "{printed}");
}

/// A failed call may have had its effect: then the operator is told what is left.
#[test]
fn a_failed_call_that_made_a_key() {
    let prepared = behind_interposer("[odd]\nnew_key_fails_with = 0x30");
    let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--id", "0a0b", "--yes"]);
    assert_eq!(exit, Some(69), "{printed}");
    assert!(printed.contains("C_GenerateKey: CKR_DEVICE_ERROR"), "{printed}");
    let left = "the token now has an object with CKA_LABEL \"new-key\" (CKA_ID 0a0b)";
    assert!(printed.contains(left) && !printed.contains("Nothing was made"), "{printed}");
    assert!(has_key(&prepared, "new-key"));
}

/// A key that does not encrypt and decrypt is destroyed.
#[test]
fn a_key_that_fails_its_test_is_destroyed() {
    let fault = |function: &str| {
        format!(
            "[[fault]]\nreturn = \"CKR_MECHANISM_PARAM_INVALID\"\nfunctions = [\"{function}\"]\n"
        )
    };
    for function in ["C_EncryptInit", "C_DecryptInit"] {
        let prepared = behind_interposer(&fault(function));
        let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--yes"]);
        assert_eq!(exit, Some(69), "{printed}");
        assert!(printed.contains("CKR_MECHANISM_PARAM_INVALID"), "{printed}");
        assert!(printed.contains("The key that had been made was destroyed again."), "{printed}");
        assert!(!has_key(&prepared, "new-key"), "{printed}");
    }
    // If it cannot be destroyed either, the operator is told what is left.
    let prepared =
        behind_interposer(&format!("{}{}", fault("C_EncryptInit"), fault("C_DestroyObject")));
    let (exit, printed) = prepared.run(&["keys", "new", "new-key", "--id", "0a0b", "--yes"]);
    assert_eq!(exit, Some(69), "{printed}");
    assert!(printed.contains("ATTENTION: the key is left on the token"), "{printed}");
    assert!(printed.contains("CKA_LABEL \"new-key\", CKA_ID 0a0b, handle "), "{printed}");
    assert!(has_key(&prepared, "new-key"));
}

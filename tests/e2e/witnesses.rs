//! Tokens that hold different keys under one label, seen from outside; and the state directory,
//! which records which key is right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::common::proxy::free_port;
use crate::common::{Client, Prepared, Proxy, Setup, Store, settings, token, xks};
use crate::metrics::watched;

const ANOTHER: &str = "another";
const ENCRYPT: &str = "keys/foo/encrypt";

/// Makes a second token with another key "foo" than the first one's.
fn with_a_stranger(setup: Setup) -> Prepared {
    let keys = Value::Array(vec![token::FULL.label.into()]);
    let setup = setup.set_in_store(0, "xks_key_id_set", keys).set("server.pid_file", "proxy.pid");
    let prepared = setup.prepare();
    prepared.token.add_token_of_strangers(ANOTHER, &[token::FULL]);
    prepared
}

fn tokens(labels: &[&str]) -> Value {
    let token = |label: &&str| Table::from_iter([("label".to_owned(), Value::from(*label))]);
    Value::Array(labels.iter().map(token).map(Value::Table).collect())
}

fn encrypt(client: &Client) -> Json {
    client.call(ENCRYPT, &xks::encrypt(b"plaintext", None)).ok()
}

fn assert_refused(client: &Client) {
    let response = client.call(ENCRYPT, &xks::encrypt(b"plaintext", None));
    response.assert_error(400, "InvalidStateException");
    let said = String::from_utf8_lossy(&response.body);
    assert!(said.contains("hold different keys"), "{said}");
}

fn assert_decrypts(client: &Client, encrypted: &Json) {
    let answer = client.call("keys/foo/decrypt", &xks::decrypt(encrypted, None)).ok();
    assert_eq!(answer["plaintext"], xks::base64(b"plaintext"));
}

fn token_status(proxy: &Proxy, index: usize) -> Json {
    proxy.admin_get("/status.json").json()["tokens"][index].clone()
}

fn change(proxy: &Proxy, change: impl FnOnce(&mut Table)) {
    proxy.change_settings(change);
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
}

fn restart_with(proxy: &mut Proxy, labels: &[&str]) {
    proxy.signal("TERM");
    proxy.signal("TERM");
    proxy.wait_for_end();
    proxy.change_settings(|table| settings::set(table, "pkcs11.tokens", tokens(labels)));
    proxy.restart();
}

fn state_in(directory: &Path) -> PathBuf {
    directory.join("state")
}

fn witnesses_of(state: &Path) -> String {
    fs::read_to_string(state.join("key-witnesses")).unwrap_or_default()
}

/// Two tokens with different keys and no record of the right one: encryption is refused, all
/// existing ciphertexts are decrypted, and log, metrics, status and commands report it.
/// `trust_token` resolves it.
#[test]
fn two_keys_of_one_label() {
    let setup = watched().set("admin.port", free_port()).set("pkcs11.tokens", tokens(&[ANOTHER]));
    let mut proxy = with_a_stranger(setup).start();
    let of_another = encrypt(&proxy.client());
    // Without a state directory, the next process knows nothing of the previous one.
    restart_with(&mut proxy, &[token::LABEL]);
    let of_first = encrypt(&proxy.client());
    restart_with(&mut proxy, &[token::LABEL, ANOTHER]);
    proxy.wait_for("the difference to be seen", |proxy| {
        token_status(proxy, 1)["keysDiffering"] == 1
    });
    let client = proxy.client();
    for _ in 0..10 {
        assert_refused(&client);
        assert_decrypts(&client, &of_first);
        assert_decrypts(&client, &of_another);
    }
    proxy.client_of(&Store::second()).call("keys/bar/encrypt", &xks::encrypt(b"x", None)).ok();
    assert_eq!(token_status(&proxy, 1)["differingKeys"][0], "foo");
    let log = proxy.log_with("HSM keys differ");
    let line = log.lines().find(|line| line.contains("HSM keys differ")).unwrap();
    let first_serial = token_status(&proxy, 0)["serial"].as_str().unwrap().to_owned();
    assert!(line.contains(ANOTHER) && line.contains(&first_serial), "{line}");
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let line = "xks_proxy_hsm_keys_differing{index=\"1\",token=\"another\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    for command in [&["check", "--hsm"][..], &["keys", "prove"]] {
        let (code, printed) = proxy.run(command);
        assert_eq!(code, Some(69), "{printed}");
        assert!(printed.contains("DIFFERS") && printed.contains("trust_token"), "{printed}");
    }
    let (_, printed) = proxy.run(&["keys"]);
    assert!(printed.contains("foo on token another: it differs from its witness"), "{printed}");

    change(&proxy, |table| settings::set(table, "pkcs11.trust_token", ANOTHER));
    proxy.wait_for("the right one to be used", |proxy| {
        token_status(proxy, 0)["keysDiffering"] == 1 && token_status(proxy, 1)["keysUnproven"] == 0
    });
    for _ in 0..10 {
        assert_decrypts(&client, &encrypt(&client));
        assert_decrypts(&client, &of_first);
        assert_decrypts(&client, &of_another);
    }
}

/// `keys prove --trust TOKEN --key LABEL` decides about that key only, and fails for a key that the
/// token does not have.
#[test]
fn trust_is_for_the_named_keys_alone() {
    let both = [token::LABEL, ANOTHER];
    let prepared = Setup::new().set("pkcs11.tokens", tokens(&both)).prepare();
    prepared.token.add_token_of_strangers(ANOTHER, &[token::FULL, token::SECOND]);
    let state = state_in(prepared.directory());
    let proxy = prepared.start_with("state.directory", state.to_str().unwrap());
    let trust = |key: &str| proxy.run(&["keys", "prove", "--trust", ANOTHER, "--key", key]);
    let (code, printed) = trust(token::ENCRYPT_ONLY.label);
    assert_eq!(code, Some(69), "{printed}");
    assert!(printed.contains("has made no witness of it"), "{printed}");
    let has = |label: &str| witnesses_of(&state).contains(&format!("\"{label}\""));
    assert!(!has("foo") && !has("bar"));
    let (_, printed) = trust("foo");
    assert!(printed.contains("new witnesses: 1;"), "{printed}");
    assert!(has("foo") && !has("bar"));
}

/// A reload that removes the wrong token ends the dispute permanently, whatever that token returns
/// while its sessions close.
#[test]
fn the_wrong_token_is_taken_out() {
    let setup = watched().set("pkcs11.tokens", tokens(&[token::LABEL, ANOTHER]));
    let mut proxy = with_a_stranger(setup).start();
    proxy.wait_for("the difference to be seen", |proxy| {
        token_status(proxy, 1)["keysDiffering"] == 1
    });
    assert_refused(&proxy.client());
    change(&proxy, |table| settings::set(table, "pkcs11.tokens", tokens(&[token::LABEL])));
    let client = proxy.client();
    proxy.log_with("settings reloaded");
    for _ in 0..60 {
        encrypt(&client);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(token_status(&proxy, 0)["keysUnproven"], 0);
}

/// A process remembers what the previous one proved: a token with another key may not encrypt, even
/// as the only token. `keys prove --trust` overrules that.
#[test]
fn the_next_process_knows() {
    let prepared = with_a_stranger(watched().set("pkcs11.tokens", tokens(&[token::LABEL])));
    let state = state_in(prepared.directory());
    let mut proxy = prepared.start_with("state.directory", state.to_str().unwrap());
    let of_first = encrypt(&proxy.client());
    proxy.wait_for("the witness to be kept", |_| witnesses_of(&state).contains("\"foo\""));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("key-witnesses"))), (0o700, 0o600));

    let exported = proxy.directory().join("exported");
    let (code, printed) = proxy.run(&["keys", "prove", "--export", exported.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(fs::read_to_string(&exported).unwrap().contains("\"foo\""));

    restart_with(&mut proxy, &[ANOTHER]);
    assert_refused(&proxy.client());
    proxy.log_with("HSM keys differ");

    // A new replica that is given the other's witnesses refuses the key too.
    let other_state = proxy.directory().join("other");
    proxy.change_settings(|table| {
        settings::set(table, "state.directory", other_state.to_str().unwrap());
    });
    let with = ["keys", "prove", "--with", exported.to_str().unwrap()];
    let (code, printed) = proxy.run(&with);
    assert_eq!(code, Some(69), "{printed}");
    assert!(printed.contains("DIFFERS: it is another key than the witness's"), "{printed}");
    assert!(witnesses_of(&other_state).contains("\"foo\""));

    proxy.change_settings(|table| settings::set(table, "state.directory", state.to_str().unwrap()));
    let before = witnesses_of(&state);
    let (code, printed) = proxy.run(&["keys", "prove", "--trust", ANOTHER, "--key", "foo"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_ne!(witnesses_of(&state), before);
    assert_eq!(proxy.reload().0, Some(0));
    let client = proxy.client();
    proxy.wait_for("the other key to be right", |_| {
        client.call(ENCRYPT, &xks::encrypt(b"plaintext", None)).status == 200
    });
    let response = client.call("keys/foo/decrypt", &xks::decrypt(&of_first, None));
    response.assert_error(400, "InvalidCiphertextException");
}

/// The witnesses given by `--with` replace those of the state directory; `--trust` changes nothing
/// if the trusted token is unreachable.
#[test]
fn witnesses_by_command() {
    let prepared = with_a_stranger(watched().set("pkcs11.tokens", tokens(&[ANOTHER])));
    let state = state_in(prepared.directory());
    let mut proxy = prepared.start_with("state.directory", state.to_str().unwrap());
    encrypt(&proxy.client());
    proxy.wait_for("the witness to be kept", |_| witnesses_of(&state).contains("\"foo\""));
    let of_another = witnesses_of(&state);
    proxy.signal("TERM");
    proxy.signal("TERM");
    proxy.wait_for_end();

    let unreachable = tokens(&[token::LABEL, "away"]);
    proxy.change_settings(|table| settings::set(table, "pkcs11.tokens", unreachable));
    let (code, printed) = proxy.run(&["keys", "prove", "--trust", "away"]);
    assert_eq!(code, Some(69), "{printed}");
    assert_eq!(witnesses_of(&state), of_another, "{printed}");

    let exported = proxy.directory().join("exported");
    let other_state = proxy.directory().join("other");
    proxy.change_settings(|table| {
        settings::set(table, "pkcs11.tokens", tokens(&[token::LABEL]));
        settings::set(table, "state.directory", other_state.to_str().unwrap());
    });
    let (code, printed) = proxy.run(&["keys", "prove", "--export", exported.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{printed}");
    proxy.change_settings(|table| settings::set(table, "state.directory", state.to_str().unwrap()));
    let (code, printed) = proxy.run(&["keys", "prove", "--with", exported.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{printed}");
    let of = |text: &str| text.lines().find(|it| it.contains("\"foo\"")).map(str::to_owned);
    assert_eq!(of(&witnesses_of(&state)), of(&fs::read_to_string(&exported).unwrap()));
}

/// With any fault of the state directory the proxy serves, logs one warning, and preserves whatever
/// it could not read.
#[test]
fn a_state_directory_in_trouble() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 4] = [
        ("damaged", |state| replace(state, "junk\n{}\n"), "are damaged"),
        (
            "of another version",
            |state| replace(state, "{\"format\":\"xks-proxy key witnesses\",\"version\":9}\n"),
            "it has version 9",
        ),
        ("a directory", |state| fs::create_dir(state.join("key-witnesses")).unwrap(), "read"),
        (
            "nowhere to be made",
            |state| {
                fs::remove_dir_all(state).unwrap();
                fs::write(state, "a file").unwrap();
            },
            "[state] directory",
        ),
    ];
    for (name, spoil, warning) in cases {
        let prepared = Setup::new().prepare();
        let state = state_in(prepared.directory());
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        spoil(&state);
        let content = witnesses_of(&state);
        let proxy = prepared.start_with("state.directory", state.to_str().unwrap());
        encrypt(&proxy.client());
        let log = proxy.log_with("[state] directory");
        let line = log.lines().find(|line| line.contains("[state] directory")).unwrap();
        assert!(line.contains("WARN") && line.contains(warning), "{name}: {line}");
        if !content.is_empty() {
            let copy = state.join("key-witnesses.damaged");
            let kept = || fs::read_to_string(&copy).unwrap_or_else(|_| witnesses_of(&state));
            assert_eq!(kept(), content, "{name}");
        }
    }
}

/// A failing write causes one warning however often it is retried, and succeeds once it is
/// possible.
#[test]
fn a_write_that_fails_is_tried_again() {
    let prepared = Setup::new().prepare();
    let state = state_in(prepared.directory());
    let in_the_way = state.join("key-witnesses.next");
    fs::create_dir_all(&in_the_way).unwrap();
    let mut proxy = prepared.start_with("state.directory", state.to_str().unwrap());
    encrypt(&proxy.client());
    proxy.log_with("the keys' witnesses cannot be written");
    fs::remove_dir(&in_the_way).unwrap();
    proxy.wait_for("the witnesses to be written", |_| witnesses_of(&state).contains("\"foo\""));
    assert_eq!(proxy.log().matches("cannot be written").count(), 1);
}

fn replace(state: &Path, content: &str) {
    fs::write(state.join("key-witnesses"), content).unwrap();
}

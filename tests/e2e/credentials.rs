//! Rotation of a credential: created, accepted along with the old one, given to KMS, monitored, and
//! the old one removed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use toml::Value;

use crate::common::proxy::{Prepared, free_port};
use crate::common::{Client, Connection, Proxy, Response, Setup, Store, tools, xks};

const NEW_ID: &str = "NEWNEWNEWNEWNEWNEWNEW234";
const NEW_SECRET: &str = "NewSecretNewSecretNewSecretNewSecretNewSecret/+=";

/// Runs the program with these arguments.
fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
    command.args(arguments).env_remove("PKCS11_HSM_MODULE").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn output_of(arguments: &[&str]) -> String {
    let output = program(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The value of `[[external_key_stores.credentials]]` with one entry.
fn listed() -> Value {
    let new = toml::Table::from_iter([
        ("name".to_owned(), Value::from("the new one")),
        ("created".to_owned(), "2026-01-31".parse::<toml::value::Datetime>().unwrap().into()),
        ("sigv4_access_key_id".to_owned(), Value::from(NEW_ID)),
        ("sigv4_secret_access_key".to_owned(), Value::from(NEW_SECRET)),
    ]);
    Value::Array(vec![Value::Table(new)])
}

fn with_new_credential(setup: Setup) -> Setup {
    setup.set_in_store(0, "credentials", listed())
}

fn with(proxy: &Proxy, id: &str, secret: &str) -> Client {
    proxy.client_of(&Store {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        ..Store::first()
    })
}

fn settings_of(prepared: &Prepared) -> String {
    prepared.settings_file.to_str().unwrap().to_owned()
}

/// Reloads configure the old credential, then both, then the new one alone, while connections stay
/// open. Configured credentials are accepted and removed ones are refused.
#[test]
fn a_rotation_while_it_serves() {
    let setup = Setup::new().set("admin.port", free_port()).set("server.pid_file", "proxy.pid");
    let proxy = setup.start();
    let (old, new) = (proxy.client(), with(&proxy, NEW_ID, NEW_SECRET));
    let mut connections = [old.connect(), new.connect()];
    let [by_old, by_new] = &mut connections;
    let body = xks::health().to_string();
    let ask = |client: &Client, connection: &mut Connection| {
        client.send(connection, "health", body.as_bytes());
        connection.receive().unwrap()
    };
    let refused = |response: Response| response.assert_error(401, "AuthenticationFailedException");
    let change = |change: &dyn Fn(&mut toml::Table)| {
        proxy.change_settings(|table| {
            change(table["external_key_stores"][0].as_table_mut().unwrap());
        });
        let (code, printed) = proxy.reload();
        assert_eq!(code, Some(0), "{printed}");
    };
    ask(&old, by_old).ok();
    refused(ask(&new, by_new));

    change(&|store| {
        store.insert("credentials".to_owned(), listed());
    });
    for _ in 0..3 {
        ask(&old, by_old).ok();
        ask(&new, by_new).ok();
    }
    let encrypted = old.call("keys/foo/encrypt", &xks::encrypt(b"rotated", None)).ok();
    let decrypted = new.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None)).ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), b"rotated");
    // An id with the other credential's secret is refused, and so is the new credential at the
    // other store.
    refused(ask(&with(&proxy, NEW_ID, &Store::first().secret_access_key), by_new));
    refused(ask(&with(&proxy, &Store::first().access_key_id, NEW_SECRET), by_new));
    let mut other = new.clone();
    other.signer.store.prefix = Store::second().prefix;
    refused(ask(&other, by_new));

    change(&|store| {
        store.remove("sigv4_access_key_id");
        store.remove("sigv4_secret_access_key");
    });
    refused(ask(&old, by_old));
    ask(&new, by_new).ok();
}

/// The output of `credentials new` can be pasted unchanged, with the secret inline or in a file.
/// The proxy accepts the credential and knows its date.
#[test]
fn a_new_credential_works() {
    for is_file in [false, true] {
        let prepared = Setup::new().set("admin.port", 0).prepare();
        let settings = settings_of(&prepared);
        let file = prepared.directory().join("a new secret");
        let file = file.to_str().unwrap();
        let prefix = Store::first().prefix;
        let mut arguments = vec!["credentials", "new", "--store", &prefix, "--settings", &settings];
        if is_file {
            arguments.extend(["--secret-file", file]);
        }
        let printed = output_of(&arguments);
        let table: toml::Table = printed.parse().unwrap();
        let listed = &table["external_key_stores"]["credentials"][0];
        let id = listed["sigv4_access_key_id"].as_str().unwrap().to_owned();
        let secret = if is_file {
            assert!(listed.get("sigv4_secret_access_key").is_none());
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            // An existing secret file is never overwritten.
            let again = program(&arguments);
            assert_eq!(again.status.code(), Some(69), "{}", text(&again.stderr));
            assert!(again.stdout.is_empty());
            let secret = std::fs::read_to_string(file).unwrap();
            assert!(!printed.contains(secret.trim_end()));
            secret.trim_end().to_owned()
        } else {
            listed["sigv4_secret_access_key"].as_str().unwrap().to_owned()
        };
        // After the first store's members, as the printed comment says.
        let old = std::fs::read_to_string(&prepared.settings_file).unwrap();
        let second = old.match_indices("[[external_key_stores]]").nth(1).unwrap().0;
        let pasted = format!("{}{printed}\n{}", &old[..second], &old[second..]);
        std::fs::write(&prepared.settings_file, pasted).unwrap();

        let proxy = prepared.start();
        with(&proxy, &id, &secret).call("health", &xks::health()).ok();
        proxy.client().call("health", &xks::health()).ok();
        let metrics = text(&proxy.admin_get("/metrics").body);
        let created = format!(
            "xks_proxy_credential_created_timestamp_seconds{{store=\"{prefix}\",access_key_id=\"{id}\"}} "
        );
        let line = metrics.lines().find_map(|line| line.strip_prefix(&created)).unwrap();
        let midnight: u64 = line.parse().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(
            midnight.is_multiple_of(86_400) && (midnight..midnight + 2 * 86_400).contains(&now)
        );
        // The old credential has no known date.
        assert_eq!(metrics.matches("xks_proxy_credential_created_timestamp_seconds{").count(), 1);
        let log = proxy.log_with(&id);
        assert!(!log.contains(&secret), "{log}");
    }
}

/// New credentials always differ, no settings file is needed unless a store is named, and an
/// unknown store is an error.
#[test]
fn new_without_settings() {
    let (one, other) = (output_of(&["credentials", "new"]), output_of(&["credentials", "new"]));
    assert_ne!(one, other);
    let prepared = Setup::new().prepare();
    let arguments =
        ["credentials", "new", "--store", "/no/such/store", "--settings", &settings_of(&prepared)];
    let output = program(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains(&Store::first().prefix), "{}", text(&output.stderr));
}

/// The last use comes from the running proxy. Without one, the list is complete and marks the use
/// as unknown.
#[test]
fn the_list_says_what_is_in_use() {
    let port = free_port();
    let prepared = with_new_credential(Setup::new()).set("admin.port", port).prepare();
    let settings = settings_of(&prepared);
    let list = || output_of(&["credentials", "list", &settings]);
    let ids = [Store::first().access_key_id, NEW_ID.to_owned(), Store::second().access_key_id];
    let before = list();
    for (line, id) in before.lines().skip(1).zip(&ids) {
        assert!(line.contains(id.as_str()), "{before}");
        assert!(line.contains("unknown: the proxy's admin listener does not answer"), "{before}");
    }
    assert_eq!(before.lines().count(), 4, "{before}");
    assert!(before.contains("2026-01-31 (") && before.contains("the new one"), "{before}");

    let proxy = prepared.start();
    with(&proxy, NEW_ID, NEW_SECRET).call("health", &xks::health()).ok();
    let after = list();
    let line_of = |list: &str, id: &str| {
        list.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{list}")).to_owned()
    };
    assert!(line_of(&after, NEW_ID).contains("Z ("), "{after}");
    assert!(line_of(&after, NEW_ID).contains(" ago)"), "{after}");
    for id in [&ids[0], &ids[2]] {
        assert!(line_of(&after, id).contains("not since it was loaded, 20"), "{after}");
    }
    // Two named admin listeners, one of which does not answer.
    let admin = format!("http://{}", proxy.admin());
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let output =
        program(&["credentials", "list", &settings, "--admin", &admin, "--admin", &nobody]);
    let (said, list) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success() && said.contains(&nobody), "{said}");
    assert!(line_of(&list, NEW_ID).contains(" ago)"), "{list}");

    // A settings file that differs from the one that the proxy has loaded.
    let edited =
        std::fs::read_to_string(&settings).unwrap().replace(NEW_ID, "OTHEROTHEROTHEROTHER2");
    std::fs::write(&settings, edited).unwrap();
    let list = output_of(&["credentials", "list", &settings]);
    assert!(line_of(&list, "OTHEROTHEROTHEROTHER2").contains("not loaded"), "{list}");
    assert!(line_of(&list, NEW_ID).contains("NOT IN THE SETTINGS"), "{list}");
    for secret in [NEW_SECRET, &Store::first().secret_access_key] {
        assert!(![&before, &after, &list].iter().any(|list| list.contains(secret)));
    }
}

/// The list over TLS with client certificates, as the admin listener may require.
#[test]
fn the_list_over_tls() {
    let prepared = Setup::new().set("admin.port", 0).prepare();
    let file = |name: &str| prepared.certificates.path(name).to_str().unwrap().to_owned();
    let members = format!(
        "[admin]\ntls_cert_pem = \"{}\"\ntls_key_pem = \"{}\"\nclient_ca_pem = \"{}\"\n",
        file("server_cert.pem"),
        file("server_key.pem"),
        file("client_ca.pem")
    );
    let old = std::fs::read_to_string(&prepared.settings_file).unwrap();
    std::fs::write(&prepared.settings_file, old.replace("[admin]\n", &members)).unwrap();
    let settings = settings_of(&prepared);
    let without = output_of(&["credentials", "list", &settings]);
    assert!(without.contains("unknown: the admin listener speaks TLS"), "{without}");
    let proxy = prepared.start();
    proxy.client().call("health", &xks::health()).ok();
    let admin = format!("https://localhost:{}", proxy.admin().port());
    let certificates = proxy.certificates();
    let path = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("server_ca.pem"), path("Right_cert.pem"), path("Right_key.pem"));
    let arguments = ["credentials", "list", &settings, "--admin", &admin, "--ca", &ca];
    let list = output_of(&[&arguments[..], &["--cert", &cert, "--key", &key]].concat());
    assert!(list.contains(" ago)"), "{list}");
    let list = output_of(&arguments);
    assert!(list.contains("unknown: ") && list.contains("does not answer"), "{list}");
}

/// Validates the file with botocore as the input of UpdateCustomKeyStore, as docs/operations.md
/// uses it.
const VALIDATE: &str = "
import json, sys
import botocore.session
from botocore.validate import ParamValidator
model = botocore.session.get_session().get_service_model('kms')
parameters = json.load(open(sys.argv[1]))
for name, more in [
    ('UpdateCustomKeyStore', {'CustomKeyStoreId': 'cks-1234567890abcdef0'}),
    ('CreateCustomKeyStore', {'CustomKeyStoreName': 'mine'}),
]:
    shape = model.operation_model(name).input_shape
    assert set(parameters) <= set(shape.members), name
    report = ParamValidator().validate({**parameters, **more}, shape)
    assert not report.has_errors(), report.generate_report()
";

/// The store accepts the credential in the file for KMS: the newest unless another is named.
#[test]
fn kms_s_file_opens_the_store() {
    let prepared = with_new_credential(Setup::new()).prepare();
    let settings = settings_of(&prepared);
    let file = prepared.directory().join("kms.json");
    let file = file.to_str().unwrap();
    let prefix = Store::first().prefix;
    let printed = output_of(&["kms-config", &prefix, "--settings", &settings]);
    let kms: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let credential = &kms["XksProxyAuthenticationCredential"];
    assert_eq!(credential["AccessKeyId"], NEW_ID);
    let path = kms["XksProxyUriPath"].as_str().unwrap().to_owned();

    let whole_path = format!("{prefix}/kms/xks/v1");
    let old_id = Store::first().access_key_id;
    let arguments =
        ["kms-config", &whole_path, "--settings", &settings, "--access-key-id", &old_id];
    let arguments = [&arguments[..], &["--output", file]].concat();
    let output = program(&arguments);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("holds the secret"), "{}", text(&output.stderr));
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(program(&arguments).status.code(), Some(69), "it writes over nothing");
    let old: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(old["XksProxyAuthenticationCredential"]["AccessKeyId"], old_id.as_str());
    let mut validate = tools::python_with_botocore();
    tools::run(validate.args(["-c", VALIDATE, file]), tools::BOTOCORE_REMEDY);

    // Several stores and none named; an unknown one.
    for arguments in [
        &["kms-config", "--settings", &settings][..],
        &["kms-config", "/no/such/store", "--settings", &settings],
        &["kms-config", &prefix, "--settings", &settings, "--access-key-id", "NOBODY"],
    ] {
        let output = program(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }

    let proxy = prepared.start();
    let string = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for kms in [&kms, &old] {
        let credential = &kms["XksProxyAuthenticationCredential"];
        let client = proxy.client_of(&Store {
            prefix: path.strip_suffix("/kms/xks/v1").unwrap().to_owned(),
            access_key_id: string(&credential["AccessKeyId"]),
            secret_access_key: string(&credential["RawSecretAccessKey"]),
        });
        client.call("health", &xks::health()).ok();
    }
}

/// Secrets are not printed to a terminal unless asked for.
#[test]
fn a_terminal_is_shown_no_secret() {
    let prepared = with_new_credential(Setup::new()).prepare();
    let run = |more: &str| {
        let command = format!(
            "'{}' kms-config '{}' --settings '{}' {more}",
            env!("CARGO_BIN_EXE_xks-proxy"),
            Store::first().prefix,
            settings_of(&prepared)
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        script.current_dir(prepared.directory()).stdin(std::process::Stdio::null());
        let output = script.output().unwrap_or_else(|error| {
            panic!("cannot run script(1): {error}\nit comes with util-linux (bsdutils)")
        });
        (output.status.code(), text(&output.stdout))
    };
    let (code, shown) = run("");
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("--show-secret") && !shown.contains(NEW_SECRET), "{shown}");
    let (code, shown) = run("--show-secret");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(NEW_SECRET), "{shown}");
    let (code, shown) = run("--output kms.json");
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains(NEW_SECRET), "{shown}");
    assert!(Path::new(&prepared.directory().join("kms.json")).exists());
}

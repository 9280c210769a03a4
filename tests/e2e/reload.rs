//! Settings that change while the proxy serves: no call fails, and connections stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::json;
use toml::{Table, Value};

use crate::common::proxy::free_port;
use crate::common::token::{self, Key};
use crate::common::{Client, Proxy, Setup, Store, settings, xks};

const PLAINTEXT: &[u8] = b"plaintext";

/// Concurrent callers of the second store, each on one connection.
struct Load {
    is_over: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(proxy: &Proxy) -> Self {
        let client = proxy.client_of(&Store::second());
        let is_over = Arc::new(AtomicBool::new(false));
        let caller = || {
            let (client, is_over) = (client.clone(), Arc::clone(&is_over));
            std::thread::spawn(move || call_until(&client, &is_over))
        };
        let callers = (0..4).map(|_| caller()).collect();
        Self { is_over, callers }
    }

    /// Asserts that no call failed and that no connection was closed.
    #[track_caller]
    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().expect("each call is answered with 200");
        }
    }
}

fn call_until(client: &Client, is_over: &AtomicBool) {
    let mut connection = client.connect();
    let mut post = |call: &str, body: &serde_json::Value| {
        let call = format!("keys/{}/{call}", token::SECOND.label);
        client.send(&mut connection, &call, body.to_string().as_bytes());
        let answer = connection.receive().expect("the connection stays");
        assert_eq!(answer.header("connection"), None);
        answer.ok()
    };
    let mut calls = 0;
    while calls < 20 || !is_over.load(Ordering::Relaxed) {
        let encrypted = post("encrypt", &xks::encrypt_with_cdiv(PLAINTEXT, Some(b"aad")));
        let decrypted = post("decrypt", &xks::decrypt(&encrypted, Some(b"aad")));
        assert_eq!(xks::bytes(&decrypted["plaintext"]), PLAINTEXT);
        calls += 2;
    }
}

/// A setup with an admin listener, through which `xks-proxy reload` learns the outcome.
fn setup() -> Setup {
    Setup::new()
        .set("admin.port", free_port())
        .set("server.pid_file", "proxy.pid")
        .set("server.event_loops", 2)
}

fn first_store(table: &mut Table) -> &mut Table {
    table["external_key_stores"].as_array_mut().unwrap()[0].as_table_mut().unwrap()
}

/// Changes the file and reloads it.
#[track_caller]
fn change(proxy: &Proxy, change: impl FnOnce(&mut Table)) -> String {
    proxy.change_settings(change);
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
    printed
}

fn encrypt(key: &Key) -> (String, String) {
    (format!("keys/{}/encrypt", key.label), xks::encrypt(PLAINTEXT, None).to_string())
}

/// Changes of credential, key set, certificate, kill switch, quota, size limit, log level and
/// stores each take effect with the reload that brings them.
#[test]
fn each_change_under_load() {
    let mut proxy = setup().tls().start();
    let load = Load::begin(&proxy);
    let client = proxy.client();
    let (foo, body) = encrypt(&token::FULL);
    let post = |client: &Client, call: &str| client.post(call, body.as_bytes());
    post(&client, &foo).ok();

    // Credential: on an open connection the old one is refused and the new one is accepted.
    let mut connection = client.connect();
    let new = Store {
        access_key_id: "ANEWACCESSKEYIDOFTHEFIRST2".into(),
        secret_access_key: "ANewSecretAccessKey/OfTheFirstStore+0000000000=".into(),
        ..Store::first()
    };
    change(&proxy, |table| {
        let store = first_store(table);
        store.insert("sigv4_access_key_id".into(), new.access_key_id.clone().into());
        store.insert("sigv4_secret_access_key".into(), new.secret_access_key.clone().into());
    });
    client.send(&mut connection, &foo, body.as_bytes());
    connection.receive().unwrap().assert_error(401, "AuthenticationFailedException");
    let client = proxy.client_of(&new);
    client.send(&mut connection, &foo, body.as_bytes());
    connection.receive().unwrap().ok();
    // The same id with another secret: the old one's signing key must not stay cached.
    let newer = Store {
        secret_access_key: "AnotherSecretAccessKeyForTheSameId+00000000000=".into(),
        ..new.clone()
    };
    change(&proxy, |table| {
        first_store(table)
            .insert("sigv4_secret_access_key".into(), newer.secret_access_key.clone().into());
    });
    client.send(&mut connection, &foo, body.as_bytes());
    connection.receive().unwrap().assert_error(401, "AuthenticationFailedException");
    let client = proxy.client_of(&newer);

    // Keys: one was already in the token, one is added to it now; another is removed from the set.
    let added = Key::new("added_key", "ed");
    proxy.token().add(&added);
    let (foreign, _) = encrypt(&token::FOREIGN);
    let (added_call, _) = encrypt(&added);
    post(&client, &foreign).assert_error(404, "KeyNotFoundException");
    change(&proxy, |table| {
        let keys = [token::FULL, token::FOREIGN, added].map(|key| Value::from(key.label));
        first_store(table).insert("xks_key_id_set".into(), Value::Array(keys.into()));
    });
    for (call, key) in [(&foo, &token::FULL), (&foreign, &token::FOREIGN), (&added_call, &added)] {
        let encrypted = post(&client, call).ok();
        let aad = xks::hsm_aad(None, &[]);
        assert_eq!(xks::decrypt_here(key, &encrypted, &aad).as_deref(), Some(PLAINTEXT));
    }
    post(&client, &encrypt(&token::SECOND).0).assert_error(404, "KeyNotFoundException");

    // The kill switch, for the store and for one of its keys.
    let describe = |client: &Client, key: &Key| {
        let call = format!("keys/{}/metadata", key.label);
        client.call(&call, &xks::metadata("DescribeKey")).ok()["keyStatus"].clone()
    };
    change(&proxy, |table| {
        let keys = vec![Value::from(added.label)];
        first_store(table).insert("disabled_keys".into(), Value::Array(keys));
    });
    post(&client, &foo).ok();
    post(&client, &added_call).assert_error(400, "InvalidStateException");
    assert_eq!(describe(&client, &token::FULL), json!("ENABLED"));
    assert_eq!(describe(&client, &added), json!("DISABLED"));
    let sealed = xks::encrypt_here(&token::FULL, PLAINTEXT, None, &[]);
    change(&proxy, |table| {
        first_store(table).insert("disabled".into(), true.into());
    });
    post(&client, &foo).assert_error(400, "InvalidStateException");
    let decrypt = format!("keys/{}/decrypt", token::FULL.label);
    client.call(&decrypt, &xks::decrypt(&sealed, None)).assert_error(400, "InvalidStateException");
    assert_eq!(describe(&client, &token::FULL), json!("DISABLED"));
    client.call("health", &xks::health()).ok();
    change(&proxy, |table| {
        first_store(table).remove("disabled");
        first_store(table).remove("disabled_keys");
    });
    client.call(&decrypt, &xks::decrypt(&sealed, None)).ok();
    post(&client, &added_call).ok();

    // A quota, which a reload does not refill.
    let quota = |table: &mut Table| {
        first_store(table).insert("max_requests_per_sec".into(), 1.into());
    };
    change(&proxy, quota);
    post(&client, &foo).ok();
    let before = std::time::Instant::now();
    change(&proxy, quota);
    let answer = post(&client, &foo);
    // On a slow machine the quota may have earned another request.
    if before.elapsed().as_millis() < 900 {
        answer.assert_error(429, "ThrottlingException");
    }
    change(&proxy, |table| {
        first_store(table).remove("max_requests_per_sec");
    });

    // A lower limit, and one higher than the buffers were made for.
    let large = xks::encrypt(&[7; 60_000], None).to_string();
    assert_eq!(client.post(&foo, large.as_bytes()).status, 413);
    change(&proxy, |table| settings::set(table, "limits.max_plaintext_in_base64", 100_000));
    client.post(&foo, large.as_bytes()).ok();
    let just_too_large = xks::encrypt(&[7; 10], None).to_string();
    client.post(&foo, just_too_large.as_bytes()).ok();
    change(&proxy, |table| settings::set(table, "limits.max_plaintext_in_base64", 12));
    let answer = client.post(&foo, just_too_large.as_bytes());
    answer.assert_error(501, "UnsupportedOperationException");
    change(&proxy, |table| settings::set(table, "limits.max_plaintext_in_base64", 8192));
    load.end();

    // A certificate of another authority, which only new handshakes use.
    let load = Load::begin(&proxy);
    let mut connection = client.connect();
    proxy.certificates().make_server_rsa();
    change(&proxy, |_| {});
    let is_trusted = |client: &Client| {
        crate::common::Connection::open(client.address, client.tls.as_ref()).is_ok()
    };
    assert!(!is_trusted(&client));
    let client = proxy.client_of(&newer);
    assert!(is_trusted(&client));
    client.send(&mut connection, &foo, body.as_bytes());
    connection.receive().unwrap().ok();

    // The log level, and the fleet size.
    let lines = |proxy: &Proxy| proxy.log().matches("INFO call=").count();
    change(&proxy, |table| {
        settings::set(table, "tracing.level", "ERROR");
        settings::set(table, "server.fleet_size", 7);
    });
    assert_eq!(client.call("health", &xks::health()).ok()["xksProxyFleetSize"], json!(7));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = lines(&proxy);
    for _ in 0..10 {
        post(&client, &foo).ok();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(lines(&proxy), before);
    change(&proxy, |table| settings::set(table, "tracing.level", "INFO"));
    proxy.wait_for("lines of calls", |proxy| lines(proxy) > before);

    // A store is added and removed again.
    let third = Store { prefix: "/third/store".into(), ..newer.clone() };
    let client_of_third = proxy.client_of(&third);
    post(&client_of_third, &foo).assert_error(404, "InvalidUriPathException");
    change(&proxy, |table| {
        let mut store = first_store(table).clone();
        store.insert("uri_path_prefix".into(), third.prefix.clone().into());
        table["external_key_stores"].as_array_mut().unwrap().insert(0, store.into());
    });
    post(&client_of_third, &foo).ok();
    post(&client, &foo).ok();
    change(&proxy, |table| {
        table["external_key_stores"].as_array_mut().unwrap().remove(0);
    });
    post(&client_of_third, &foo).assert_error(404, "InvalidUriPathException");

    // Signatures are switched off, which the log warns of, and on again.
    let target = client.target(&foo);
    let unsigned = || {
        let mut connection = client.connect();
        let headers = [("content-type".to_owned(), "application/json".to_owned())];
        let host = client.host();
        connection.send_request("POST", &target, &host, &headers, body.as_bytes()).unwrap();
        connection.receive().unwrap()
    };
    unsigned().assert_error(401, "AuthenticationFailedException");
    change(&proxy, |table| settings::set(table, "security.is_sigv4_auth_enabled", false));
    unsigned().ok();
    proxy.log_with("anybody who reaches the port can use the keys");
    change(&proxy, |table| settings::set(table, "security.is_sigv4_auth_enabled", true));
    unsigned().assert_error(401, "AuthenticationFailedException");

    // Metrics of removed items disappear: keys from the start, keys from a reload, a store.
    let shown = || String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let keys = [token::FULL, token::FOREIGN, added]
        .map(|key| format!("xks_proxy_key_encrypts_total{{key=\"{}\"}}", key.label));
    let before = shown();
    assert!(keys.iter().all(|key| before.contains(key)), "{before}");
    change(&proxy, |table| {
        let keys = vec![Value::from(token::FOREIGN.label)];
        first_store(table).insert("xks_key_id_set".into(), Value::Array(keys));
    });
    let after = shown();
    let are_there = keys.map(|key| after.contains(&key));
    assert_eq!(
        (are_there, after.contains(&third.prefix)),
        ([false, true, false], false),
        "{after}"
    );
    load.end();
}

/// Mistakes in the new file are logged, and everything continues as before; changes that need a
/// restart are named, and the rest of that file takes effect.
#[test]
fn refused_and_put_off() {
    let mut proxy = setup().start();
    let load = Load::begin(&proxy);
    let settings = || {
        let status = proxy.admin_get("/status.json");
        status.json()["settings"].clone()
    };
    let begun = settings();
    assert_eq!((&begun["reloads"], &begun["reloadTries"]), (&json!(0), &json!(0)));
    let pid = std::fs::read_to_string(proxy.directory().join("proxy.pid")).unwrap();
    assert_eq!(pid.trim(), proxy.pid().to_string());

    // The command rejects the file without signalling the proxy.
    proxy.change_settings(|table| {
        settings::set(table, "limits.max_aad_in_base64", "many");
        first_store(table).insert("disabled_keys".into(), Value::Array(vec!["fooo".into()]));
        first_store(table).insert("disabled".into(), true.into());
    });
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(78), "{printed}");
    let names_both = |text: &str| {
        ["limits.max_aad_in_base64: ", "external_key_stores[0].disabled_keys[0]: \"fooo\" is not"]
            .iter()
            .all(|part| text.contains(part) || text.contains(&part.replace('"', "\\\"")))
    };
    assert!(names_both(&printed) && printed.contains("nothing was sent"), "{printed}");
    assert_eq!(settings()["reloadTries"], json!(0));

    // SIGHUP alone, without the command.
    proxy.signal("HUP");
    while settings()["reloadTries"] == json!(0) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let refused = settings();
    assert_eq!((&refused["reloads"], refused["refused"].as_array().unwrap().len()), (&json!(0), 2));
    assert_eq!(refused["loadedUnixSecs"], begun["loadedUnixSecs"]);
    proxy.wait_for("the reasons in the log", |proxy| {
        let log = proxy.log();
        log.contains("ERROR the new settings are refused") && names_both(&log)
    });
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    for line in [
        "xks_proxy_settings_reloads_total{outcome=\"refused\"} 1",
        "xks_proxy_settings_reloads_total{outcome=\"taken_up\"} 0",
        "xks_proxy_settings_last_reload_successful 0",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let (foo, body) = encrypt(&token::FULL);
    proxy.client().post(&foo, body.as_bytes()).ok();

    // A new port needs a restart; the kill switch in the same file takes effect.
    let printed = change(&proxy, |table| {
        settings::set(table, "limits.max_aad_in_base64", 16_384);
        settings::set(table, "server.event_loops", 3);
        settings::set(table, "pkcs11.exit_when_wedged", true);
        first_store(table).remove("disabled_keys");
    });
    for member in ["server.event_loops", "pkcs11.exit_when_wedged"] {
        assert!(printed.contains(&format!("{member}: no effect until a restart")), "{printed}");
    }
    proxy.log_with("WARN these have no effect until a restart");
    proxy.client().post(&foo, body.as_bytes()).assert_error(400, "InvalidStateException");
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    assert!(metrics.contains("xks_proxy_settings_restart_needed 2"));
    assert!(metrics.contains("xks_proxy_settings_last_reload_successful 1"));
    load.end();

    // The pid of a process that is not the proxy.
    let pid_file = proxy.directory().join("proxy.pid");
    std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
    let (code, printed) = proxy.reload();
    assert!(code == Some(69) && printed.contains("is not an xks-proxy"), "{printed}");
    std::fs::write(&pid_file, pid).unwrap();
    proxy.signal("TERM");
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().success());
    assert!(!pid_file.exists());
}

/// Tokens are added and removed, and sessions become fewer, while calls are served. A missing token
/// does not take the working one out of service.
#[test]
fn other_tokens() {
    let prepared = setup().prepare();
    prepared.token.add_token("another", &[token::SECOND]);
    let mut proxy = prepared.start();
    let load = Load::begin(&proxy);
    let tokens = |proxy: &Proxy| -> Vec<String> {
        let health = proxy.client_of(&Store::second()).call("health", &xks::health()).ok();
        let details = health["ekmFleetDetails"].as_array().unwrap();
        assert!(details.iter().all(|token| token["healthStatus"] == "ACTIVE"), "{health}");
        details.iter().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
    };
    let named = |labels: &[&str]| -> Value {
        let token = |label: &&str| Table::from_iter([("label".to_owned(), Value::from(*label))]);
        Value::Array(labels.iter().map(token).map(Value::Table).collect())
    };
    // The module decides which token is the first.
    let all = [token::LABEL, "another"];
    change(&proxy, |table| settings::set(table, "pkcs11.tokens", named(&all)));
    let both = tokens(&proxy);
    assert_eq!(both.len(), 2);
    change(&proxy, |table| settings::set(table, "pkcs11.session_pool_max_size", 2));
    assert_eq!(tokens(&proxy), both);
    change(&proxy, |table| settings::set(table, "pkcs11.tokens", named(&all[1..])));
    assert_eq!(tokens(&proxy), both[1..]);
    let (foo, body) = encrypt(&token::FULL);
    let of_former = || proxy.client().post(&foo, body.as_bytes());
    of_former().assert_error(404, "KeyNotFoundException");

    proxy.change_settings(|table| settings::set(table, "pkcs11.tokens", named(&["nowhere"])));
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(78), "{printed}");
    assert!(printed.contains("no token of the new settings can be used: nowhere"), "{printed}");
    assert_eq!(tokens(&proxy), both[1..]);

    change(&proxy, |table| settings::set(table, "pkcs11.tokens", named(&all)));
    assert_eq!(tokens(&proxy), both);
    of_former().ok();
    load.end();
    proxy.wait_for("the former sessions to be closed", |proxy| {
        proxy.log().matches("the former HSM sessions are closed").count() == 4
    });
    proxy.signal("TERM");
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().success());
}

/// Rotation by logrotate: the file is moved, the process is signalled, and new lines go into a new
/// file.
#[test]
fn log_files_are_reopened() {
    let mut proxy = Setup::new()
        .set("tracing.is_file_writer_enabled", true)
        .set("tracing.directory", "logs")
        .set("tracing.file_prefix", "proxy.log")
        .set("tracing.rotation_kind", "NEVER")
        .start();
    let load = Load::begin(&proxy);
    let directory = proxy.directory().join("logs");
    let (file, moved) = (directory.join("proxy.log"), directory.join("moved"));
    std::fs::rename(&file, &moved).unwrap();
    proxy.signal("USR1");
    proxy.wait_for("lines in the new file", |_| {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("INFO call="))
    });
    let length = || std::fs::metadata(&moved).unwrap().len();
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(length(), before);
    load.end();
}

/// Of two proxies with one pid file the second refuses to start, before it logs in to the HSM, and
/// the file stays the first one's. A file that a process left behind is in nobody's way.
#[test]
fn one_pid_file_for_two() {
    let proxy = Setup::new().set("server.pid_file", "proxy.pid").start();
    let pid_file = proxy.directory().join("proxy.pid");
    let of_first = std::fs::read_to_string(&pid_file).unwrap();
    let second = Setup::new().set("server.pid_file", pid_file.to_str().unwrap()).prepare();
    let (status, log) = second.run_to_end();
    assert_eq!(status.code(), Some(69), "{log}");
    let reason = format!("process {}, is running", proxy.pid());
    assert!(log.contains(&reason) && !log.contains("HSM token in use"), "{log}");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), of_first);
    drop(proxy);

    let left = tempfile::tempdir().unwrap();
    let pid_file = left.path().join("proxy.pid");
    std::fs::write(&pid_file, &of_first).unwrap();
    let proxy = Setup::new().set("server.pid_file", pid_file.to_str().unwrap()).start();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap().trim(), proxy.pid().to_string());
}

/// A FIFO in the place of the settings file: the log says that nobody writes to it, and the reload
/// goes on once somebody does. The process serves meanwhile.
#[test]
fn from_a_fifo() {
    let prepared = Setup::new().prepare();
    let file = prepared.settings_file.clone();
    let mut proxy = prepared.start();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    proxy.signal("HUP");
    proxy.log_with("FIFO (named pipe) to which nobody writes");
    proxy.client().call("health", &xks::health()).ok();
    std::fs::write(&file, text).unwrap();
    proxy.wait_for("the reload", |proxy| proxy.log().contains("settings reloaded"));
}

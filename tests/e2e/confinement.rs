//! Confinement of the process, and secrets in separate files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::{Setup, Store, settings, xks};

/// An unprivileged user.
const USER: u32 = 65_534;

/// Returns whether another process of `user` may inspect the process `pid` (ptrace(2),
/// PTRACE_MODE_READ).
fn can_look_into(pid: u32, user: Option<u32>) -> bool {
    let mut command = Command::new("head");
    command.args(["-c", "1", &format!("/proc/{pid}/environ")]);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.output().unwrap().status.success()
}

/// The proxy runs as a non-root user, and that user's other processes can neither read its memory
/// nor get a core file, unless the settings allow it.
#[test]
fn no_dumps_and_no_root() {
    // Root may inspect all processes, so if the test runs as root, the proxy runs as another user.
    let user = rustix::process::geteuid().is_root().then_some(USER);
    for is_allowed in [false, true] {
        let mut setup = Setup::new();
        if is_allowed {
            setup = setup.set("security.allow_core_dumps", true);
        }
        let mut prepared = setup.prepare();
        if let Some(user) = user {
            prepared.run_as(user);
        }
        let proxy = prepared.start();
        proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
        assert_eq!(can_look_into(proxy.pid(), user), is_allowed);
        let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let core: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert!(is_allowed || core == ["0", "0"], "{core:?}");
        assert_eq!(proxy.log().contains("core files contain plaintext"), is_allowed);
    }
}

/// Under Landlock the token's files are inaccessible until the settings name them; then everything
/// works, including the log file.
#[test]
fn landlock() {
    let start = |is_named: bool| {
        let logs = tempfile::tempdir().unwrap();
        let mut setup = Setup::new()
            .set("security.landlock", true)
            .set("server.pid_file", "proxy.pid")
            .set("tracing.is_file_writer_enabled", true)
            .set("tracing.directory", logs.path().join("made").to_str().unwrap())
            .set("tracing.file_prefix", "proxy.log")
            .set("tracing.rotation_kind", "NEVER");
        // The token is in its usual directory; the settings are elsewhere.
        let settings = tempfile::tempdir().unwrap();
        let all = toml::Value::Array(vec![std::env::temp_dir().to_str().unwrap().into()]);
        if is_named {
            setup = setup.set("security.landlock_write", all);
        }
        let mut prepared = setup.prepare();
        let moved = settings.path().join("settings.toml");
        fs::rename(&prepared.settings_file, &moved).unwrap();
        prepared.settings_file = moved;
        (prepared.start_listening(), settings, logs)
    };
    let (mut proxy, _settings, logs) = start(true);
    proxy.wait_for("readiness", |proxy| proxy.get("/readyz").status == 200);
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let log = fs::read_to_string(logs.path().join("made/proxy.log")).unwrap();
    assert!(log.contains("landlock=true"), "{log}");
    drop(proxy);

    let (mut proxy, _settings, _logs) = start(false);
    proxy.wait_for("the token to be missed", |proxy| {
        proxy.log().contains("HSM token cannot be used") && proxy.get("/readyz").status == 503
    });
    // The files that a reload reads and the pid file are accessible.
    proxy.change_settings(|table| settings::set(table, "server.fleet_size", 3));
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
    proxy.wait_for("the settings to be taken up", |proxy| {
        proxy.client().call("health", &xks::health()).ok()["xksProxyFleetSize"] == 3
    });
    let pid_file = proxy.directory().join("proxy.pid");
    assert_eq!(fs::read_to_string(&pid_file).unwrap().trim(), proxy.pid().to_string());
    proxy.signal("TERM");
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().success());
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), "");
}

/// The grant for the audit log's first key, which only the first start reads, is not one for its
/// directory.
#[test]
fn landlock_and_the_first_audit_key() {
    let keys = tempfile::tempdir().unwrap();
    let (key, pin) = (keys.path().join("audit.key"), keys.path().join("pin"));
    for (path, text) in [(&key, "ab".repeat(32)), (&pin, "1234".to_owned())] {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o400)).unwrap();
    }
    let logs = tempfile::tempdir().unwrap();
    let mut proxy = Setup::new()
        .set("security.landlock", true)
        .set("audit.directory", logs.path().join("audit").to_str().unwrap())
        .set("audit.key_file", key.to_str().unwrap())
        .prepare()
        .start_listening();
    proxy.change_settings(|table| {
        table["pkcs11"].as_table_mut().unwrap().remove("user_pin").unwrap();
        settings::set(table, "pkcs11.user_pin_file", pin.to_str().unwrap());
    });
    proxy.signal("HUP");
    proxy.wait_for("the new settings to be refused", |proxy| {
        proxy.log().contains("the new settings are refused")
    });
    let log = proxy.log();
    let reason = "user_pin_file: \\\"";
    assert!(log.contains("Permission denied") && log.contains(reason), "{log}");
}

/// Under Landlock, a reload can add a collector that the system's CAs vouch for, wherever these are;
/// one with a file in another directory is refused, and the reason says what to do.
#[test]
fn landlock_and_collectors_that_a_reload_adds() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (trusted, own) = (tempfile::tempdir().unwrap(), elsewhere.path().join("ca.pem"));
    let mut prepared = Setup::new().set("security.landlock", true).prepare();
    let (authority, bundle) =
        (prepared.certificates.path("server_ca.pem"), trusted.path().join("b"));
    fs::copy(&authority, &bundle).unwrap();
    fs::copy(&authority, &own).unwrap();
    prepared.env("SSL_CERT_FILE", bundle.to_str().unwrap());
    let mut proxy = prepared.start_listening();
    let add = |proxy: &mut crate::common::Proxy, authority: Option<&str>| {
        let mut collector = toml::Table::new();
        collector.insert("server".to_owned(), "localhost:6514".into());
        if let Some(authority) = authority {
            collector.insert("server_ca_pem".to_owned(), authority.into());
        }
        proxy.change_settings(|table| {
            table.insert("syslog".to_owned(), vec![toml::Value::Table(collector)].into());
        });
        proxy.signal("HUP");
    };
    add(&mut proxy, None);
    proxy.log_with("settings reloaded");
    let log = proxy.log();
    assert!(
        log.contains("have no effect until a restart") && log.contains("members=syslog"),
        "{log}"
    );
    add(&mut proxy, Some(own.to_str().unwrap()));
    proxy.log_with("the new settings are refused");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("syslog[0].server_ca_pem")).unwrap();
    for part in ["Permission denied", "landlock is on", "landlock_read", "restart the proxy"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// Secrets as Kubernetes mounts them: files behind two symbolic links, readable by root and a
/// group.
#[test]
fn secrets_in_files() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("..2025_01_01");
    fs::create_dir(&data).unwrap();
    symlink("..2025_01_01", directory.path().join("..data")).unwrap();
    let put = |name: &str, text: &str| {
        fs::write(data.join(name), text).unwrap();
        fs::set_permissions(data.join(name), Permissions::from_mode(0o400)).unwrap();
        symlink(Path::new("..data").join(name), directory.path().join(name)).unwrap();
        directory.path().join(name).to_str().unwrap().to_owned()
    };
    let pin = put("pin", "1234\n");
    let secrets = [
        put("first", &format!("{}\n", Store::first().secret_access_key)),
        put("second", &Store::second().secret_access_key),
    ];
    let mut secrets = secrets.iter();
    let proxy = Setup::new()
        .unset("pkcs11", "user_pin")
        .set("pkcs11.user_pin_file", pin)
        .set("security.strict_file_permissions", true)
        .stores(|store| {
            store.remove("sigv4_secret_access_key").unwrap();
            let file = secrets.next().unwrap().as_str();
            store.insert("sigv4_secret_access_key_file".to_owned(), file.into());
        })
        .start();
    for store in [Store::first(), Store::second()] {
        proxy.client_of(&store).call("health", &xks::health()).ok();
    }
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

/// With strict permissions configured, the proxy refuses to start if others can read a secret.
#[test]
fn strict_file_permissions() {
    let prepared = Setup::new().set("security.strict_file_permissions", true).prepare();
    fs::set_permissions(&prepared.settings_file, Permissions::from_mode(0o644)).unwrap();
    let (status, log) = prepared.run_to_end();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("can be read by everyone") && log.contains("chmod"), "{log}");
}

/// A PIN that was written in place of its file's name appears neither in what `check` and `reload`
/// print nor in the log after SIGHUP nor in /status.json, which needs no authentication.
#[test]
fn a_secret_in_place_of_a_file_name() {
    const PIN: &str = "hush-4711-hush";
    let mut proxy = Setup::new().set("admin.port", 0).start();
    proxy.change_settings(|table| {
        let pkcs11 = table["pkcs11"].as_table_mut().unwrap();
        pkcs11.remove("user_pin").unwrap();
        pkcs11.insert("user_pin_file".to_owned(), PIN.into());
    });
    let settings_file = proxy.settings_file().to_str().unwrap().to_owned();
    let (code, checked) = proxy.run(&["check", &settings_file]);
    assert_eq!(code, Some(78), "{checked}");
    let (_, reloaded) = proxy.reload();
    proxy.signal("HUP");
    proxy.wait_for("the new settings to be refused", |proxy| {
        proxy.log().contains("the new settings are refused")
    });
    let status = String::from_utf8(proxy.admin_get("/status.json").body).unwrap();
    let log = proxy.log();
    let texts = [("check", checked), ("reload", reloaded), ("log", log), ("/status.json", status)];
    let leaks = texts.iter().filter(|(_, text)| {
        !text.contains("user_pin_file: (not shown) cannot be read") || text.contains("hush")
    });
    let excerpt = |(place, text): &(&str, String)| {
        let from = text.find("pkcs11.user_pin_file").unwrap_or(0);
        format!("{place}: {}", text[from..].chars().take(80).collect::<String>())
    };
    let leaks: Vec<String> = leaks.map(excerpt).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

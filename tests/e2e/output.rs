//! Commands whose output cannot be written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use crate::common::{Proxy, Setup, Store};

const SIGPIPE: i32 = 13;

/// A command with the settings file and the token of a running proxy.
fn command(proxy: &Proxy, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
    command
        .args(arguments)
        .current_dir(proxy.directory())
        .env("XKS_PROXY_SETTINGS_TOML", proxy.directory().join("settings.toml"))
        .env_remove("PKCS11_HSM_MODULE")
        .envs(proxy.token().environment());
    command
}

fn to(stdout: impl Into<Stdio>, mut command: Command) -> Output {
    command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads any more.
fn without_reader() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

/// Each command that cannot write its output says why and exits with 69; it ends quietly, as other
/// programs do, if the reader is gone.
#[test]
fn full_or_closed() {
    let proxy = Setup::new().set("server.pid_file", "pid").start();
    let (ping, prefix) = (proxy.ping.to_string(), Store::first().prefix);
    let commands: [&[&str]; 12] = [
        &["--help"],
        &["--version"],
        &["audit", "verify", "--help"],
        &["check", "settings.toml"],
        &["check", "--hsm", "settings.toml"],
        &["keys"],
        &["keys", "prove"],
        &["credentials", "new"],
        &["kms-config", &prefix],
        &["ping", &ping],
        &["reload"],
        &["probe", "--list"],
    ];
    for arguments in commands {
        let output = to(full(), command(&proxy, arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {said}");
        let why = "standard output: No space left on device";
        assert_eq!(said.matches(why).count(), 1, "{arguments:?}: {said}");
        let output = to(without_reader(), command(&proxy, arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGPIPE), "{arguments:?}: {said}");
        assert!(!said.contains("standard output"), "{arguments:?}: {said}");
    }
}

/// A reload takes place even if nobody can read about it, and its failure is still told.
#[test]
fn a_reload_reloads() {
    let proxy = Setup::new().set("server.pid_file", "pid").set("admin.port", 0).start();
    proxy.change_settings(|table| {
        // A warning, which is printed.
        table.insert("unknown_section".to_owned(), toml::Table::new().into());
    });
    let output = to(full(), command(&proxy, &["reload"]));
    assert_eq!(output.status.code(), Some(69));
    proxy.log_with("settings reloaded");
}

/// A credential whose id cannot be printed leaves no file with its secret behind.
#[test]
fn no_secret_without_its_id() {
    let proxy = Setup::new().start();
    let arguments = ["credentials", "new", "--secret-file", "secret"];
    let output = to(full(), command(&proxy, &arguments));
    assert_eq!(output.status.code(), Some(69));
    assert!(!proxy.directory().join("secret").exists());
    assert!(to(Stdio::null(), command(&proxy, &arguments)).status.success());
}

/// On a full disk, no part of a new file is left behind to be in the way of the next attempt.
#[test]
fn no_part_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.key");
    let new_key = |limit: &str| {
        // Ignored, the signal makes the write fail, as on a full disk.
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" audit new-key \"$1\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_xks-proxy")).arg(&path);
        to(Stdio::piped(), command)
    };
    let output = new_key("0");
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!path.exists());
    let output = new_key("unlimited");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(&path).unwrap().len(), 65);
}

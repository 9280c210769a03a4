//! The log in systemd's journal: a systemd-journald of the test's own, in a mount namespace.

use std::process::Command;

use serde_json::Value;

use crate::common::proxy::free_port;
use crate::common::{Setup, Store, tools};

const REMEDY: &str = "the tests need unshare(1), as root or with user namespaces, curl, and \
                      systemd-journald (which need not run):\n  \
                      Debian, Ubuntu: apt-get install systemd curl";

/// Starts a journal, and the proxy with it as standard output; makes one call, without a signature;
/// and prints the proxy's entries.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
/lib/systemd/systemd-journald 2>/dev/null &
journald=$!
trap 'kill -9 $journald' EXIT
until [ -S /run/systemd/journal/stdout ]; do kill -0 $journald; sleep 0.02; done
systemd-cat -t xks-proxy sh -c '
    # As systemd sets it for a service.
    JOURNAL_STREAM=$(stat -Lc %d:%i /proc/$$/fd/1) exec "$0"' "$PROXY" &
proxy=$!
trap 'kill -9 $proxy $journald' EXIT
curl -s --retry 100 --retry-delay 1 --retry-connrefused -o /dev/null --data '{}' "$URL"
entries() { journalctl --directory=/run/log/journal --output=json SYSLOG_IDENTIFIER=xks-proxy; }
for attempt in $(seq 300); do
    entries >all
    ! grep -q AuthenticationFailed all || break
    kill -0 $proxy
    sleep 0.1
done
cat all
"#;

/// The journal's entries of a proxy with these settings.
fn entries(setup: Setup) -> Vec<Value> {
    let port = free_port();
    let prepared = setup.set("server.port", port).prepare();
    let target = format!("{}/kms/xks/v1/keys/foo/metadata", Store::first().prefix);
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["sh", "-c", SCRIPT])
        .current_dir(prepared.directory())
        .env("PROXY", env!("CARGO_BIN_EXE_xks-proxy"))
        .env("XKS_PROXY_SETTINGS_TOML", &prepared.settings_file)
        .env("URL", format!("http://127.0.0.1:{port}{target}"));
    let output = tools::run(&mut command, REMEDY);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// By default, lines go through standard output, and the journal knows their priority.
#[test]
fn priorities() {
    for format in ["text", "json"] {
        let entries = entries(Setup::new().set("tracing.format", format));
        let (call, events): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| {
            let message = entry["MESSAGE"].as_str().unwrap();
            message.contains("call=metadata") || message.contains("\"call\":\"metadata\"")
        });
        assert_eq!((call.len(), &call[0]["PRIORITY"]), (1, &"4".into()), "{call:#?}");
        assert!(events.iter().any(|entry| entry["PRIORITY"] == "6"));
        for entry in &entries {
            let message = entry["MESSAGE"].as_str().unwrap();
            assert!(!message.starts_with('<'), "{message}");
            assert_eq!(entry["_TRANSPORT"], "stdout");
        }
    }
}

/// A call's values are fields, if the settings want them to be.
#[test]
fn fields() {
    let entries = entries(Setup::new().set("tracing.journal", "fields"));
    let call = entries.iter().find(|entry| entry["XKS_CALL"] == "metadata");
    let call = call.unwrap_or_else(|| panic!("{entries:#?}"));
    let message = call["MESSAGE"].as_str().unwrap();
    assert!(message.starts_with("call=metadata status=401 "), "{message}");
    for (name, value) in [
        ("PRIORITY", "4"),
        ("XKS_STATUS", "401"),
        ("XKS_ERROR_NAME", "AuthenticationFailedException"),
        ("XKS_EXTERNAL_KEY_ID", "foo"),
        ("XKS_PEER", "127.0.0.1"),
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(call[name], value, "{name}");
    }
    assert!(entries.iter().any(|entry| {
        entry["MESSAGE"].as_str().unwrap().starts_with("listening ") && entry["XKS_API"].is_null()
    }));
}

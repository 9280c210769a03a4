//! Effects of packages and units on a machine, as far as they can be tested without installing
//! them; `packages.sh` installs them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

fn file(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

/// Removing the package with its configuration ("purge") removes empty directories, but neither
/// the audit log nor anything else that the package did not install.
#[test]
fn purging_keeps_logs_and_secrets() {
    let root = tempfile::tempdir().unwrap();
    let kept = [
        "var/log/xks-proxy/audit/audit.jsonl",
        "var/log/xks-proxy/xks-proxy.log.2026-11-25",
        "var/lib/xks-proxy/witnesses.json",
        "etc/xks-proxy/user_pin",
    ];
    let empty = "etc/xks-proxy/tls";
    for path in kept {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "kept").unwrap();
    }
    fs::create_dir(root.path().join(empty)).unwrap();
    let purge = || {
        let mut script = Command::new("sh");
        script.arg(file("deb/postrm")).arg("purge").env("DPKG_ROOT", root.path());
        assert!(script.status().unwrap().success());
    };
    purge();
    for path in kept {
        assert!(root.path().join(path).exists(), "{path}");
    }
    assert!(!root.path().join(empty).exists());
    for path in kept {
        fs::remove_file(root.path().join(path)).unwrap();
    }
    fs::remove_dir(root.path().join("var/log/xks-proxy/audit")).unwrap();
    purge();
    for directory in ["var/log/xks-proxy", "var/lib/xks-proxy", "etc/xks-proxy"] {
        assert!(!root.path().join(directory).exists(), "{directory}");
    }
}

/// No script of a package removes a directory with its content.
#[test]
fn no_script_removes_trees() {
    for directory in ["deb", "rpm"] {
        for entry in fs::read_dir(file(directory)).unwrap() {
            let path = entry.unwrap().path();
            let script = fs::read_to_string(&path).unwrap();
            let removes = script.split(|c: char| !c.is_ascii_alphanumeric()).any(|it| it == "rm");
            assert!(!removes, "{}", path.display());
        }
    }
}

/// The service's memory, with plaintext in it, never reaches a swap device.
#[test]
fn no_swap() {
    let unit = fs::read_to_string(file("systemd/xks-proxy.service")).unwrap();
    assert!(unit.lines().any(|line| line == "MemorySwapMax=0"));
}

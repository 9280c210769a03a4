//! Files of the audit log that others delete, move, replace or cut while the proxy writes them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::audit::{audited, encrypt, end, files, lines, metric, verify, verify_with};
use crate::common::{Proxy, Setup};

/// Starts a proxy that has made a call, and returns it with the path of its current file.
fn started() -> (Proxy, PathBuf) {
    let mut proxy = audited(Setup::new().set("admin.port", 0)).start();
    encrypt(&proxy.client());
    proxy.wait_for("the first line", |proxy| lines(proxy.directory()).len() == 3);
    assert_eq!(metric(&proxy, LOST), 0.0);
    let present = proxy.directory().join("audit/audit.jsonl");
    (proxy, present)
}

const LOST: &str = "xks_proxy_audit_lost_files_total";

/// Waits until the proxy has noticed, and for a line of this kind in the file of that name.
fn wait_for_reopening(proxy: &mut Proxy, present: &Path, fate: &str, told: &str) {
    let has_state = present.with_file_name("audit.state").exists();
    let mark = format!("\"previousFile\":\"{fate}\"");
    proxy.wait_for("the new file", |_| {
        fs::read_to_string(present).is_ok_and(|text| text.contains(&mark))
    });
    assert_eq!(metric(proxy, LOST), if has_state { 1.0 } else { 2.0 });
    proxy.log_with(told);
    assert_eq!(proxy.get("/readyz").status, 200);
    encrypt(&proxy.client());
}

/// The lines of a deleted file are lost, which the log tells; those that follow are kept, in a new
/// directory if need be. The verifier reports the missing ones if it has an older file.
#[test]
fn deleted() {
    for has_directory in [true, false] {
        let (mut proxy, present) = started();
        let directory = proxy.directory().to_owned();
        match has_directory {
            true => fs::remove_file(&present).unwrap(),
            false => fs::remove_dir_all(present.parent().unwrap()).unwrap(),
        }
        wait_for_reopening(&mut proxy, &present, "deleted", "the audit log's file was deleted");
        let deleted = deleted_file(&proxy);
        end(&mut proxy);
        let found = lines(&directory);
        let events: Vec<&str> = found.iter().map(|it| it["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["reopen", "call", "stop"]);
        assert!(found[0]["seq"].as_u64().unwrap() > 3, "the chain goes on");
        let state = directory.join("audit/audit.state");
        assert!(state.exists(), "the state is kept too");
        let (code, said) = verify(&directory);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(&format!("{}", found[0]["seq"])), "{said}");
        // The next process resumes the chain.
        proxy.restart();
        end(&mut proxy);
        let (code, said) = verify(&directory);
        assert_eq!(code, 0, "{said}");
        assert!(lines(&directory).iter().any(|line| line["previousEnd"] == "clean"));
        // With the copy of the deleted file, nothing is missing.
        fs::write(directory.join("audit/audit-deleted.jsonl"), deleted).unwrap();
        assert_eq!(lines(&directory)[0]["seq"], 0);
        let (code, said) = verify(&directory);
        assert!(code == 0 && !said.contains("missing"), "{said}");
    }
}

/// Returns the deleted file, which the proxy keeps open for its operator.
fn deleted_file(proxy: &Proxy) -> Vec<u8> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let is_deleted = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().ends_with("audit.jsonl (deleted)")
    };
    let found = descriptors.map(|entry| entry.unwrap().path()).find(is_deleted);
    fs::read(found.unwrap()).unwrap()
}

/// No line is lost if the file is moved and nobody sends SIGUSR1, or if another one replaces it.
#[test]
fn moved() {
    for is_replaced in [false, true] {
        let (mut proxy, present) = started();
        let directory = proxy.directory().to_owned();
        fs::rename(&present, directory.join("audit/audit-1.jsonl")).unwrap();
        if is_replaced {
            fs::write(&present, "").unwrap();
        }
        wait_for_reopening(&mut proxy, &present, "moved", "was moved or replaced without SIGUSR1");
        end(&mut proxy);
        assert_eq!(files(&directory).len(), 2);
        let (code, said) = verify(&directory);
        assert_eq!(code, 0, "{said}");
    }
}

/// After a file was cut, as `copytruncate` of logrotate(8) does, the log goes on in it, and the
/// verifier finds the copy and the rest complete.
#[test]
fn cut() {
    let (mut proxy, present) = started();
    let directory = proxy.directory().to_owned();
    let copy = directory.join("audit/audit-1.jsonl");
    fs::copy(&present, &copy).unwrap();
    fs::File::options().write(true).open(&present).unwrap().set_len(0).unwrap();
    wait_for_reopening(&mut proxy, &present, "truncated", "was cut while it was written");
    end(&mut proxy);
    let (code, said) = verify(&directory);
    assert_eq!(code, 0, "{said}");
    let (_, said) = verify_with(&directory, std::slice::from_ref(&present), &[]);
    assert!(!said.contains("TAMPERED"), "{said}");
}

/// Without its state, the next process would begin a new chain.
#[test]
fn the_state() {
    let (mut proxy, _) = started();
    let directory = proxy.directory().to_owned();
    let state = directory.join("audit/audit.state");
    let earlier = fs::read(&state).unwrap();
    fs::remove_file(&state).unwrap();
    proxy.wait_for("the state", |proxy| state.exists() && metric(proxy, LOST) == 1.0);
    proxy.log_with("the state file of the audit log was deleted or replaced");
    // An earlier state in its place is not resumed from.
    let copy = directory.join("copy");
    fs::write(&copy, &earlier).unwrap();
    fs::set_permissions(&copy, fs::metadata(&state).unwrap().permissions()).unwrap();
    encrypt(&proxy.client());
    fs::rename(&copy, &state).unwrap();
    proxy.wait_for("the state again", |proxy| metric(proxy, LOST) == 2.0);
    encrypt(&proxy.client());
    end(&mut proxy);
    proxy.restart();
    end(&mut proxy);
    let (code, said) = verify(&directory);
    assert_eq!(code, 0, "{said}");
    let opened = lines(&directory).into_iter().filter(|line| line["event"] == "open").count();
    assert_eq!(opened, 2);
}

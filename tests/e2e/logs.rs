//! Contents of the log for operators and auditors.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::common::{Proxy, Setup, Store, xks};

const REQUEST_ID: &str = "an id\nWARN forged line \"quoted\" \\ \u{1b}[31m \u{e9}";

/// Three calls: one good, one refused, one that tries to forge log lines.
fn make_calls(proxy: &mut Proxy) -> String {
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let missing = client.call("keys/later_key/metadata", &xks::metadata("DescribeKey"));
    missing.assert_error(404, "KeyNotFoundException");
    let mut hostile = xks::metadata("DescribeKey");
    hostile["requestMetadata"]["kmsRequestId"] = json!(REQUEST_ID);
    client.call("keys/foo/metadata", &hostile).ok();
    proxy.wait_for("three calls in the log", |proxy| {
        proxy.log().lines().filter(|line| line.contains("arn:aws:iam")).count() == 3
    });
    proxy.log()
}

/// Asserts that a line about the first call has all its details, in either format.
fn assert_says_all(line: &str) {
    let store = Store::first();
    for part in [
        "encrypt",
        "200",
        "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "Encrypt",
        "arn:aws:iam::123456789012:user/Alice",
        "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "foo",
        "vpc-1234567890abcdef0",
        "vpce-1234567890abcdef0",
        &store.prefix,
        "xks-proxy",
        "127.0.0.1",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn text() {
    let mut proxy = Setup::new().start();
    let log = make_calls(&mut proxy);
    let calls: Vec<&str> = log.lines().filter(|line| line.contains("arn:aws:iam")).collect();
    assert_says_all(calls[0]);
    assert!(calls[1].contains("KeyNotFoundException") && calls[1].contains("404"));
    assert!(calls[2].contains("forged line"), "{}", calls[2]);
    assert!(!log.lines().any(|line| line.starts_with("WARN forged")), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn json_lines() {
    let mut proxy = Setup::new().set("tracing.format", "json").start();
    let log = make_calls(&mut proxy);
    let mut calls = Vec::new();
    for line in log.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object(), "{line}");
        if line.contains("arn:aws:iam") {
            assert_says_all_of(&event, calls.is_empty(), line);
            calls.push(event);
        }
    }
    assert_eq!(calls.len(), 3);
    let members = calls[2].as_object().unwrap();
    assert!(members.values().any(|value| value == REQUEST_ID), "{}", calls[2]);
}

fn assert_says_all_of(event: &Value, is_first: bool, line: &str) {
    if is_first {
        assert_says_all(line);
    }
    assert!(event.as_object().unwrap().values().any(|value| value.is_u64()), "{line}");
}

/// A rotating log file in addition to standard output, in a directory that is created if missing.
#[test]
fn file() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("made/at/start");
    let mut proxy = Setup::new()
        .set("tracing.is_file_writer_enabled", true)
        .set("tracing.directory", logs.to_str().unwrap())
        .set("tracing.file_prefix", "xks-proxy.log")
        .set("tracing.rotation_kind", "HOURLY")
        .start();
    make_calls(&mut proxy);
    let read = || {
        std::fs::read_dir(&logs).unwrap().fold(String::new(), |text, entry| {
            let entry = entry.unwrap();
            assert!(entry.file_name().to_str().unwrap().starts_with("xks-proxy.log."));
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
            text + &std::fs::read_to_string(entry.path()).unwrap()
        })
    };
    proxy.wait_for("three calls in the file", |_| {
        read().lines().filter(|line| line.contains("arn:aws:iam")).count() == 3
    });
}

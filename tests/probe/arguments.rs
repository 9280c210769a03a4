//! Arguments that the probe refuses.

use crate::common::Store;
use crate::common::proxy::free_port;
use crate::run::{probe, run};

/// Each mistake is reported, with the exit code for mistakes.
#[test]
fn mistakes() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "too short").unwrap();
    for (arguments, word) in [
        (vec!["ftp://a/store", "--key-id", "key"], "https://"),
        (vec!["http://a/store", "--key-id", "key"], "--insecure-http"),
        (vec!["https://a/store", "--key-id", "key", "--insecure-http"], "--insecure-http"),
        (vec!["https://a/st%6fre", "--key-id", "key"], "path prefix"),
        (vec!["https://a/store"], "--key-id"),
        (vec!["https://a/store", "--key-id", "a/b"], "--key-id"),
        (vec!["https://a/store", "--key-id", "key", "--region", "us\r\nx"], "--region"),
        (vec!["https://a/store", "--key-id", "key", "--ca", "/nowhere"], "/nowhere"),
        (
            vec!["https://a/store", "--key-id", "key", "--client-cert", "/nowhere"],
            "belong together",
        ),
    ] {
        let run = probe(&arguments);
        assert_eq!(run.code, Some(78), "{arguments:?}: {}", run.text);
        assert!(run.text.contains(word), "{arguments:?}: {}", run.text);
    }
    let directory = tempfile::tempdir().unwrap();
    let id = Store::first().access_key_id;
    let secret = secret.path().to_str().unwrap();
    for (arguments, word) in [
        (vec![], "SIGV4_ACCESS_KEY_ID"),
        (vec!["--access-key-id", "short"], "access key id"),
        (vec!["--access-key-id", &id], "SIGV4_SECRET_ACCESS_KEY"),
        (vec!["--access-key-id", &id, "--secret-access-key-file", "/nowhere"], "/nowhere"),
        (vec!["--access-key-id", &id, "--secret-access-key-file", secret], "43 to 64"),
    ] {
        let given = [&["https://a/store", "--key-id", "key"], arguments.as_slice()].concat();
        let run = run(&given, directory.path());
        assert_eq!(run.code, Some(78), "{arguments:?}: {}", run.text);
        assert!(run.text.contains(word) && !run.text.contains("too short"), "{}", run.text);
    }
}

/// A port on which nothing listens, and a name that does not exist.
#[test]
fn not_reachable() {
    let port = free_port();
    for url in [format!("https://127.0.0.1:{port}/store"), "https://a.invalid/store".to_owned()] {
        let run = probe(&[&url, "--key-id", "key"]);
        assert_eq!(run.code, Some(69), "{}", run.text);
        assert!(run.text.contains("cannot be reached"), "{}", run.text);
    }
}

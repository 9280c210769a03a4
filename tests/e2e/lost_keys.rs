//! Keys that existed and are no longer found: the token has a fault, or the keys were deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Client, Proxy, Setup, token, tools, xks};
use crate::metrics::watched;

/// The outcome and time of a call.
struct Answer {
    at: Instant,
    status: u16,
    /// Error name; empty for a success.
    error: String,
}

/// Encrypts and decrypts with a key.
fn ask(client: &Client, key: &token::Key) -> Vec<Answer> {
    let encrypted = xks::encrypt_here(key, b"plaintext", None, b"");
    let calls = [
        ("encrypt", xks::encrypt(b"plaintext", None)),
        ("decrypt", xks::decrypt(&encrypted, None)),
    ];
    let answers = calls.into_iter().map(|(call, body)| {
        let response = client.call(&format!("keys/{}/{call}", key.label), &body);
        let status = response.status;
        let error = match status {
            200 => String::new(),
            _ => response.json()["errorName"].as_str().unwrap().to_owned(),
        };
        Answer { at: Instant::now(), status, error }
    });
    answers.collect()
}

fn is_served(client: &Client, key: &token::Key) -> bool {
    ask(client, key).iter().all(|answer| answer.status == 200)
}

/// A few calls per second with one key, until stopped.
struct Traffic {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Traffic {
    fn start(client: Client, key: token::Key) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                answers.extend(ask(&client, &key));
                sleep(Duration::from_millis(20));
            }
            answers
        });
        Self { is_over, thread }
    }

    fn stop(self) -> Vec<Answer> {
        self.is_over.store(true, Ordering::Relaxed);
        let answers = self.thread.join().unwrap();
        assert!(answers.len() > 20);
        answers
    }
}

/// A token's directory that can be taken away, as if its file system were unmounted.
struct Storage {
    here: PathBuf,
    away: PathBuf,
}

impl Storage {
    /// Storage of the only token.
    fn of(proxy: &Proxy) -> Self {
        Self::in_directory(&proxy.directory().join("tokens"))
    }

    fn in_directory(tokens: &std::path::Path) -> Self {
        let mut all = std::fs::read_dir(tokens).unwrap();
        let here = all.next().unwrap().unwrap().path();
        assert!(all.next().is_none());
        Self { away: tokens.with_extension("away"), here }
    }

    fn take_away(&self) -> Instant {
        std::fs::rename(&self.here, &self.away).unwrap();
        Instant::now()
    }

    fn put_back(&self) -> Instant {
        std::fs::rename(&self.away, &self.here).unwrap();
        Instant::now()
    }
}

/// Polls readiness until `end`. Returns whether it was ever 200.
fn is_ever_ready(proxy: &Proxy, end: Instant) -> bool {
    let mut is_ready = false;
    while Instant::now() < end {
        is_ready |= proxy.get("/readyz").status == 200;
        sleep(Duration::from_millis(20));
    }
    is_ready
}

/// A setup with a single key, so that no other key can show that the token works.
fn with_one_key(key: &token::Key) -> Setup {
    let only = || toml::Value::Array(vec![key.label.into()]);
    watched().stores(|store| {
        store.insert("xks_key_id_set".to_owned(), only());
    })
}

/// The token's storage disappears for three seconds: the HSM counts as unavailable, and no key is
/// reported as missing. Afterwards everything works again without a restart.
fn storage_that_goes_and_comes(setup: Setup) {
    let mut proxy = setup.start();
    let client = proxy.client();
    proxy.wait_for("the key to be served", |_| is_served(&client, &token::FULL));
    let storage = Storage::of(&proxy);
    let traffic = Traffic::start(proxy.client(), token::FULL);
    sleep(Duration::from_millis(300));
    let gone = storage.take_away();
    proxy.wait_for("readiness to go", |proxy| proxy.get("/readyz").status == 503);
    assert!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    assert!(!is_ever_ready(&proxy, gone + Duration::from_secs(3)));
    let back = storage.put_back();
    proxy.wait_for("readiness to be back", |proxy| proxy.get("/readyz").status == 200);
    proxy.wait_for("the key to be served again", |_| is_served(&client, &token::FULL));
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    sleep(Duration::from_millis(300));
    let served_again = Instant::now();
    sleep(Duration::from_millis(500));
    for Answer { at, status, error } in traffic.stop() {
        let is_while_away = at >= gone && at < served_again;
        let is_right = status == 200 || status == 503 && is_while_away;
        assert!(is_right, "{status} {error} {:?} after it was taken away", at - gone);
    }
    let log = proxy.log_with("have disappeared");
    assert!(log.contains("HSM token out of use"), "{log}");
}

#[test]
fn the_storage_of_many_keys_goes_and_comes() {
    storage_that_goes_and_comes(watched());
}

#[test]
fn the_storage_of_one_key_goes_and_comes() {
    storage_that_goes_and_comes(with_one_key(&token::FULL));
}

/// The same without requests: the health checker detects it.
#[test]
fn the_storage_goes_while_nobody_asks() {
    let mut proxy = watched().start();
    let storage = Storage::of(&proxy);
    let gone = storage.take_away();
    proxy.wait_for("readiness to go", |proxy| proxy.get("/readyz").status == 503);
    assert!(gone.elapsed() < Duration::from_secs(8), "{:?}", gone.elapsed());
    let back = storage.put_back();
    proxy.wait_for("readiness to be back", |proxy| proxy.get("/readyz").status == 200);
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    assert!(is_served(&proxy.client(), &token::FULL));
}

/// One of two tokens, each with its own module, loses its storage. Requests are unaffected; the
/// token's status shows it.
#[test]
fn one_token_of_two_loses_its_storage() {
    let libraries = tempfile::tempdir().unwrap();
    let copy = libraries.path().join("another.so");
    std::fs::copy(tools::softhsm2_module(), &copy).unwrap();
    let named = |label: &str| toml::Table::from_iter([("label".to_owned(), label.into())]);
    let mut other = named("other");
    other.insert("module".to_owned(), copy.to_str().unwrap().into());
    other.insert("user_pin".to_owned(), token::PIN.into());
    let prepared = watched().set("pkcs11.tokens", vec![named(token::LABEL), other]).prepare();
    let storage = Storage::in_directory(&prepared.directory().join("tokens"));
    prepared.token.add_token("other", &[token::FULL, token::SECOND]);
    let mut proxy = prepared.start();
    let states = |proxy: &Proxy| -> Vec<Value> {
        let status = proxy.admin_get("/status.json").json();
        status["tokens"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect()
    };
    proxy.wait_for("both tokens to be in use", |proxy| states(proxy) == ["active", "active"]);
    let traffic = Traffic::start(proxy.client(), token::FULL);
    sleep(Duration::from_millis(300));
    let gone = storage.take_away();
    proxy.wait_for("the token to be out", |proxy| states(proxy)[0] == "unavailable");
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    assert_eq!(proxy.get("/readyz").status, 200);
    sleep((gone + Duration::from_secs(3)).saturating_duration_since(Instant::now()));
    let back = storage.put_back();
    proxy.wait_for("the token to be back", |proxy| states(proxy) == ["active", "active"]);
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    let answered = |proxy: &Proxy| {
        let status = proxy.admin_get("/status.json").json();
        status["tokens"][0]["answered"].as_u64().unwrap()
    };
    let before = answered(&proxy);
    proxy.wait_for("it to be given work", |proxy| answered(proxy) > before);
    for Answer { at, status, error } in traffic.stop() {
        assert_eq!(status, 200, "{error} {:?} after it was taken away", at - gone);
    }
}

/// The only key is deleted, as an administrator may do: at first the token may be at fault, then
/// the deletion is recognised.
#[test]
fn the_only_key_is_deleted() {
    let mut proxy = with_one_key(&token::FULL).start();
    let client = proxy.client();
    proxy.wait_for("the key to be served", |_| is_served(&client, &token::FULL));
    let traffic = Traffic::start(proxy.client(), token::FULL);
    proxy.token().destroy(&token::FULL);
    let deleted = Instant::now();
    proxy.wait_for("the key to be known as deleted", |proxy| {
        ask(&client, &token::FULL).iter().all(|answer| answer.error == "KeyNotFoundException")
            && proxy.get("/readyz").status == 200
    });
    assert!(deleted.elapsed() < Duration::from_secs(10), "{:?}", deleted.elapsed());
    sleep(Duration::from_secs(1));
    let answers = traffic.stop();
    let first = answers.iter().find(|answer| answer.error == "KeyNotFoundException").unwrap().at;
    for Answer { at, status, error } in &answers {
        let is_right = match status {
            404 => *at >= first,
            200 | 503 => *at < first,
            _ => false,
        };
        assert!(is_right, "{status} {error} {:?} after it was deleted", *at - deleted);
    }
    let log = proxy.log_with("were deleted");
    assert!(log.contains("HSM token out of use"), "{log}");
    // A new key with that label is found like any other.
    proxy.token().add(&token::FULL);
    proxy.wait_for("the new key to be served", |_| is_served(&client, &token::FULL));
}

/// One of two keys is deleted: that is known at once, and the other is served throughout.
#[test]
fn one_key_of_two_is_deleted() {
    let mut proxy = watched()
        .stores(|store| {
            let labels = [token::FULL.label, token::SECOND.label].map(toml::Value::from);
            store.insert("xks_key_id_set".to_owned(), toml::Value::Array(labels.into()));
        })
        .start();
    let client = proxy.client();
    proxy.wait_for("both keys to be served", |_| {
        is_served(&client, &token::FULL) && is_served(&client, &token::SECOND)
    });
    let doomed = Traffic::start(proxy.client(), token::FULL);
    let other = Traffic::start(proxy.client(), token::SECOND);
    sleep(Duration::from_millis(300));
    proxy.token().destroy(&token::FULL);
    let deleted = Instant::now();
    for answer in ask(&client, &token::FULL) {
        assert_eq!((answer.status, answer.error.as_str()), (404, "KeyNotFoundException"));
    }
    sleep(Duration::from_secs(3));
    for Answer { at, status, error } in doomed.stop() {
        let is_right = status == 404 || (status == 200 && at < deleted);
        assert!(is_right, "{status} {error} {:?} after it was deleted", at - deleted);
    }
    assert!(other.stop().iter().all(|answer| answer.status == 200));
    proxy.log_with("were deleted");
    assert_eq!(proxy.get("/readyz").status, 200);
    let token = proxy.admin_get("/status.json").json()["tokens"][0].clone();
    assert_eq!(token["putInUse"], 1, "{token:#}");
    assert_eq!(token["keysOutOfUse"].as_array().unwrap().len(), 0, "{token:#}");
}

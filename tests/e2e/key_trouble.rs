//! One key that the HSM fails to serve while it serves others: only that key's requests are
//! affected, and they recover by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::proxy::free_port;
use crate::common::{Client, Interposed, Proxy, Setup, token, xks};
use crate::metrics::watched;

/// One return code of each class in `src/hsm/pkcs11/codes.rs`, and a vendor-defined one.
const CODES: [&str; 12] = [
    "\"CKR_FUNCTION_FAILED\"",
    "\"CKR_ARGUMENTS_BAD\"",
    "\"CKR_SESSION_HANDLE_INVALID\"",
    "\"CKR_USER_NOT_LOGGED_IN\"",
    "\"CKR_KEY_HANDLE_INVALID\"",
    "\"CKR_KEY_FUNCTION_NOT_PERMITTED\"",
    "\"CKR_DEVICE_REMOVED\"",
    "\"CKR_CRYPTOKI_NOT_INITIALIZED\"",
    "\"CKR_DEVICE_MEMORY\"",
    "\"CKR_PIN_EXPIRED\"",
    "\"CKR_MECHANISM_INVALID\"",
    "0x8000ffff",
];
/// Codes in `CODES` that are regular answers or report a busy HSM, and so open no circuit breaker.
/// From C_Decrypt, CKR_ARGUMENTS_BAD may mean a bad ciphertext: it is a fault there.
const NO_FAULTS: [&str; 4] = [
    "\"CKR_ARGUMENTS_BAD\"",
    "\"CKR_KEY_FUNCTION_NOT_PERMITTED\"",
    "\"CKR_DEVICE_MEMORY\"",
    "\"CKR_MECHANISM_INVALID\"",
];

/// Encrypts or decrypts with a key, and returns the status of the answer.
fn ask(client: &Client, key: &token::Key, call: &str) -> u16 {
    let body = match call {
        "encrypt" => xks::encrypt(b"plaintext", None),
        _ => xks::decrypt(&xks::encrypt_here(key, b"plaintext", None, b""), None),
    };
    client.call(&format!("keys/{}/{call}", key.label), &body).status
}

/// Sequential requests with the good key, until stopped.
struct GoodTraffic {
    is_over: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    thread: JoinHandle<usize>,
}

impl GoodTraffic {
    fn start(client: Client) -> Self {
        let (is_over, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, fails) = (Arc::clone(&is_over), Arc::clone(&failed));
        let thread = std::thread::spawn(move || {
            let mut asked = 0;
            while !ends.load(Ordering::Relaxed) {
                for call in ["encrypt", "decrypt"] {
                    let is_well = ask(&client, &token::FULL, call) == 200;
                    fails.fetch_add(usize::from(!is_well), Ordering::Relaxed);
                    asked += 1;
                }
                sleep(Duration::from_millis(5));
            }
            asked
        });
        Self { is_over, failed, thread }
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 10);
        assert_eq!(self.failed.load(Ordering::Relaxed), 0);
    }
}

fn token_status(proxy: &Proxy) -> Value {
    proxy.admin_get("/status.json").json()["tokens"][0].clone()
}

fn keys_out_of_use(proxy: &Proxy) -> usize {
    token_status(proxy)["keysOutOfUse"].as_array().unwrap().len()
}

fn sessions_opened(proxy: &Proxy) -> u64 {
    token_status(proxy)["sessionsOpened"].as_u64().unwrap()
}

/// One function fails for one key, with each code in turn.
fn one_bad_key(function: &str, call: &str, are_no_faults: &[&str]) {
    let mut proxy = Interposed::new(watched().usual_deadline());
    let client = proxy.client();
    proxy.wait_for("both keys to be served", |_| {
        ask(&client, &token::FULL, call) == 200 && ask(&client, &token::SECOND, call) == 200
    });
    let good = GoodTraffic::start(proxy.client());
    for code in CODES {
        let opened = sessions_opened(&proxy);
        proxy.set(&format!(
            "[[fault]]\nkey = \"bar\"\nfunctions = [\"{function}\"]\nreturn = {code}"
        ));
        let is_fault = !are_no_faults.contains(&code);
        let end = Instant::now() + Duration::from_millis(if is_fault { 8_000 } else { 900 });
        while Instant::now() < end && !(is_fault && keys_out_of_use(&proxy) == 1) {
            assert_ne!(ask(&client, &token::SECOND, call), 200, "{code}");
            sleep(Duration::from_millis(10));
        }
        assert_eq!(keys_out_of_use(&proxy), usize::from(is_fault), "{code}");
        assert_eq!(good.failed(), 0, "{code}");
        assert_eq!(token_status(&proxy)["putInUse"], 1, "{code}: the circuit stays closed");
        let opened = sessions_opened(&proxy) - opened;
        assert!(opened <= 3, "{code}: {opened} sessions opened again");
        assert_eq!(proxy.get("/readyz").status, 200);

        proxy.set("");
        let ended = Instant::now();
        proxy.wait_for("the key to be served again", |_| ask(&client, &token::SECOND, call) == 200);
        assert!(ended.elapsed() < Duration::from_millis(2_500), "{code}");
        assert_eq!(keys_out_of_use(&proxy), 0, "{code}");
    }
    good.stop();
    let log = proxy.log_with("HSM key in use again");
    assert!(log.contains("HSM key out of use"), "{log}");
}

#[test]
fn at_the_beginning_of_an_encryption() {
    one_bad_key("C_EncryptInit", "encrypt", &NO_FAULTS);
}

#[test]
fn at_an_encryption() {
    one_bad_key("C_Encrypt", "encrypt", &NO_FAULTS);
}

#[test]
fn at_the_beginning_of_a_decryption() {
    one_bad_key("C_DecryptInit", "decrypt", &NO_FAULTS);
}

/// Even for codes that may mean a bad ciphertext, a known-good ciphertext of the same key fails as
/// well.
#[test]
fn at_a_decryption() {
    one_bad_key("C_Decrypt", "decrypt", &NO_FAULTS[1..]);
}

/// An expired key no longer encrypts, but still decrypts.
#[test]
fn an_expired_key_decrypts() {
    let setup = Setup::new().set("admin.port", free_port()).usual_deadline();
    let mut proxy = Interposed::new(setup);
    let client = proxy.client();
    proxy.wait_for("the key to be served", |_| ask(&client, &token::SECOND, "encrypt") == 200);
    proxy.set(
        "[[fault]]\nkey = \"bar\"\nfunctions = [\"C_EncryptInit\"]\nreturn = \"CKR_FUNCTION_FAILED\"",
    );
    proxy.wait_for("the key to be out of use", |proxy| {
        ask(&client, &token::SECOND, "encrypt");
        assert_eq!(ask(&client, &token::SECOND, "decrypt"), 200);
        keys_out_of_use(proxy) == 1
    });
    let status = token_status(&proxy);
    assert_eq!(status["keysOutOfUse"][0]["label"], "bar");
    assert_eq!(status["keysOutOfUse"][0]["direction"], "encrypt");
    assert_eq!(status["state"], "active");
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    for sample in [
        "xks_proxy_hsm_key_breakers_open{index=\"0\",token=\"xks-proxy\"} 1\n",
        "xks_proxy_hsm_key_breaker_openings_total{index=\"0\",token=\"xks-proxy\"} 1\n",
    ] {
        assert!(metrics.contains(sample), "{metrics}");
    }
    let (code, text) = proxy.run(&["keys"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("bar encrypt on token xks-proxy: CKR_FUNCTION_FAILED"), "{text}");
    for _ in 0..50 {
        assert_eq!(ask(&client, &token::SECOND, "decrypt"), 200);
    }
}

/// Calls with one key hang: other keys are served, few threads hang, and the key's calls are
/// refused at once.
#[test]
fn a_key_that_hangs() {
    let mut proxy =
        Interposed::new(watched().usual_deadline().set("pkcs11.session_pool_max_size", 4));
    let client = proxy.client();
    proxy.wait_for("both keys to be served", |_| {
        ask(&client, &token::FULL, "encrypt") == 200
            && ask(&client, &token::SECOND, "encrypt") == 200
    });
    let good = GoodTraffic::start(proxy.client());
    proxy.set("[[fault]]\nkey = \"bar\"\nhang = true");
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let client = proxy.client();
            std::thread::spawn(move || {
                let end = Instant::now() + Duration::from_secs(5);
                while Instant::now() < end {
                    assert_eq!(ask(&client, &token::SECOND, "encrypt"), 503);
                    sleep(Duration::from_millis(10));
                }
            })
        })
        .collect();
    for asker in askers {
        asker.join().unwrap();
    }
    let start = Instant::now();
    assert_eq!(ask(&client, &token::SECOND, "encrypt"), 503);
    assert!(start.elapsed() < Duration::from_millis(150), "answered at once");
    let status = token_status(&proxy);
    let hung = status["hung"].as_u64().unwrap();
    assert!((1..=8).contains(&hung), "{hung} threads hang");
    assert_eq!(status["keysOutOfUse"][0]["label"], "bar", "{status:#}");
    assert_eq!(status["putInUse"], 1);
    assert_eq!(proxy.get("/readyz").status, 200);
    proxy.set("");
    proxy
        .wait_for("the key to be served again", |_| ask(&client, &token::SECOND, "encrypt") == 200);
    proxy.wait_for("the threads to be back", |proxy| token_status(proxy)["hung"] == 0);
    good.stop();
}

/// An HSM that cannot answer within the deadline is taken out of use until it is fast enough again;
/// its callers learn that it is unavailable, not that it is overloaded.
#[test]
fn slower_than_the_deadline() {
    let mut proxy = Interposed::new(watched().usual_deadline());
    let client = proxy.client();
    proxy.wait_for("the key to be served", |_| ask(&client, &token::FULL, "encrypt") == 200);
    proxy.set("hsm_milli = 400");
    let start = Instant::now();
    // So few that waiting for 16 calls, each counted as its own hang, would take longer.
    let asker = {
        let client = proxy.client();
        std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(4);
            let mut answers = Vec::new();
            while Instant::now() < end {
                answers.push(ask(&client, &token::FULL, "encrypt"));
                sleep(Duration::from_millis(20));
            }
            answers
        })
    };
    proxy.wait_for("the token to be out of use", |proxy| proxy.get("/readyz").status == 503);
    assert!(start.elapsed() < Duration::from_secs(3));
    let log = proxy.log_with("out of use");
    let reason = log.lines().find(|line| line.contains("HSM token out of use")).unwrap();
    let is_of_silence = ["it answers no request in time", "a request must be answered within"];
    assert!(is_of_silence.iter().any(|text| reason.contains(text)), "{reason}");
    let answers = asker.join().unwrap();
    assert!(answers.iter().rev().take(20).all(|status| *status == 503), "{answers:?}");
    assert_eq!(proxy.get("/readyz").status, 503, "it stays out of use");
    assert_eq!(token_status(&proxy)["putInUse"], 1);
    proxy.set("");
    proxy.wait_for("the key to be served again", |_| ask(&client, &token::FULL, "encrypt") == 200);
}

/// With a health key, health checks use no other key.
#[test]
fn the_health_key() {
    let setup: Setup = watched().set("pkcs11.health_key", "foreign_key");
    let mut proxy = Interposed::new(setup);
    let client = proxy.client();
    proxy.wait_for("the key to be served", |_| ask(&client, &token::FULL, "encrypt") == 200);
    let (code, text) = proxy.run(&["check", "--hsm"]);
    assert_eq!(code, Some(69), "keys of the standard token are missing or short: {text}");
    assert!(text.contains("health key \"foreign_key\": there"), "{text}");
    proxy.set("[[fault]]\nkey = \"foreign_key\"\nreturn = \"CKR_DEVICE_ERROR\"");
    sleep(Duration::from_millis(500));
    assert_eq!(proxy.get("/readyz").status, 200, "one key's trouble is not the token's");
    assert_eq!(ask(&client, &token::FULL, "encrypt"), 200);
}

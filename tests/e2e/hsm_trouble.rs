//! An HSM that is slow, hangs, or refuses: the proxy's answers during that time and afterwards.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Client, Interposed, Response, Setup, token, xks};

fn encrypt(client: &Client) -> Response {
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None))
}

fn encrypt_with_cdiv(client: &Client) -> Response {
    client.call("keys/foo/encrypt", &xks::encrypt_with_cdiv(b"plaintext", None))
}

fn decrypt(client: &Client) -> Response {
    let encrypted = xks::encrypt_here(&token::FULL, b"plaintext", None, b"");
    client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None))
}

fn health_status(client: &Client) -> Value {
    let health = client.call("health", &xks::health()).ok();
    health["ekmFleetDetails"][0]["healthStatus"].clone()
}

/// The median time of 21 runs.
fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[10]
}

/// With 32 calls of 500 ms in flight, `/ping`, readiness and health answer without delay, and all
/// 32 calls are answered too.
#[test]
fn slow_hsm() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set("limits.request_deadline_milli", 60_000)
            .set("pkcs11.session_pool_max_size", 32),
    );
    proxy.set("hsm_milli = 500");
    let client = proxy.client();
    let body = xks::encrypt(b"slow", None).to_string();
    let mut calls: Vec<_> = (0..32)
        .map(|_| {
            let mut connection = client.connect();
            client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
            connection
        })
        .collect();

    let limit = Duration::from_millis(100);
    let ping = median(|| assert_eq!(proxy.get("/ping").status, 200));
    assert!(ping < limit, "/ping took {ping:?}");
    let health = median(|| {
        client.call("health", &xks::health()).ok();
    });
    assert!(health < limit, "health took {health:?}");
    for connection in &mut calls {
        connection.receive().unwrap().ok();
    }
}

/// KMS hangs up after 250 ms: the answer comes before that, however long the HSM takes. When the
/// HSM recovers, so does the proxy.
#[test]
fn hung_hsm() {
    let mut proxy = Interposed::new(Setup::new().usual_deadline());
    let client = proxy.client();
    proxy.wait_for("a call to succeed", |_| encrypt(&client).status == 200);
    // Exceeds the deadline even in slow instrumented builds.
    proxy.set("hsm_milli = 6000");
    for _ in 0..12 {
        let response = encrypt(&client);
        match response.status {
            // The proxy may already know that waiting is pointless.
            429 => response.assert_error(429, "ThrottlingException"),
            _ => response.assert_error(503, "DependencyTimeoutException"),
        }
    }
    client.call("health", &xks::health()).ok();
    proxy.set("");
    proxy.wait_for("calls to succeed again", |_| encrypt(&client).status == 200);
}

/// More calls than the HSM can serve in time: some are refused at once, so that the others are
/// served in time.
#[test]
fn overload() {
    let setup = Setup::new()
        .set("limits.request_deadline_milli", 1_000)
        .set("pkcs11.session_pool_max_size", 1);
    let mut proxy = Interposed::new(setup);
    proxy.set("hsm_milli = 200");
    let client = proxy.client();
    let body = xks::encrypt(b"many", None).to_string();
    let mut served = 0;
    proxy.wait_for("some calls to be served and some to be turned away", |_| {
        let mut calls: Vec<_> = (0..24)
            .map(|_| {
                let mut connection = client.connect();
                client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
                connection
            })
            .collect();
        let mut turned_away = 0;
        for connection in &mut calls {
            let response = connection.receive().unwrap();
            match response.status {
                200 => served += 1,
                429 => {
                    response.assert_error(429, "ThrottlingException");
                    turned_away += 1;
                }
                _ => response.assert_error(503, "DependencyTimeoutException"),
            }
        }
        served > 0 && turned_away > 0
    });
}

/// A wrong PIN stops no process and is not tried again, since HSMs lock. Everything else works, and
/// health and readiness report the failure.
#[test]
fn refused_login() {
    let prepared = Setup::new().set("pkcs11.user_pin", "4321").prepare();
    let mut proxy = prepared.start_listening();
    proxy.wait_for("/ping", |proxy| proxy.get("/ping").status == 200);
    assert_eq!(proxy.get("/readyz").status, 503);
    let client = proxy.client();
    assert_eq!(health_status(&client), "UNAVAILABLE");
    let refused = client.call("keys/foo/encrypt", &xks::encrypt(b"x", None));
    refused.assert_error(503, "DependencyTimeoutException");
    let log = proxy.log_with("PIN");
    assert!(!log.contains("4321"), "{log}");
}

/// One call hangs: only it is answered late, and the others do not wait for it.
#[test]
fn one_hung_call() {
    let mut proxy = Interposed::new(Setup::new().set("limits.request_deadline_milli", 2_000));
    let client = proxy.client();
    encrypt(&client).ok();
    proxy.set("[[fault]]\nhang = true\nfunctions = [\"C_Decrypt\"]\nskip = 0\ncount = 1");
    let mut hung = client.connect();
    let encrypted = xks::encrypt_here(&token::FULL, b"plaintext", None, b"");
    let body = xks::decrypt(&encrypted, None).to_string();
    client.send(&mut hung, "keys/foo/decrypt", body.as_bytes());
    for _ in 0..20 {
        encrypt(&client).ok();
    }
    match hung.receive().unwrap() {
        // The call that hung may have been a health check.
        answered if answered.status == 200 => {}
        late => late.assert_error(503, "DependencyTimeoutException"),
    }
    decrypt(&client).ok();
}

/// A transient fault is retried, and the caller is unaffected.
#[test]
fn passing_trouble() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    encrypt(&client).ok();
    for fault in [
        "return = \"CKR_SESSION_HANDLE_INVALID\"\nfunctions = [\"C_EncryptInit\", \"C_DecryptInit\"]",
        "return = \"CKR_SESSION_CLOSED\"\nfunctions = [\"C_EncryptInit\", \"C_DecryptInit\"]",
        "return = \"CKR_KEY_HANDLE_INVALID\"\nfunctions = [\"C_EncryptInit\", \"C_DecryptInit\"]",
        "return = \"CKR_OBJECT_HANDLE_INVALID\"\nfunctions = [\"C_EncryptInit\", \"C_DecryptInit\"]",
        "return = \"CKR_DEVICE_ERROR\"\nfunctions = [\"C_Encrypt\"]",
        "close_session = true\nfunctions = [\"C_EncryptInit\", \"C_DecryptInit\"]",
        "flip_bit = true",
    ] {
        eprintln!("{fault}");
        proxy.set(&format!("[[fault]]\ncount = 1\n{fault}"));
        for _ in 0..5 {
            encrypt_with_cdiv(&client).ok();
            decrypt(&client).ok();
        }
    }
}

/// An operation that the HSM refuses is an InternalException, not the caller's fault.
#[test]
fn lasting_trouble() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    encrypt(&client).ok();
    let refuse = "[[fault]]\nreturn = \"CKR_MECHANISM_INVALID\"\nfunctions = [\"C_EncryptInit\"]";
    proxy.set(refuse);
    encrypt(&client).assert_error(500, "InternalException");
    decrypt(&client).ok();
    proxy.set("");
    proxy.wait_for("calls to succeed again", |_| encrypt(&client).status == 200);
}

/// A wrong ciphertext from the HSM is never sent out (XKS specification, Encrypt: the verifying
/// decrypt), and an HSM that gets all of them wrong is taken out of use.
#[test]
fn a_wrong_ciphertext_is_not_sent_out() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    encrypt_with_cdiv(&client).ok();
    proxy.set("[[fault]]\nflip_bit = true");
    proxy.wait_for("health to say UNAVAILABLE", |_| {
        let refused = encrypt_with_cdiv(&client);
        match refused.status {
            503 => refused.assert_error(503, "DependencyTimeoutException"),
            _ => refused.assert_error(500, "InternalException"),
        }
        health_status(&client) == "UNAVAILABLE"
    });
    proxy.set("");
    proxy.wait_for("calls to succeed again", |_| encrypt_with_cdiv(&client).status == 200);
}

/// The HSM is unplugged and comes back: health and readiness report both, and no restart is needed.
#[test]
fn token_gone_and_back() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    encrypt(&client).ok();
    proxy.set("[[fault]]\nreturn = \"CKR_DEVICE_REMOVED\"");
    proxy.wait_for("health to say UNAVAILABLE", |_| health_status(&client) == "UNAVAILABLE");
    proxy.wait_for("readiness to go", |proxy| proxy.get("/readyz").status == 503);
    assert_eq!(proxy.get("/ping").status, 200);
    encrypt(&client).assert_error(503, "DependencyTimeoutException");
    proxy.log_with("CKR_DEVICE_REMOVED (0x00000032)");
    proxy.set("");
    proxy.wait_for("calls to succeed again", |_| encrypt(&client).status == 200);
    proxy.wait_for("health to say ACTIVE", |_| health_status(&client) == "ACTIVE");
    proxy.wait_for("readiness", |proxy| proxy.get("/readyz").status == 200);
}

/// A device failure must not be reported as a corrupt ciphertext.
#[test]
fn a_broken_device_is_no_bad_ciphertext() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    decrypt(&client).ok();
    for code in ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_ERROR"] {
        proxy.set(&format!("[[fault]]\nreturn = \"{code}\""));
        let answer = decrypt(&client);
        let name = answer.json()["errorName"].clone();
        assert!(answer.status >= 500, "{code}: {} {name}", answer.status);
        proxy.set("");
        proxy.wait_for("calls to succeed again", |_| decrypt(&client).status == 200);
    }
}

/// All calls hang permanently, and the settings ask for a restart by a supervisor: the process
/// exits with the code for that. (Otherwise it stays, alive and not ready.)
#[test]
fn a_wedged_process_ends() {
    let mut proxy = Interposed::new(
        Setup::new()
            .usual_deadline()
            .set("pkcs11.exit_when_wedged", true)
            .set("pkcs11.session_pool_max_size", 4)
            .set("server.drain_delay_milli", 10),
    );
    let client = proxy.client();
    proxy.wait_for("a call to succeed", |_| encrypt(&client).status == 200);
    proxy.set("[[fault]]\nhang = true");
    // Enough calls to establish that the token hangs; some are refused by then.
    for _ in 0..8 {
        let body = xks::encrypt(b"hangs", None).to_string();
        let mut calls: Vec<_> = (0..8)
            .map(|_| {
                let mut connection = client.connect();
                client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
                connection
            })
            .collect();
        for connection in &mut calls {
            assert_ne!(connection.receive().unwrap().status, 200);
        }
    }
    proxy.wait_for("readiness to go", |proxy| proxy.get("/readyz").status == 503);
    assert_eq!(proxy.get("/ping").status, 200);
    assert_eq!(proxy.wait_for_end().code(), Some(75));
}

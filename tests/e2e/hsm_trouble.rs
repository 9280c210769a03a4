//! An HSM that is slow, hangs, or refuses: what the proxy answers meanwhile, and after.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{Client, Proxy, Setup, tools, xks};

/// A proxy whose PKCS#11 module can be slowed down while it runs.
pub struct Interposed {
    proxy: Proxy,
    configuration: PathBuf,
}

impl Interposed {
    /// Starts it, at full speed.
    pub fn new(setup: Setup) -> Self {
        let mut prepared = setup
            .set("pkcs11.PKCS11_HSM_MODULE", tools::interposer().to_str().unwrap())
            .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap())
            .prepare();
        let configuration = prepared.directory().join("interposer.conf");
        std::fs::write(&configuration, "").unwrap();
        prepared.env("XKS_INTERPOSER_CONFIG", configuration.to_str().unwrap());
        Self { proxy: prepared.start(), configuration }
    }

    /// From now on, each call into the module takes that much longer.
    pub fn set_delay(&mut self, milli: u32) {
        let text = if milli == 0 { String::new() } else { format!("hsm_milli = {milli}\n") };
        // Replaced at once, so that the module never reads half of it.
        let next = self.configuration.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.configuration).unwrap();
        // The module looks at the file every 50 ms at the most.
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Deref for Interposed {
    type Target = Proxy;
    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

impl DerefMut for Interposed {
    fn deref_mut(&mut self) -> &mut Proxy {
        &mut self.proxy
    }
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

/// 32 calls of 500 ms in flight: `/ping`, readiness and health answer as if there were none, and
/// the 32 calls are answered too.
#[test]
fn slow_hsm() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set("limits.request_deadline_milli", 60_000)
            .set("pkcs11.session_pool_max_size", 32),
    );
    proxy.set_delay(500);
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
        let health = client.call("health", &xks::health()).ok();
        assert_eq!(health["ekmFleetDetails"][0]["healthStatus"], "ACTIVE");
    });
    assert!(health < limit, "health took {health:?}");
    for connection in &mut calls {
        connection.receive().unwrap().ok();
    }
}

/// KMS hangs up after 250 ms: the answer comes before, however long the HSM takes. And when the
/// HSM is itself again, so is the proxy.
#[test]
fn hung_hsm() {
    let mut proxy = Interposed::new(Setup::new());
    let client = proxy.client();
    let encrypt = |client: &Client| client.call("keys/foo/encrypt", &xks::encrypt(b"hung", None));
    encrypt(&client).ok();
    proxy.set_delay(3_000);
    for _ in 0..12 {
        let response = encrypt(&client);
        match response.status {
            // The proxy may know by now that waiting is in vain.
            429 => response.assert_error(429, "ThrottlingException"),
            _ => response.assert_error(503, "DependencyTimeoutException"),
        }
    }
    client.call("health", &xks::health()).ok();
    proxy.set_delay(0);
    proxy.wait_for("calls to succeed again", |_| encrypt(&client).status == 200);
}

/// More calls than the HSM can serve in time: some are turned away at once, so that the others
/// are served in time.
#[test]
fn overload() {
    let mut proxy = Interposed::new(Setup::new().set("pkcs11.session_pool_max_size", 1));
    proxy.set_delay(60);
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

/// A wrong PIN stops no process (and is not tried again: HSMs lock). What works goes on, and
/// health and readiness say what doesn't.
#[test]
fn refused_login() {
    let prepared = Setup::new().set("pkcs11.user_pin", "4321").prepare();
    let mut proxy = prepared.start_listening();
    proxy.wait_for("/ping", |proxy| proxy.get("/ping").status == 200);
    assert_eq!(proxy.get("/readyz").status, 503);
    let client = proxy.client();
    let health = client.call("health", &xks::health()).ok();
    assert_eq!(health["ekmFleetDetails"][0]["healthStatus"], "UNAVAILABLE");
    let refused = client.call("keys/foo/encrypt", &xks::encrypt(b"x", None));
    refused.assert_error(503, "DependencyTimeoutException");
    let log = proxy.log();
    assert!(log.contains("PIN") && !log.contains("4321"), "{log}");
}

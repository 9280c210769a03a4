//! A wrong clock is seen before it is an outage, from the times at which authentic requests were
//! signed.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::metrics::watched;
use crate::common::settings::set;
use crate::common::{Client, Proxy, xks};

/// The samples that an estimate needs.
const ENOUGH: usize = 20;

/// A client whose clock is that many seconds behind the proxy's: so far ahead is the proxy.
fn client_behind(proxy: &Proxy, secs: u64) -> Client {
    let mut client = proxy.client();
    client.signer.time = SystemTime::now() - Duration::from_secs(secs);
    client
}

/// The member of a call's body by which KMS's requests differ.
fn number(mut body: Value, number: usize) -> Value {
    body["requestMetadata"]["kmsRequestId"] = number.to_string().into();
    body
}

/// The gauge, if it has a value, and the same member of the status, which is read a moment later.
fn ahead_secs(proxy: &Proxy) -> Option<i64> {
    let gauge = || {
        let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
        let line = metrics.lines().find_map(|it| it.strip_prefix("xks_proxy_clock_ahead_seconds "));
        line.map(|value| value.parse().unwrap())
    };
    let of_status = || proxy.admin_get("/status.json").json()["clockAheadSecs"].as_i64();
    // The estimate may be renewed between the two.
    let agreed = (0..5).find_map(|_| {
        let gauge = gauge();
        (of_status() == gauge).then_some(gauge)
    });
    agreed.expect("the metrics and the status never agree")
}

#[track_caller]
fn wait_for_gauge(proxy: &mut Proxy, about: i64) {
    proxy.wait_for("the gauge", |proxy| {
        ahead_secs(proxy).is_some_and(|secs| (about..about + 60).contains(&secs))
    });
}

#[track_caller]
fn assert_names_the_clock(proxy: &Proxy) {
    for answer in [proxy.get("/readyz"), proxy.admin_get("/readyz")] {
        let text = String::from_utf8(answer.body).unwrap();
        assert!(answer.status == 503 && text.contains("clock"), "{text}");
    }
}

/// Requests whose signature is right but for the date show by how much the clock is off; those of
/// strangers do not, however many.
#[test]
fn ten_minutes_off() {
    let mut proxy = watched().start();
    let mut stranger = client_behind(&proxy, 600);
    stranger.signer.store.secret_access_key.push('x');
    for _ in 0..2 * ENOUGH {
        stranger.call("health", &xks::health()).assert_error(401, "AuthenticationFailedException");
    }
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(ahead_secs(&proxy), None);
    assert_eq!(proxy.get("/readyz").status, 200);

    let kms = client_behind(&proxy, 600);
    for request in 0..ENOUGH {
        let health = number(xks::health(), request);
        kms.call("health", &health).assert_error(401, "AuthenticationFailedException");
    }
    wait_for_gauge(&mut proxy, 600);
    assert_names_the_clock(&proxy);
    let log = proxy.log_with("the clock of this machine differs");
    assert_eq!(log.matches("the clock of this machine differs").count(), 1, "{log}");
    assert!(log.contains("ahead_secs=60"), "{log}");
}

/// Somebody who has kept requests cannot make a proxy unready by sending them later: neither one of
/// them, if there are no others, nor many, once a later one has come.
#[test]
fn kept_requests() {
    let proxy = watched().start();
    let replayed = client_behind(&proxy, 600);
    for _ in 0..2 * ENOUGH {
        replayed.call("health", &xks::health()).assert_error(401, "AuthenticationFailedException");
    }
    proxy.client().call("health", &xks::health()).ok();
    for request in 0..2 * ENOUGH {
        let health = number(xks::health(), request);
        replayed.call("health", &health).assert_error(401, "AuthenticationFailedException");
    }
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(ahead_secs(&proxy), None);
    assert_eq!(proxy.get("/readyz").status, 200);
}

/// Shortly before calls are refused, another replica should get them. A change of the setting takes
/// effect at a reload.
#[test]
fn before_it_is_an_outage() {
    let mut proxy = watched().start();
    let kms = client_behind(&proxy, 272);
    for request in 0..ENOUGH {
        let encrypt = number(xks::encrypt(b"plaintext", None), request);
        kms.call("keys/foo/encrypt", &encrypt).ok();
    }
    wait_for_gauge(&mut proxy, 272);
    assert_names_the_clock(&proxy);
    proxy.change_settings(|table| set(table, "server.unready_at_clock_skew_secs", 0));
    proxy.signal("HUP");
    proxy.wait_for("readiness", |proxy| proxy.get("/readyz").status == 200);
    assert_eq!(proxy.admin_get("/readyz").status, 200);
    assert!(ahead_secs(&proxy).is_some());
}

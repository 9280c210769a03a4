//! Shutdown without a lost request.

use std::time::Duration;

use crate::common::{Connection, Interposed, Setup, xks};

/// A load balancer first sees the proxy become unready, then clients are asked to leave. Connected
/// and late clients are served until the end.
#[test]
fn sigterm() {
    ends_well("TERM");
}

#[test]
fn sigint() {
    ends_well("INT");
}

fn ends_well(signal: &str) {
    let mut proxy = Setup::new()
        .set("server.drain_delay_milli", 5_000)
        .set("server.drain_timeout_milli", 20_000)
        .start();
    let client = proxy.client();
    let body = xks::health().to_string();
    let mut kept = client.connect();
    client.send(&mut kept, "health", body.as_bytes());
    assert_eq!(kept.receive().unwrap().header("connection"), None);
    let mut idle = client.connect();

    proxy.signal(signal);
    proxy.wait_for("readiness to go", |proxy| proxy.get("/readyz").status == 503);
    assert_eq!(proxy.get("/ping").status, 200);
    client.send(&mut kept, "health", body.as_bytes());
    let last = kept.receive().unwrap();
    assert_eq!(last.header("connection"), Some("close"));
    last.ok();
    assert!(kept.is_at_end().unwrap());
    // The late connection may have missed the close, or may already have been closed.
    let late = client.call("keys/foo/encrypt", &xks::encrypt(b"late", None));
    assert_eq!(late.header("connection"), None);
    late.ok();

    assert_eq!(proxy.wait_for_end().code(), Some(0));
    assert!(idle.is_at_end().unwrap());
    assert!(Connection::open(proxy.api, None).is_err());
}

/// A request that the HSM is processing is answered before the process ends.
#[test]
fn what_is_in_flight_is_finished() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set("limits.request_deadline_milli", 30_000)
            .set("server.drain_delay_milli", 0)
            .set("server.drain_timeout_milli", 30_000),
    );
    proxy.set("hsm_milli = 1000");
    let client = proxy.client();
    let mut connection = client.connect();
    let body = xks::encrypt(b"in flight", None).to_string();
    client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    proxy.signal("TERM");
    connection.receive().unwrap().ok();
    assert_eq!(proxy.wait_for_end().code(), Some(0));
}

/// A hung HSM does not delay the shutdown indefinitely.
#[test]
fn the_end_has_a_limit() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set("limits.request_deadline_milli", 300_000)
            .set("server.drain_delay_milli", 0)
            .set("server.drain_timeout_milli", 500),
    );
    proxy.set("[[fault]]\nhang = true");
    let client = proxy.client();
    let mut connection = client.connect();
    let body = xks::encrypt(b"never answered", None).to_string();
    client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    proxy.signal("TERM");
    proxy.wait_for_end();
}

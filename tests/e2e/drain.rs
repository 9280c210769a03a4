//! Shutdown without a lost request.

use std::time::{Duration, Instant};

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
    // A connection opened during the drain is not asked to close at first, but before the end.
    let is_kept = || {
        let late = client.call("keys/foo/encrypt", &xks::encrypt(b"late", None));
        late.ok();
        late.header("connection").is_none()
    };
    assert!(is_kept());
    proxy.wait_for("late connections to be asked to close", |_| !is_kept());
    assert!(!proxy.log().contains("accepting ends"));

    assert_eq!(proxy.wait_for_end().code(), Some(0));
    assert!(idle.is_at_end().unwrap());
    assert!(Connection::open(proxy.api, None).is_err());
}

/// A second signal ends the delay, and a third one the wait for a request that the HSM does not
/// answer.
#[test]
fn further_signals_shorten_it() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set("limits.request_deadline_milli", 600_000)
            .set("server.drain_delay_milli", 600_000)
            .set("server.drain_timeout_milli", 600_000),
    );
    proxy.set("[[fault]]\nhang = true");
    let client = proxy.client();
    let mut connection = client.connect();
    let body = xks::encrypt(b"never answered", None).to_string();
    client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    for told in ["draining: no longer ready", "accepting ends", "or at a signal"] {
        proxy.signal("INT");
        proxy.log_with(told);
    }
    assert_eq!(proxy.wait_for_end().code(), Some(0));
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

/// A request that is on its way when accepting ends is answered, however long the connection has
/// been quiet before. The client is told to close, and later ones are refused.
#[test]
fn what_is_on_its_way_is_answered() {
    let mut proxy = Setup::new()
        .tls()
        .set("server.drain_delay_milli", 0)
        .set("server.drain_timeout_milli", 20_000)
        .start();
    let client = proxy.client();
    let body = xks::health().to_string();
    let mut used = client.connect();
    client.send(&mut used, "health", body.as_bytes());
    used.receive().unwrap().ok();
    let mut unused = client.connect();
    // Longer than the time between two requests of a client that sends one every second.
    std::thread::sleep(Duration::from_millis(1_500));
    proxy.signal("TERM");
    proxy.log_with("accepting ends");
    // The network's delay.
    std::thread::sleep(Duration::from_millis(300));
    for connection in [&mut used, &mut unused] {
        client.send(connection, "health", body.as_bytes());
        let answer = connection.receive().unwrap();
        assert_eq!(answer.header("connection"), Some("close"));
        answer.ok();
    }
    assert_eq!(proxy.wait_for_end().code(), Some(0));
}

/// A process that has little time to end closes quiet connections properly before that, with
/// close_notify.
#[test]
fn quiet_connections_are_closed_in_time() {
    let mut proxy = Setup::new()
        .tls()
        .set("server.drain_delay_milli", 0)
        .set("server.drain_timeout_milli", 1_000)
        .start();
    let client = proxy.client();
    let mut quiet = client.connect();
    client.send(&mut quiet, "health", xks::health().to_string().as_bytes());
    quiet.receive().unwrap().ok();
    let began = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(700), "it waited for a request");
    assert!(quiet.is_at_end().unwrap());
    assert!(!proxy.log().contains("still open"), "{}", proxy.log());
}

//! A process that hands over closes none of the connections it has accepted.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::config::Config;
use super::panic_tests::{ask, connect, encrypt, start};

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "waiting for {what}");
        thread::sleep(Duration::from_micros(100));
    }
}

/// A connection that was accepted from the kernel's queue but could not be admitted is served,
/// since no other process can see it.
#[test]
fn who_waits_for_a_place_is_served() {
    let config = Config { max_connections: 1, ..Config::local() };
    let running = start(&config, Arc::default());
    let metrics = running.metrics.of_loop(0);
    let mut at_work = connect(running.address);
    assert!(ask(&mut at_work, &encrypt()).starts_with("HTTP/1.1 200"));
    // A connection with an authentic request, in the middle of the next one, is not evicted.
    at_work.write_all(&encrypt().as_bytes()[..20]).unwrap();
    let mut waiting = connect(running.address);
    wait_for("the limit", || metrics.accept_pauses.get() > 0);
    drop(at_work);
    wait_for("a place", || metrics.connections_closed.get() == 1);
    running.lifecycle.hand_over();
    assert!(ask(&mut waiting, &encrypt()).starts_with("HTTP/1.1 200"));
    drop(waiting);
    running.lifecycle.stop();
    running.thread.join().unwrap().unwrap();
    assert_eq!(metrics.connections_accepted.get(), 2);
}

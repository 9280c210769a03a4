//! Quotas of key stores, and their independence of each other.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use crate::common::{Connection, Interposed, Setup, Store, token, xks};
use crate::load::SetAtEnd;

/// Returns an encrypt call with [`token::SECOND`], which both stores have.
fn encrypt() -> (String, String) {
    let call = format!("keys/{}/encrypt", token::SECOND.label);
    (call, xks::encrypt(b"plaintext", None).to_string())
}

/// A store may make as many calls at once as its rate allows per second, then gets
/// ThrottlingException. Health calls and calls refused earlier do not count, and the other store is
/// unaffected.
#[test]
fn requests_per_second() {
    let proxy = Setup::new().set_in_store(0, "max_requests_per_sec", 20).start();
    let (first, second) = (proxy.client(), proxy.client_of(&Store::second()));
    let (call, body) = encrypt();
    let mut connection = first.connect();
    let mut post = |call: &str, body: &str| {
        first.send(&mut connection, call, body.as_bytes());
        connection.receive().unwrap()
    };
    for _ in 0..100 {
        post("health", &xks::health().to_string()).ok();
        post("keys/no_such_key/encrypt", &body).assert_error(404, "KeyNotFoundException");
        post(&call, "{}").assert_error(400, "ValidationException");
    }
    // A slow machine earns a few more during the test.
    let answers: Vec<_> = (0..200).map(|_| post(&call, &body)).collect();
    let (good, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    assert!(good.len() >= 20 && !refused.is_empty(), "{} good", good.len());
    assert!(answers[..20].iter().all(|answer| answer.status == 200));
    for answer in refused {
        answer.assert_error(429, "ThrottlingException");
        assert_eq!(answer.header("connection"), None);
    }
    for _ in 0..100 {
        second.call(&call, &xks::encrypt(b"plaintext", None)).ok();
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(post(&call, &body).status, 200, "the quota fills up again");
}

/// An HSM with two slow sessions: of forty calls that a store sends at once, four are in progress,
/// so another store's call is served in time. Each answer frees a place.
#[test]
fn calls_in_flight() {
    let mut proxy = Interposed::new(
        Setup::new()
            .set_in_store(0, "max_in_flight", 4)
            .set("pkcs11.session_pool_max_size", 2)
            .set("limits.request_deadline_milli", 10_000),
    );
    proxy.set("hsm_milli = 100");
    let (first, second) = (proxy.client(), proxy.client_of(&Store::second()));
    let (call, body) = encrypt();
    for _ in 0..2 {
        let mut noisy: Vec<Connection> = (0..40).map(|_| first.connect()).collect();
        for connection in &mut noisy {
            first.send(connection, &call, body.as_bytes());
        }
        second.post(&call, body.as_bytes()).ok();
        let statuses: Vec<u16> =
            noisy.iter_mut().map(|connection| connection.receive().unwrap().status).collect();
        let good = statuses.iter().filter(|status| **status == 200).count();
        let refused = statuses.iter().filter(|status| **status == 429).count();
        assert!(good >= 4 && refused > 0 && good + refused == 40, "{statuses:?}");
    }
    first.post(&call, body.as_bytes()).ok();
}

/// A call that hangs in the HSM releases its place when it is answered, not when the HSM recovers;
/// otherwise the store would be shut out until then.
#[test]
fn hung_calls_keep_no_place() {
    let setup = Setup::new()
        .set_in_store(0, "max_in_flight", 2)
        .set("limits.request_deadline_milli", 1_000);
    let mut proxy = Interposed::new(setup);
    let client = proxy.client();
    let (call, body) = encrypt();
    client.post(&call, body.as_bytes()).ok();
    proxy.set("hsm_milli = 3000");
    let mut hung: Vec<Connection> = (0..2).map(|_| client.connect()).collect();
    for connection in &mut hung {
        client.send(connection, &call, body.as_bytes());
    }
    for connection in &mut hung {
        connection.receive().unwrap().assert_error(503, "DependencyTimeoutException");
    }
    // The call may fail, but not because of the quota.
    let answer = client.post(&call, body.as_bytes());
    let message = answer.json()["errorMessage"].to_string();
    assert!(answer.status != 429 || !message.contains("max_in_flight"), "{message}");
    // A peer that disconnects releases its call's place too.
    for _ in 0..10 {
        client.send(&mut client.connect(), &call, body.as_bytes());
    }
    proxy.set("");
    let again = || client.post(&call, body.as_bytes()).status == 200;
    assert!((0..100).any(|_| again() || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        false
    }));
}

/// A store that exceeds its quota more than tenfold gets its quota, and ThrottlingException for the
/// rest, on connections that stay open. Every call of another store is served.
#[test]
fn a_noisy_store_beside_another() {
    const QUOTA: u32 = 5;
    let proxy = Setup::new().set_in_store(0, "max_requests_per_sec", QUOTA).start();
    let (noisy, quiet) = (proxy.client(), proxy.client_of(&Store::second()));
    let (call, body) = encrypt();
    let (good, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _ended = SetAtEnd(&is_over);
        let make_noise = || {
            let mut connection = noisy.connect();
            while !is_over.load(Ordering::Relaxed) {
                noisy.send(&mut connection, &call, body.as_bytes());
                let answer = connection.receive().unwrap();
                match answer.status {
                    200 => good.fetch_add(1, Ordering::Relaxed),
                    _ => {
                        answer.assert_error(429, "ThrottlingException");
                        assert_eq!(answer.header("connection"), None);
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make_noise)).collect();
        let mut connection = quiet.connect();
        let is_loud = || refused.load(Ordering::Relaxed) > 10 * good.load(Ordering::Relaxed);
        let mut answered = 0;
        while answered < 100 || !is_loud() {
            quiet.send(&mut connection, &call, body.as_bytes());
            connection.receive().unwrap().ok();
            answered += 1;
            assert!(threads.iter().all(|thread| !thread.is_finished()), "the noise has ended");
        }
    });
    // The initial burst, plus what has been earned since.
    let earned = QUOTA + u32::try_from(began.elapsed().as_secs()).unwrap() * QUOTA + QUOTA;
    let good = good.into_inner();
    assert!((QUOTA..=earned).contains(&good), "{good} done, of {earned}");
}

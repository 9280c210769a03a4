//! The life of a connection: order, framing, timeouts, closing.

use std::time::Duration;

use serde_json::json;
use xks_proxy::job::{Completion, Failure, ReplyTo, ReturnCode};
use xks_proxy::limits::MIN_AGE_TO_SEND_AWAY;
use xks_proxy::proto::{Listener, Step, Wait};

use crate::calls::{b64, call, encrypt, metadata, unb64};
use crate::rig::signer::Unsigned;
use crate::rig::{KEY, Rig, service};

const PING: &[u8] = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";

fn encrypt_call(plaintext: &[u8]) -> Vec<u8> {
    call(&format!("keys/{KEY}/encrypt"), &encrypt(plaintext, Some(b"aad")))
}

/// Splits the body into chunks of `size` bytes, each with an extension, and appends a trailer.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(size) {
        wire.extend_from_slice(format!("{:X};n=\"v\"\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\nX-Trailer: y\r\n\r\n");
    wire
}

fn chunked_call(size: usize) -> Vec<u8> {
    let body = encrypt(b"Hello World!", None).to_string().into_bytes();
    let wire = chunked(&body, size);
    Unsigned::call(&format!("keys/{KEY}/encrypt"), body)
        .signed_with(("transfer-encoding", "chunked"), &wire)
}

/// The answer does not depend on where the network splits a request.
#[test]
fn a_request_may_be_cut_anywhere() {
    for request in [encrypt_call(&[7; 40]), chunked_call(50)] {
        for cut in 1..request.len() {
            let mut rig = Rig::usual();
            rig.send(&request[..cut]);
            assert!(rig.responses().is_empty());
            rig.send(&request[cut..]);
            assert_eq!(rig.responses()[0].status, 200, "cut at {cut}");
        }
        for piece in [1, 2, 7, 63] {
            let mut rig = Rig::usual();
            rig.send_in_pieces(&[&request[..], &request].concat(), piece);
            let statuses: Vec<u16> = rig.responses().iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [200, 200], "pieces of {piece}");
        }
    }
}

/// A body in one-byte chunks takes no more room than its data.
#[test]
fn tiny_chunks_of_the_largest_body() {
    let body = encrypt(&[1; 4_300], Some(&[2; 8_192])).to_string().into_bytes();
    let request = Unsigned::call(&format!("keys/{KEY}/encrypt"), body.clone())
        .signed_with(("transfer-encoding", "chunked"), &chunked(&body, 1));
    let mut rig = Rig::usual();
    rig.send(&request);
    assert_eq!(rig.responses()[0].status, 200);
    assert!(rig.inbox.is_empty());
}

/// RFC 9112, 9.3.2: answers come in the order of the requests, and no request is processed before
/// the previous one is answered.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    let pipeline =
        [encrypt_call(b"1"), PING.to_vec(), encrypt_call(b"22"), encrypt_call(b"333")].concat();
    rig.send(&pipeline);
    for _ in 0..3 {
        assert_eq!(rig.jobs.len(), 1);
        assert!(rig.work());
    }
    let lengths: Vec<Option<usize>> = rig
        .responses()
        .iter()
        .map(|answer| match answer.field("content-type") {
            Some("application/json") => Some(unb64(&answer.json()["ciphertext"]).len()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [Some(1), None, Some(2), Some(3)]);
}

/// A peer that pipelines requests and does not read gets no more room until its answer has been
/// sent.
#[test]
fn there_is_no_room_while_an_answer_is_pending() {
    let mut rig = Rig::usual();
    rig.hold_answers = true;
    rig.send(PING);
    assert_eq!(rig.connection.as_ref().unwrap().room(&rig.loop_state), 0);
    assert!(matches!(rig.connection.as_ref().unwrap().wait(), Wait::Send(_)));
    rig.send(PING);
    assert_eq!((rig.inbox.len(), rig.responses().len()), (PING.len(), 1));
    rig.take_answer();
    assert_eq!((rig.inbox.len(), rig.responses().len()), (0, 1));
}

/// A head whose lines end in a lone LF or CR has no end to wait for: it is refused at once, wherever
/// the network split it.
#[test]
fn lone_line_ends_are_refused_at_once() {
    for head in ["GET /ping HTTP/1.1\nHost: a\n\n", "GET /ping HTTP/1.1\rHost: a\r\r", "\r\n\n"] {
        for piece in [1, 7, 100] {
            let mut rig = Rig::usual();
            rig.send_in_pieces(head.as_bytes(), piece);
            let answers = rig.responses();
            assert_eq!(answers.len(), 1, "{head:?}");
            assert!(answers[0].status == 400 && answers[0].closes() && rig.is_closed());
        }
    }
}

/// RFC 9110, 10.1.1: a client that expects 100 Continue gets it once the head is accepted, unless
/// the body has already begun, the version is HTTP/1.0, or the head is refused.
#[test]
fn expect_continue() {
    let body = encrypt(b"x", None).to_string();
    let mut request = Unsigned::call(&format!("keys/{KEY}/encrypt"), body.clone());
    request.headers.push(("expect".to_owned(), "100-continue".to_owned()));
    let signed = request.signed();
    let head = signed.len() - body.len();

    let mut rig = Rig::usual();
    rig.send(&signed[..head]);
    assert_eq!(rig.responses()[0].status, 100);
    rig.send(&signed[head..]);
    assert_eq!(rig.responses()[0].status, 200);

    let mut rig = Rig::usual();
    rig.send(&signed[..=head]);
    assert!(rig.responses().is_empty());
    rig.send(&signed[head + 1..]);
    assert_eq!(rig.responses()[0].status, 200);

    let mut rig = Rig::usual();
    rig.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert!(rig.answers.is_empty());

    let mut rig = Rig::usual();
    rig.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n",
    );
    assert_eq!(rig.responses()[0].status, 413);
    assert!(rig.is_closed());
}

/// RFC 9112, 9.3: an HTTP/1.0 connection ends after the answer unless both sides send keep-alive.
#[test]
fn http_1_0() {
    let mut rig = Rig::usual();
    rig.send(b"GET /ping HTTP/1.0\r\n\r\n");
    let answer = rig.responses().remove(0);
    assert!(answer.status == 200 && answer.closes() && rig.is_closed());

    let mut rig = Rig::usual();
    rig.send(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = rig.responses().remove(0);
    assert_eq!(answer.field("connection"), Some("keep-alive"));
    assert!(!rig.is_closed());
}

/// RFC 9112, 9.6: after a request with `Connection: close` nothing more is read.
#[test]
fn connection_close() {
    let mut rig = Rig::usual();
    rig.send(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /ping HTTP/1.1\r\n");
    let answers = rig.responses();
    assert!(answers.len() == 1 && answers[0].closes() && rig.is_closed());
}

/// While the process drains, requests under way are answered and then the connection ends.
#[test]
fn draining_ends_connections_with_an_answer() {
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    rig.send(&encrypt_call(b"x"));
    rig.snapshot.is_draining = true;
    assert!(rig.work());
    let answer = rig.responses().remove(0);
    assert!(answer.status == 200 && answer.closes() && rig.is_closed());
}

/// A client that was told to reconnect and comes back because no other process serves yet keeps its
/// new connection: closing it after each answer would cost a handshake for each request. Shortly
/// before accepting ends it is told to leave, so that it is not cut off later.
#[test]
fn who_comes_while_it_drains_stays_until_the_last_part() {
    let mut rig = Rig::usual();
    rig.snapshot.is_draining = true;
    rig.reconnect();
    for _ in 0..3 {
        rig.send(PING);
        assert!(!rig.responses().remove(0).closes() && !rig.is_closed());
    }
    rig.snapshot.is_sending_away = true;
    rig.send(PING);
    assert!(rig.responses().remove(0).closes() && rig.is_closed());
}

/// While the proxy is not ready, an answer that reports a failure of the HSM ends its connection, so
/// that the client's next one can come to another proxy. One that has just come is kept, so that
/// clients do not connect for each request when no proxy is ready; and so is one with another answer.
#[test]
fn failures_of_the_hsm_send_away_while_not_ready() {
    let failing = |age: Duration, is_ready: bool, failure: Failure| {
        let mut rig = Rig::usual();
        rig.hsm.failure = Some(failure);
        rig.snapshot.is_ready = is_ready;
        rig.snapshot.now += age;
        rig.send(&encrypt_call(b"x"));
        let closes = rig.responses().remove(0).closes();
        assert_eq!(closes, rig.is_closed());
        closes
    };
    let age = MIN_AGE_TO_SEND_AWAY;
    assert!(failing(age, false, Failure::NoToken));
    assert!(failing(age, false, Failure::TimedOut));
    assert!(failing(age, false, Failure::Pkcs11(ReturnCode::Other(0x30))));
    assert!(!failing(age, true, Failure::NoToken));
    assert!(!failing(age - Duration::from_millis(1), false, Failure::NoToken));
    assert!(!failing(age, false, Failure::KeyNotFound));
    let mut rig = Rig::usual();
    rig.snapshot.is_ready = false;
    rig.snapshot.now += age;
    rig.send(&[&encrypt_call(b"x")[..], PING].concat());
    assert!(rig.responses().iter().all(|answer| !answer.closes()) && !rig.is_closed());
}

/// A peer that has closed its sending side still gets the answers to all its requests.
#[test]
fn half_close() {
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    rig.send(&[&encrypt_call(b"x")[..], &encrypt_call(b"y"), PING, &PING[..9]].concat());
    rig.end_input();
    assert!(!rig.is_closed());
    assert!(rig.work() && rig.work());
    let answers = rig.responses();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200; 3]);
    assert!(rig.is_closed());

    // The last answer announces that it is the last, where that is known.
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    rig.send(&encrypt_call(b"x"));
    rig.end_input();
    rig.work();
    assert!(rig.responses()[0].closes() && rig.is_closed());

    // No request, or only part of one.
    for asked in [&b""[..], b"GET /pi", &encrypt_call(b"x")[..600]] {
        let mut rig = Rig::usual();
        rig.send(asked);
        rig.end_input();
        assert!(rig.is_closed() && rig.answers.is_empty());
    }

    // Bytes and the end of input in the same iteration of the loop.
    let mut rig = Rig::usual();
    rig.connection.as_mut().unwrap().receive(&mut rig.loop_state, rig.snapshot.now, PING);
    rig.end_input();
    assert_eq!(rig.responses()[0].status, 200);
    assert!(rig.is_closed());
}

/// Each wait times out: an idle connection closes without an answer, all others get 408.
#[test]
fn waits_end() {
    let mut rig = Rig::usual();
    rig.pass(Duration::from_millis(74_999));
    assert!(!rig.is_closed());
    rig.pass(Duration::from_millis(1));
    assert!(rig.is_closed() && rig.answers.is_empty());

    // The timeout of a head does not restart with each of its bytes.
    let mut rig = Rig::usual();
    rig.pass(Duration::from_secs(60));
    for byte in b"GET /ping" {
        rig.send(&[*byte]);
        rig.pass(Duration::from_millis(1_110));
    }
    assert!(!rig.is_closed());
    rig.pass(Duration::from_millis(10));
    assert_eq!(rig.responses()[0].error(), (408, "ValidationException".to_owned()));
    assert!(rig.is_closed());

    let mut rig = Rig::usual();
    rig.send(&encrypt_call(b"x")[..700]);
    rig.pass(Duration::from_millis(10_999));
    assert!(!rig.is_closed());
    rig.pass(Duration::from_millis(1));
    let answer = rig.responses().remove(0);
    assert!(answer.status == 408 && answer.closes() && rig.is_closed());

    let mut rig = Rig::usual();
    rig.hold_answers = true;
    rig.send(PING);
    rig.pass(Duration::from_secs(12));
    assert!(rig.is_closed());

    // Empty lines before a request do not count as one.
    let mut rig = Rig::usual();
    rig.send(b"\r\n\r\n");
    assert!(matches!(rig.connection.as_ref().unwrap().wait(), Wait::Idle(_)));
}

/// The deadline counts from the first byte. Past it, the peer gets 503, and an answer that arrives
/// later is discarded, even if the connection already waits for another.
#[test]
fn deadline_and_late_completion() {
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    let request = encrypt_call(b"first");
    rig.send(&request[..10]);
    let first_byte = rig.snapshot.now;
    rig.pass(Duration::from_millis(100));
    rig.send(&request[10..]);
    let deadline = first_byte + Duration::from_millis(180);
    assert_eq!(rig.jobs[0].deadline, deadline);
    rig.pass(Duration::from_millis(79));
    assert!(rig.answers.is_empty());
    rig.pass(Duration::from_millis(1));
    let answer = rig.responses().remove(0);
    assert_eq!(answer.error(), (503, "DependencyTimeoutException".to_owned()));
    assert!(!rig.is_closed() && !answer.closes());

    rig.send(&encrypt_call(b"second"));
    assert!(!rig.work(), "the first job is not awaited any more");
    assert!(rig.answers.is_empty());
    assert!(rig.work());
    assert_eq!(unb64(&rig.responses()[0].json()["ciphertext"]).len(), 6);
}

/// A loop that cannot keep up rejects any request that has waited too long for it, without checking
/// its signature. The health of the fleet is still reported.
#[test]
fn congestion() {
    let old = Duration::from_millis(20);
    let late = (429, "ThrottlingException".to_owned());
    for (is_congested, waited, name, refused) in [
        (true, old, "encrypt", Some(late.clone())),
        (true, old, "forged", Some(late)),
        (true, old - Duration::from_nanos(1), "encrypt", None),
        (true, old, "health", None),
        (false, old, "encrypt", None),
        (false, old, "forged", Some((401, "AuthenticationFailedException".to_owned()))),
    ] {
        let mut rig = Rig::usual();
        rig.snapshot.is_congested = is_congested;
        let mut request = match name {
            "health" => call("health", &json!({ "requestMetadata": metadata() })),
            _ => encrypt_call(b"plaintext"),
        };
        if name == "forged" {
            let last = request.len() - 1;
            request[last] = b' ';
        }
        rig.send(&request[..10]);
        rig.snapshot.now += waited;
        rig.send(&request[10..]);
        let answer = rig.responses().remove(0);
        match refused {
            None => assert_eq!(answer.status, 200, "{name} after {waited:?}"),
            Some(error) => assert_eq!(answer.error(), error, "{name} after {waited:?}"),
        }
        assert!(!rig.is_closed() && !answer.closes());
    }
}

/// The HSM side refuses a job before it is queued.
#[test]
fn refused_jobs() {
    for (failure, expected) in [
        (Failure::Overloaded, (429, "ThrottlingException")),
        (Failure::NoToken, (503, "DependencyTimeoutException")),
    ] {
        let mut rig = Rig::usual();
        rig.hold_jobs = true;
        rig.send(&encrypt_call(b"x"));
        let job = rig.jobs.pop_front().unwrap();
        let connection = rig.connection.as_mut().unwrap();
        let step = connection.reject(&mut rig.loop_state, &rig.snapshot, failure);
        rig.drive(step);
        rig.loop_state.recycle_job(job);
        let answer = rig.responses().remove(0);
        assert_eq!(answer.error(), (expected.0, expected.1.to_owned()));
        assert!(!rig.is_closed());
    }
}

/// An answer or a refusal that no request waits for changes nothing.
#[test]
fn what_is_not_awaited_changes_nothing() {
    let mut rig = Rig::usual();
    let stray = || Completion {
        reply_to: ReplyTo { event_loop: 3, slot: 0, serial: 0 },
        outcome: Err(Failure::TimedOut),
        output: Vec::new().into(),
        token: None,
        queue_micros: 0,
        hsm_micros: 0,
    };
    for sent in [&b""[..], b"GET /ping HT", b"TP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"] {
        rig.send(sent);
        let connection = rig.connection.as_mut().unwrap();
        for step in [
            connection.complete(&mut rig.loop_state, &rig.snapshot, stray()),
            connection.reject(&mut rig.loop_state, &rig.snapshot, Failure::NoToken),
        ] {
            assert!(matches!(step, Step::Receive));
        }
    }
    rig.send(b"x");
    assert_eq!(rig.responses()[0].status, 200);
    assert!(!rig.is_closed());
}

/// The port for load balancers answers their health checks and gives access to no key.
#[test]
fn the_ping_port_serves_probes_only() {
    let mut rig = Rig::on(Listener::Ping, service());
    let answer = rig.ask(PING);
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("text/plain")));
    let body = json!({"requestMetadata": metadata()});
    for request in [call("health", &body), call(&format!("keys/{KEY}/metadata"), &body)] {
        assert_eq!(rig.ask(&request).error(), (404, "InvalidUriPathException".to_owned()));
    }
    assert_eq!(rig.hsm.jobs, 0);
}

/// Liveness means that the process runs; readiness, that a token works, the clock is right, and the
/// process is not draining.
#[test]
fn ping_and_readyz() {
    let ask_with = |method: &str, path: &str, is_ready, is_draining, is_clock_off| {
        let mut rig = Rig::usual();
        rig.snapshot.is_clock_off = is_clock_off;
        rig.snapshot.is_ready = is_ready;
        rig.snapshot.is_draining = is_draining;
        rig.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let answers = crate::rig::wire::parse_all(&rig.answers, method == "HEAD");
        assert_eq!(answers.len(), 1);
        (answers[0].status, answers[0].body.clone(), answers[0].field("allow").map(str::to_owned))
    };
    let ask = |method: &str, path: &str, is_ready, is_draining| {
        ask_with(method, path, is_ready, is_draining, false)
    };
    for (is_ready, is_draining, ready) in
        [(true, false, 200), (false, false, 503), (true, true, 503), (false, true, 503)]
    {
        assert_eq!(ask("GET", "/ping", is_ready, is_draining).0, 200);
        assert_eq!(ask("GET", "/readyz", is_ready, is_draining).0, ready);
        let (status, body, _) = ask("HEAD", "/readyz", is_ready, is_draining);
        assert_eq!((status, body.len()), (ready, 0));
    }
    // Load balancers tell a process that ends from one that has failed.
    for (is_ready, is_draining) in [(true, false), (false, false), (true, true), (false, true)] {
        let text = String::from_utf8(ask("GET", "/readyz", is_ready, is_draining).1).unwrap();
        assert_eq!(text.contains("draining"), is_draining, "{text}");
    }
    let (status, body, _) = ask_with("GET", "/readyz", true, false, true);
    let text = String::from_utf8(body).unwrap();
    assert!(status == 503 && text.contains("clock"), "{text}");
    assert_eq!(ask_with("GET", "/ping", true, false, true).0, 200);
    assert!(ask("GET", "/ping", true, false).1.starts_with(b"pong from xks-proxy"));
    assert_eq!(ask("POST", "/ping", true, false).2.as_deref(), Some("GET, HEAD"));
    assert_eq!(ask("POST", "/readyz", true, false).0, 405);
}

/// The buffer that answers are written into has room for the largest, so that it is never
/// reallocated, which would leave a copy behind.
#[test]
fn the_largest_answers_fit() {
    let mut rig = Rig::usual();
    let (out, capacity) = (rig.loop_state.out.as_ptr(), rig.loop_state.out.capacity());
    for plaintext in [0, 6_144] {
        let mut body = encrypt(&vec![1; plaintext], None);
        body["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256".into();
        let encrypted = rig.ask(&call(&format!("keys/{KEY}/encrypt"), &body)).json();
        let body = crate::calls::decrypt(&encrypted, None);
        assert_eq!(rig.ask(&call(&format!("keys/{KEY}/decrypt"), &body)).status, 200);
    }
    assert_eq!((rig.loop_state.out.as_ptr(), rig.loop_state.out.capacity()), (out, capacity));
}

/// A plaintext must not survive its answer in memory that is reused.
#[test]
fn memory_is_wiped_when_it_goes_back() {
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    let secret = b"a plaintext that nobody may see again";
    rig.send(&encrypt_call(secret));
    let request = rig.jobs[0].request.clone();
    assert_eq!(request.input, secret);
    drop(request);
    assert!(rig.work());
    rig.send(&call(&format!("keys/{KEY}/metadata"), &json!({"requestMetadata": metadata()})));
    let job = rig.jobs.pop_front().unwrap();
    assert!(job.request.input.is_empty(), "a pooled request comes empty");
    assert!(job.request.aad.as_slice().is_empty(), "and without the AAD of the former one");
    assert!(!rig.answers.windows(8).any(|window| window == &b64(secret).as_bytes()[..8]));
}

//! A panic on the HSM side costs the request in which it happened and its session, and no others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::caller::{Caller, eventually, request};
use crate::token::{Fake, FakeToken};
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::backend::Backend;
use xks_proxy::job::{Failure, HealthStatus, Iv, Operation, Request, Success};

fn decryption(input: &[u8]) -> Request {
    request(0, Operation::Decrypt { iv: Iv::from_slice(&[1; 12]).unwrap() }, input)
}

fn start(token: &Arc<Fake>, max_sessions: usize) -> Caller {
    Caller::with(|inboxes| {
        let backend: Box<dyn Backend> = Box::new(FakeToken(Arc::clone(token)));
        Hsm::start_with(vec![(backend, max_sessions)], inboxes).unwrap()
    })
}

/// A token that panics if the input says so.
fn defective() -> Arc<Fake> {
    Fake::new(|_, _, request| match request.input.as_slice() {
        b"panic" => panic!("as asked"),
        _ => Ok(()),
    })
}

/// Panicking jobs among good ones, including some finished just before whose answers may not have
/// been delivered: all are answered at once, and the one that panicked exactly once, with a
/// failure.
#[test]
fn one_request_alone_fails() {
    let token = defective();
    let mut caller = start(&token, 1);
    for place in 0..5 {
        let calls = token.calls();
        let mut jobs: Vec<_> = (0..5)
            .map(|at| caller.job(decryption(if at == place { b"panic" } else { b"good" }), 60_000))
            .collect();
        let panicking = jobs[place].reply_to.serial;
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        let answers = caller.wait(5);
        assert_eq!(answers.len(), 5, "place {place}");
        for answer in answers {
            if answer.reply_to.serial == panicking {
                assert_eq!(answer.outcome, Err(Failure::Defect));
                assert!(answer.output.is_empty());
            } else {
                assert_eq!(answer.outcome, Ok(Success::Decrypted));
            }
        }
        assert_eq!(token.calls(), calls + 5, "none was tried again");
    }
}

/// However many panics there are, the token stays in use and each lost session is replaced.
#[test]
fn the_token_stays_in_use() {
    let token = defective();
    let mut caller = start(&token, 4);
    let opened = token.opens.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(caller.ask(decryption(b"panic")).unwrap_err(), Failure::Defect);
        assert!(caller.ask(decryption(b"good")).is_ok());
    }
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Active);
    assert!(token.opens.load(Ordering::SeqCst) >= opened + 100);
    assert!(token.most_open.load(Ordering::SeqCst) <= 5, "four, and the health checker's");
    assert_eq!(token.reinitialized.load(Ordering::SeqCst), 0);
}

/// A health check that panics counts as one that hangs: requests continue, and checks resume when
/// they can.
#[test]
fn a_panicking_probe_is_replaced() {
    let token = defective();
    let mut caller = start(&token, 2);
    assert!(caller.ask(decryption(b"good")).is_ok());
    token.probes_panic.store(true, Ordering::SeqCst);
    eventually("a probe has panicked", || {
        assert!(caller.ask(decryption(b"good")).is_ok());
        token.panics.load(Ordering::SeqCst) > 0
    });
    token.probes_panic.store(false, Ordering::SeqCst);
    let probes = token.probes.load(Ordering::SeqCst);
    eventually("probes go on", || {
        assert!(caller.ask(decryption(b"good")).is_ok());
        token.probes.load(Ordering::SeqCst) > probes
    });
    // Published health lags behind, so Active alone might be an old value.
    eventually("all is well", || {
        let is_active = caller.hsm.health().tokens[0].status == HealthStatus::Active;
        is_active && caller.hsm.stats()[0].hung == 0
    });
}

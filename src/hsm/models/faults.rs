//! Faults of tokens, sessions and keys, and what becomes of the jobs.

use std::sync::Arc;

use super::rig::{Rig, assert_good};
use super::token::ModelToken;
use crate::hsm::backend::{Blame, Evidence, Fault};
use crate::job::Failure;
use crate::limits::KEY_FAULT_SPAN;
use crate::sync::check::check;
use crate::sync::{clock, thread};

const fn fault(blame: Blame) -> Fault {
    Fault { failure: Failure::Malformed, blame }
}

/// Returns a token whose first calls fail.
fn failing(calls: usize, blame: Blame) -> Arc<ModelToken> {
    ModelToken::new(move |call| if call.number < calls { Err(fault(blame)) } else { Ok(()) })
}

/// A job that one token fails at is done by another.
#[test]
fn another_token_retries() {
    check(250, || retry(Blame::Busy));
    check(250, || retry(Blame::Session));
    check(250, || retry(Blame::Token));
}

fn retry(blame: Blame) {
    let (bad, good) = (failing(2, blame), ModelToken::good());
    let rig = Rig::new(&[(&bad, 1), (&good, 1)], 1);
    rig.start_workers(0, 1);
    rig.start_workers(1, 1);
    let mut caller = rig.caller(0);
    caller.submit(&[1, 2]);
    caller.wait();
    rig.stop();
    assert_good(&caller.finish());
}

/// A session that is lost is replaced, and the job done in the new one.
#[test]
fn a_lost_session_is_replaced() {
    check(700, || {
        let token = failing(1, Blame::Session);
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 2);
        let mut caller = rig.caller(0);
        caller.submit(&[1, 2]);
        caller.wait();
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// Several sessions fail with one key at the same time, while another key works: the faults are the
/// key's, and neither token nor session pays for them.
#[test]
fn faults_are_charged_to_the_key() {
    check(500, || {
        let token = ModelToken::with_evidence(Evidence::Passed, |_| Err(fault(Blame::Token)));
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 2);
        rig.wait_for_sessions(0, 2);
        let mut caller = rig.caller(0);
        caller.submit(&[1, 2]);
        caller.wait();
        clock::advance(KEY_FAULT_SPAN);
        caller.submit(&[3, 4]);
        caller.wait();
        let token = rig.token(0);
        assert!(token.circuit_breaker.is_usable());
        assert_eq!(token.circuit_breaker.faults_in_a_row(), 0);
        assert_eq!(token.key_breakers.open(), 1);
        assert_eq!(token.key_breakers.opened_total(), 1);
        assert_eq!(rig.tokens[0].opens(), 2, "no session was replaced");
        rig.stop();
        let answers = caller.finish();
        assert!(answers.iter().all(|answer| answer.outcome == Err(Failure::Malformed)));
    });
}

/// A token leaves while it has jobs, and returns: the other token does them all.
#[test]
fn a_token_leaves_and_returns() {
    check(500, || {
        let (leaving, other) = (ModelToken::good(), ModelToken::good());
        let rig = Rig::new(&[(&leaving, 1), (&other, 1)], 1);
        rig.start_workers(0, 1);
        rig.start_workers(1, 1);
        let mut caller = rig.caller(0);
        let outage = thread::spawn({
            let fleet = Arc::clone(rig.fleet());
            move || {
                fleet.take_out_of_service(&fleet.tokens[0], "outage".to_owned());
                assert!(fleet.tokens[0].circuit_breaker.close());
            }
        });
        caller.submit(&[1, 2]);
        caller.submit(&[3]);
        // The token's worker may have left, and is started again for what it was given afterwards.
        outage.join().unwrap();
        rig.while_inspected(|| caller.wait());
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// The only token leaves while jobs are submitted to it: each is done, or answered that there is no
/// token.
#[test]
fn the_only_token_leaves() {
    check(1000, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 2);
        let mut caller = rig.caller(0);
        let outage = thread::spawn({
            let fleet = Arc::clone(rig.fleet());
            move || fleet.take_out_of_service(&fleet.tokens[0], "outage".to_owned())
        });
        caller.submit(&[1, 2]);
        caller.submit(&[3]);
        caller.wait();
        outage.join().unwrap();
        let is_expected = |outcome| matches!(outcome, Ok(_) | Err(Failure::NoToken));
        rig.stop();
        assert!(caller.finish().iter().all(|answer| is_expected(answer.outcome)));
    });
}

/// A token goes out of use because of its jobs' faults, while two event loops submit: all jobs get an
/// answer, and its sessions are closed.
#[test]
fn faults_open_the_breaker() {
    check(150, || {
        let token = ModelToken::new(|_| Err(fault(Blame::Token)));
        let rig = Rig::new(&[(&token, 2)], 2);
        rig.start_workers(0, 2);
        let other = thread::spawn({
            let mut caller = rig.caller(1);
            move || {
                caller.submit(&[1]);
                caller.submit(&[2]);
                caller.wait();
                caller.finish()
            }
        });
        let mut caller = rig.caller(0);
        caller.submit(&[3]);
        // Workers whose sessions fail end, and the monitor starts others.
        let others = rig.while_inspected(|| {
            caller.wait();
            other.join().unwrap()
        });
        rig.stop();
        assert!(others.iter().chain(&caller.finish()).all(|answer| answer.outcome.is_err()));
    });
}

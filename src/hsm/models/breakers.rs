//! The token's circuit breaker.

use std::sync::Arc;

use super::rig::{Rig, assert_good};
use super::token::ModelToken;
use crate::hsm::circuit_breaker::CircuitBreaker;
use crate::limits::{HALF_OPEN_SUCCESSES, MAX_FAULTS_IN_A_ROW};
use crate::sync::check::check;
use crate::sync::{clock, thread};

fn returned() -> Arc<CircuitBreaker> {
    let breaker = CircuitBreaker::new(clock::now());
    assert!(breaker.close());
    assert!(breaker.open("fault".to_owned()));
    assert!(breaker.close());
    assert!(breaker.is_half_open());
    Arc::new(breaker)
}

/// However the calls of several sessions end, a token that is back counts as healthy only after as
/// many answers as it takes.
#[test]
fn half_open_takes_all_its_answers() {
    check(3000, || {
        let breaker = returned();
        let answers = |count: u32| {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || (0..count).for_each(|_| _ = breaker.record_success(clock::now())))
        };
        let half = HALF_OPEN_SUCCESSES / 2;
        let sessions = [answers(half), answers(HALF_OPEN_SUCCESSES - half - 1)];
        sessions.into_iter().for_each(|session| session.join().unwrap());
        assert!(breaker.is_half_open(), "one is left");
        breaker.record_success(clock::now());
        assert!(!breaker.is_half_open());
    });
}

/// The answer of an old call that comes while the token leaves and returns is one answer and no
/// more.
#[test]
fn half_open_survives_an_old_answer() {
    check(5000, || {
        let breaker = returned();
        (1..HALF_OPEN_SUCCESSES).for_each(|_| _ = breaker.record_success(clock::now()));
        let old = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || _ = breaker.record_success(clock::now())
        });
        assert!(breaker.open("fault".to_owned()));
        assert!(breaker.close());
        old.join().unwrap();
        assert!(breaker.is_half_open());
    });
}

/// A token that is back gets one job at a time while another token can do the rest.
#[test]
fn half_open_admits_one_job() {
    check(700, || {
        let (back, other) = (ModelToken::good(), ModelToken::good());
        let rig = Rig::new(&[(&back, 2), (&other, 2)], 1);
        assert!(rig.token(0).circuit_breaker.open("fault".to_owned()));
        assert!(rig.token(0).circuit_breaker.close());
        for token in [0, 1] {
            rig.start_workers(token, 2);
            rig.wait_for_sessions(token, 2);
        }
        let mut caller = rig.caller(0);
        for batch in [&[1, 2, 3][..], &[4, 5, 6]] {
            caller.submit(batch);
            caller.wait();
        }
        assert!(back.most_in_calls() <= 1);
        assert!(back.calls() <= 2, "one of each batch");
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// However faults, checks and recoveries coincide, the breaker is open exactly if it has a reason,
/// and each opening is reported once.
#[test]
fn openings_are_counted() {
    check(3000, || {
        let breaker = Arc::new(CircuitBreaker::new(clock::now()));
        assert!(breaker.close());
        let now = clock::now();
        for _ in 2..MAX_FAULTS_IN_A_ROW {
            assert!(!breaker.count_fault(now, String::new));
        }
        let fault = |_| {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || u64::from(breaker.count_fault(now, || "fault".to_owned())))
        };
        let faults: Vec<_> = (0..3).map(fault).collect();
        let check = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || _ = breaker.close()
        });
        let opened: u64 = faults.into_iter().map(|fault| fault.join().unwrap()).sum();
        check.join().unwrap();
        assert!((1..=2).contains(&opened), "{opened}");
        assert_eq!(breaker.epoch(), opened);
        assert_eq!(breaker.is_usable(), breaker.reason().is_none());
    });
}

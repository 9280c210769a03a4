//! Calls that take too long: a stall, a write-off, and the return that may come at any time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rig::{Answer, REQUEST, Rig, assert_good};
use super::token::ModelToken;
use crate::limits::{MAX_HANG, MAX_MAINTENANCE_CALL, MIN_STALL};
use crate::sync::check::check;
use crate::sync::{clock, thread};

/// Returns a token whose first call waits at the gate.
fn slow_at_first() -> Arc<ModelToken> {
    ModelToken::new(|call| {
        if call.number == 0 {
            call.token.gate.pass();
        }
        Ok(())
    })
}

fn open_later(token: &Arc<ModelToken>) -> thread::JoinHandle<()> {
    let token = Arc::clone(token);
    thread::spawn(move || token.gate.open())
}

/// A call that returns just when it is counted as stalled: the count must not keep it.
#[test]
fn a_stall_races_the_return() {
    check(3000, || {
        let token = slow_at_first();
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        token.gate.wait_for(1);
        let opener = open_later(&token);
        clock::advance(2 * MIN_STALL);
        rig.inspect();
        caller.wait();
        opener.join().unwrap();
        let counts = rig.token(0).pool.counts();
        assert_eq!((counts.stalled, rig.token(0).pool.signed_counts()), (0, (0, 0)));
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// A stalled worker lends its place to another; then the first returns, and both go on.
#[test]
fn a_stalled_worker_lends_its_place() {
    check(1500, || {
        let token = slow_at_first();
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.token(0).pool.set_limit(1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        token.gate.wait_for(1);
        clock::advance(2 * MIN_STALL);
        rig.inspect();
        caller.submit(&[2, 3]);
        rig.inspect();
        caller.wait_for(2);
        let opener = open_later(&token);
        caller.submit(&[4]);
        rig.inspect();
        caller.wait();
        opener.join().unwrap();
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// Runs a job whose call returns at any time around its write-off, and another one.
fn write_off(is_stalled_first: bool) {
    let token = slow_at_first();
    let rig = Rig::new(&[(&token, 2)], 1);
    rig.start_workers(0, 1);
    let mut caller = rig.caller(0);
    caller.submit_within(&[1], REQUEST);
    token.gate.wait_for(1);
    if is_stalled_first {
        clock::advance(2 * MIN_STALL);
        rig.inspect();
    }
    let opener = open_later(&token);
    clock::advance(REQUEST + MAX_HANG);
    rig.inspect();
    let hung = rig.token(0).counters.hung.load(Ordering::SeqCst);
    caller.submit(&[2]);
    rig.while_inspected(|| caller.wait_for_serial(2));
    opener.join().unwrap();
    rig.stop();
    let answers = caller.finish_with_lost();
    let is_of = |serial| move |answer: &&Answer| answer.serial == serial;
    assert_eq!(
        answers.iter().filter(is_of(1)).count() as u64,
        1 - hung,
        "a call is either answered or written off"
    );
    assert_good(&answers);
}

/// A call that returns just when it is written off is either answered or written off, and its
/// worker either goes on or ends.
#[test]
fn a_write_off_races_the_return() {
    check(2000, || write_off(false));
}

/// The same for a call that had been counted as stalled.
#[test]
fn a_write_off_after_a_stall_races_the_return() {
    check(2000, || write_off(true));
}

/// A call that hangs costs the next job nothing: a worker takes its place. When the call returns at
/// last, its session is closed and used no more.
#[test]
fn a_late_return_is_discarded() {
    check(1500, || {
        let token = slow_at_first();
        let rig = Rig::new(&[(&token, 1)], 1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit_within(&[1], REQUEST);
        token.gate.wait_for(1);
        clock::advance(REQUEST + MAX_HANG);
        rig.inspect();
        assert_eq!(rig.token(0).pool.counts().abandoned, 1);
        caller.submit(&[2]);
        rig.inspect();
        caller.wait_for(1);
        let opener = open_later(&token);
        caller.submit(&[3]);
        caller.wait_for(2);
        opener.join().unwrap();
        rig.stop();
        let answers = caller.finish_with_lost();
        assert_eq!(answers.iter().map(|answer| answer.serial).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(token.calls(), 3);
    });
}

/// A worker whose session panics just when the monitor looks at it ends once, in one count.
#[test]
fn a_panic_races_the_monitor() {
    check(2000, || {
        let token = ModelToken::new(|_| Ok(()));
        token.open_panics.store(true, Ordering::Relaxed);
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 1);
        rig.inspect();
        clock::advance(MAX_MAINTENANCE_CALL);
        rig.inspect();
        rig.stop();
    });
}

/// A token leaves and returns while it is in a call: the session is closed after the call, and the
/// next job gets one that was opened since.
#[test]
fn a_session_does_not_outlive_an_outage() {
    check(500, || {
        let token = slow_at_first();
        let rig = Rig::new(&[(&token, 1)], 1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        token.gate.wait_for(1);
        rig.fleet().take_out_of_service(rig.token(0), "outage".to_owned());
        assert!(rig.token(0).circuit_breaker.close());
        token.gate.open();
        caller.submit(&[2]);
        rig.while_inspected(|| caller.wait());
        rig.stop();
        assert_good(&caller.finish());
        assert_eq!(token.opens(), 2);
    });
}

//! The end of a fleet: stop with work under way, and a process that drains for its successor.

use std::sync::Arc;

use super::rig::{LONG, REQUEST, Rig, assert_good, while_time_passes};
use super::token::ModelToken;
use crate::hsm::monitor;
use crate::hsm::signal::Signal;
use crate::job::Failure;
use crate::sync::check::check;
use crate::sync::{clock, thread};

/// A stop while jobs are queued and performed finishes them.
#[test]
fn a_stop_finishes_what_waits() {
    check(800, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 2)], 1);
        rig.start_workers(0, 2);
        let mut caller = rig.caller(0);
        caller.submit(&[1, 2, 3]);
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// A job that is submitted while the fleet stops is done, refused, or answered that there is no
/// token, but never forgotten.
#[test]
fn a_submission_races_the_stop() {
    check(3000, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 1)], 1);
        rig.start_workers(0, 1);
        let submission = thread::spawn({
            let mut caller = rig.caller(0);
            move || {
                caller.submit(&[1]);
                caller.submit(&[2]);
                caller
            }
        });
        while_time_passes(|| assert!(rig.hsm.stop(LONG)));
        let caller = submission.join().unwrap();
        rig.assert_over();
        let is_expected = |failure| failure == Failure::NoToken;
        assert!(caller.refused().iter().all(|(_, failure)| is_expected(*failure)));
        for answer in caller.finish() {
            assert!(answer.outcome.is_ok() || answer.outcome.is_err_and(is_expected));
        }
    });
}

/// The same with the monitor, which starts workers for jobs that come late.
#[test]
fn a_submission_races_the_stop_of_all_threads() {
    check(150, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 2)], 1);
        monitor::start(rig.fleet()).unwrap();
        let submission = thread::spawn({
            let mut caller = rig.caller(0);
            move || {
                caller.submit(&[1]);
                caller
            }
        });
        while_time_passes(|| assert!(rig.hsm.stop(LONG)));
        let caller = submission.join().unwrap();
        rig.assert_over();
        caller.finish();
    });
}

/// A stop does not wait longer than it may for a call that hangs, and answers the jobs behind it.
/// When the call returns, its thread ends without an answer to a job that is answered.
#[test]
fn a_stop_leaves_a_call_that_hangs() {
    check(500, || {
        let token = ModelToken::new(|call| {
            call.token.gate.pass();
            Ok(())
        });
        let rig = Rig::new(&[(&token, 1)], 1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        token.gate.wait_for(1);
        caller.submit(&[2]);
        let is_done = while_time_passes(|| rig.hsm.stop(REQUEST));
        assert!(!is_done);
        token.gate.open();
        while rig.fleet().threads.load(crate::sync::atomic::Ordering::SeqCst) > 0 {
            rig.fleet().progress.wait_until(clock::now() + LONG);
        }
        let answers = caller.finish();
        assert_eq!(answers.iter().find(|answer| answer.serial == 2).map(|it| it.outcome), {
            Some(Err(Failure::NoToken))
        });
        assert_eq!(token.open_sessions(), 0);
    });
}

/// An upgrade: event loops submit until they are drained, then the fleet stops. No job is answered
/// with a failure.
#[test]
fn an_upgrade_fails_no_job() {
    check(400, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 2)], 2);
        rig.start_workers(0, 2);
        let drained = Arc::new(Signal::default());
        let event_loop = |index, serials: [u64; 2]| {
            let (mut caller, drained) = (rig.caller(index), Arc::clone(&drained));
            thread::spawn(move || {
                for serial in serials {
                    caller.submit(&[serial]);
                    caller.wait();
                }
                drained.notify();
                caller
            })
        };
        let loops = [event_loop(0, [1, 2]), event_loop(1, [3, 4])];
        drained.wait_until(clock::now() + LONG);
        let callers = loops.map(|event_loop| event_loop.join().unwrap());
        rig.stop();
        for caller in callers {
            assert!(caller.refused().is_empty());
            assert_good(&caller.finish());
        }
    });
}

/// Two threads that stop the fleet at the same time, as a reload and the end of the process do.
#[test]
fn two_stops() {
    check(500, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 1)], 1);
        rig.start_workers(0, 1);
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        let other = thread::spawn({
            let hsm = crate::hsm::Hsm { fleet: Arc::clone(rig.fleet()) };
            move || assert!(hsm.stop(LONG))
        });
        while_time_passes(|| {
            assert!(rig.hsm.stop(LONG));
            other.join().unwrap();
        });
        rig.assert_over();
        assert_good(&caller.finish());
    });
}

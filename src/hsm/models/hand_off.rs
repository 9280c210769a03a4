//! Jobs from event loops to workers and back, with nothing that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rig::{LONG, Rig, assert_good};
use super::token::ModelToken;
use crate::hsm::monitor;
use crate::limits::MAX_MAINTENANCE_CALL;
use crate::sync::check::check;
use crate::sync::{clock, thread};

/// Several event loops and several workers: each job is answered once, to whom it is from.
#[test]
fn several_loops_and_workers() {
    check(800, || {
        let token = ModelToken::good();
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
        caller.submit(&[3, 4]);
        caller.wait();
        let others = other.join().unwrap();
        rig.stop();
        assert_eq!(token.calls(), 4);
        assert_good(&[caller.finish(), others].concat());
    });
}

/// One session for two event loops that submit at the same time as the worker goes to sleep.
#[test]
fn one_session_for_two_loops() {
    check(1000, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 1)], 2);
        rig.start_workers(0, 1);
        let other = thread::spawn({
            let mut caller = rig.caller(1);
            move || {
                caller.submit(&[1]);
                caller.wait();
                caller.finish()
            }
        });
        let mut caller = rig.caller(0);
        for serial in [2, 3] {
            caller.submit(&[serial]);
            caller.wait();
        }
        let others = other.join().unwrap();
        rig.stop();
        assert_good(&[caller.finish(), others].concat());
    });
}

/// The whole HSM side with its own monitor and health checker: sessions are opened when there is
/// work for them, without waiting for a tick of the clock.
#[test]
fn sessions_open_on_demand() {
    check(150, || {
        let token = ModelToken::good();
        let rig = Rig::new(&[(&token, 2)], 1);
        monitor::start(rig.fleet()).unwrap();
        let mut caller = rig.caller(0);
        caller.submit(&[1, 2, 3]);
        caller.wait();
        rig.stop();
        assert_good(&caller.finish());
    });
}

/// A health check that hangs is written off, and its thread replaced, while jobs are served.
#[test]
fn a_health_checker_is_replaced() {
    check(150, || {
        let token = ModelToken::good();
        token.health_check_hangs.store(true, Ordering::Relaxed);
        let rig = Rig::new(&[(&token, 1)], 1);
        monitor::start(rig.fleet()).unwrap();
        token.gate.wait_for(1);
        token.health_check_hangs.store(false, Ordering::Relaxed);
        clock::advance(2 * MAX_MAINTENANCE_CALL);
        while token.checks() == 0 {
            rig.fleet().progress.wait_until(clock::now() + LONG);
        }
        let opener = thread::spawn({
            let token = Arc::clone(&token);
            move || token.gate.open()
        });
        let mut caller = rig.caller(0);
        caller.submit(&[1]);
        caller.wait();
        opener.join().unwrap();
        rig.stop();
        assert_good(&caller.finish());
    });
}

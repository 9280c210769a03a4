//! Second attempts at slow calls: the first answer wins, and the other is discarded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{REQUEST, Rig, assert_good};
use super::token::ModelToken;
use crate::hsm::backend::{Blame, Fault};
use crate::job::Failure;
use crate::limits::MAX_HANG;
use crate::sync::check::check;
use crate::sync::{clock, thread};

/// Time after which the rig's monitor hedges.
const SLOW: Duration = Duration::from_millis(20);

/// A fleet of two tokens, of which the first is at work on a job that has become slow.
struct Slow {
    rig: Rig,
    slow: Arc<ModelToken>,
}

impl Slow {
    /// Begins with a job whose first attempt ends with that fault, or well.
    fn begin(fault: Option<Fault>, other: &Arc<ModelToken>) -> (Self, super::rig::Caller) {
        let slow = ModelToken::new(move |call| {
            call.token.gate.pass();
            fault.map_or(Ok(()), Err)
        });
        let rig = Rig::new(&[(&slow, 1), (other, 1)], 1);
        rig.start_workers(0, 1);
        rig.wait_for_sessions(0, 1);
        // Only the first token is in use, so that it gets the job.
        assert!(rig.token(1).circuit_breaker.open("not yet".to_owned()));
        let mut caller = rig.caller(0);
        caller.submit_within(&[1], REQUEST);
        slow.gate.wait_for(1);
        assert!(rig.token(1).circuit_breaker.close());
        rig.start_workers(1, 1);
        rig.wait_for_sessions(1, 1);
        clock::advance(SLOW);
        (Self { rig, slow }, caller)
    }

    fn open_later(&self) -> thread::JoinHandle<()> {
        let slow = Arc::clone(&self.slow);
        thread::spawn(move || slow.gate.open())
    }

    fn hedged(&self) -> u64 {
        self.rig.token(0).counters.hedged.load(Ordering::SeqCst)
    }
}

/// A slow call returns just when it is hedged, or while the hedge is performed.
#[test]
fn a_hedge_races_the_return() {
    check(800, || {
        let other = ModelToken::good();
        let (slow, mut caller) = Slow::begin(None, &other);
        let opener = slow.open_later();
        slow.rig.inspect();
        caller.wait();
        opener.join().unwrap();
        slow.rig.stop();
        assert!(other.calls() as u64 <= slow.hedged());
        assert_good(&caller.finish());
    });
}

/// The first attempt fails while the hedge is under way: the answer is the hedge's, or that of
/// another attempt.
#[test]
fn a_hedge_outlives_a_failure() {
    check(600, || {
        let other = ModelToken::good();
        let fault = Fault { failure: Failure::Malformed, blame: Blame::Busy };
        let (slow, mut caller) = Slow::begin(Some(fault), &other);
        let opener = slow.open_later();
        slow.rig.inspect();
        caller.wait();
        opener.join().unwrap();
        slow.rig.stop();
        assert_good(&caller.finish());
    });
}

/// Both attempts fail: one failure is the answer.
#[test]
fn two_failures_are_one_answer() {
    check(400, || {
        let fault = Fault::answer(Failure::TooLarge);
        let other = ModelToken::new(move |_| Err(fault));
        let (slow, mut caller) = Slow::begin(Some(fault), &other);
        let opener = slow.open_later();
        slow.rig.inspect();
        caller.wait();
        opener.join().unwrap();
        slow.rig.stop();
        let answers = caller.finish();
        assert_eq!(answers[0].outcome, Err(Failure::TooLarge));
    });
}

/// The first attempt hangs and is written off; the hedge has answered, and the late return does not.
#[test]
fn a_hedge_answers_for_a_call_that_hangs() {
    check(500, || {
        let other = ModelToken::good();
        let (slow, mut caller) = Slow::begin(None, &other);
        slow.rig.inspect();
        assert_eq!(slow.hedged(), 1);
        caller.wait();
        clock::advance(REQUEST + MAX_HANG);
        let opener = slow.open_later();
        slow.rig.inspect();
        opener.join().unwrap();
        slow.rig.stop();
        let answers = caller.finish();
        assert_good(&answers);
        assert_eq!(answers[0].token, Some(1));
    });
}

/// The token that the hedge is given to leaves at the same time: the first attempt is still
/// answered.
#[test]
fn a_hedge_whose_token_leaves() {
    check(500, || {
        let other = ModelToken::good();
        let (slow, mut caller) = Slow::begin(None, &other);
        let outage = thread::spawn({
            let fleet = Arc::clone(slow.rig.fleet());
            move || fleet.take_out_of_service(&fleet.tokens[1], "outage".to_owned())
        });
        slow.rig.inspect();
        slow.open_later().join().unwrap();
        caller.wait();
        outage.join().unwrap();
        slow.rig.stop();
        assert_good(&caller.finish());
    });
}

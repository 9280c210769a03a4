//! Several tokens: which one gets a job, when a slow call is repeated, and that each job is
//! answered exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::caller::{Caller, eventually, request};
use crate::token::{Fake, FakeToken};
use xks_proxy::hsm::backend::{Backend, Blame, Fault, OpenError};
use xks_proxy::hsm::config::{HedgeAfter, Hedging};
use xks_proxy::hsm::token::Share;
use xks_proxy::hsm::{Hsm, StartError};
use xks_proxy::job::{Completion, Failure, HealthStatus, Iv, Operation, Request, ReturnCode};

const MILLI: Duration = Duration::from_millis(1);
const SOON: Hedging =
    Hedging { after: HedgeAfter::Fixed(Duration::from_millis(5)), budget_percent: 5 };
const OFF: Hedging = Hedging { after: HedgeAfter::Off, budget_percent: 5 };

fn try_start(tokens: &[(&Arc<Fake>, Share)], hedging: Hedging) -> Result<Caller, StartError> {
    let mut error = None;
    let backend = |token: &Arc<Fake>| Box::new(FakeToken(Arc::clone(token))) as Box<dyn Backend>;
    let backends = || tokens.iter().map(|(token, share)| (backend(token), *share)).collect();
    let caller = Caller::try_with(|inboxes| {
        Hsm::start_fleet(backends(), hedging, inboxes).map_err(|e| error = Some(e)).ok()
    });
    caller.ok_or_else(|| error.unwrap())
}

/// Starts the fleet and waits until each token has a session.
fn start(tokens: &[(&Arc<Fake>, Share)], hedging: Hedging) -> Caller {
    let caller = try_start(tokens, hedging).unwrap();
    eventually("each token has a session", || {
        caller.hsm.stats().iter().all(|token| token.idle > 0)
    });
    caller
}

fn share(max_sessions: usize) -> Share {
    Share::of_sessions(max_sessions)
}

fn well(name: &'static str) -> Arc<Fake> {
    Fake::named(name, |_, _, _| Ok(()))
}

/// A token whose calls wait at the gate.
fn stuck(name: &'static str) -> Arc<Fake> {
    Fake::named(name, |token, _, _| {
        token.gate.pass();
        Ok(())
    })
}

fn decryption(input: &[u8]) -> Request {
    request(0, Operation::Decrypt { iv: Iv::from_slice(&[1; 12]).unwrap() }, input)
}

fn submit(caller: &mut Caller, jobs: usize, deadline_milli: u64) {
    let mut jobs = (0..jobs).map(|_| caller.job(decryption(b"x"), deadline_milli)).collect();
    let mut refused = Vec::new();
    caller.hsm.submit(&mut jobs, &mut refused);
    assert!(refused.is_empty());
}

/// Collects the answers to that many jobs: each correct, each once, and no more afterwards.
fn answers(caller: &Caller, count: usize) -> Vec<Completion> {
    let answers = caller.wait(count);
    let mut serials: Vec<_> = answers.iter().map(|answer| answer.reply_to.serial).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), count, "each is answered once");
    for answer in &answers {
        assert!(answer.outcome.is_ok(), "{:?}", answer.outcome);
        assert_eq!(*answer.output, b"x");
    }
    answers
}

fn nothing_more_comes(caller: &Caller) {
    assert!(caller.wait_for(1, 50 * MILLI).is_empty(), "a second answer");
}

/// At low load, tokens are chosen in proportion to their weights.
#[test]
fn work_is_spread_by_weight() {
    let (light, heavy) = (well("light"), well("heavy"));
    let mut caller = start(&[(&light, share(4)), (&heavy, Share { weight: 3, ..share(4) })], OFF);
    for _ in 0..800 {
        caller.ask(decryption(b"x")).unwrap();
    }
    let (light, heavy) = (light.calls(), heavy.calls());
    assert_eq!(light + heavy, 800);
    assert!((100..320).contains(&light), "{light} to {heavy}");
}

/// The less busy token gets the next job.
#[test]
fn the_least_busy_is_taken() {
    let (busy, free) = (stuck("busy"), well("free"));
    let mut caller = start(&[(&busy, share(8)), (&free, share(8))], OFF);
    eventually("a call is in the one", || {
        submit(&mut caller, 1, 60_000);
        busy.gate.inside() > 0
    });
    let before = free.calls();
    for _ in 0..100 {
        let (_, output) = caller.ask_any(decryption(b"x")).unwrap();
        assert_eq!(output, b"x");
    }
    assert!(free.calls() >= before + 100);
    busy.gate.open();
}

/// A standby gets nothing until it is needed, then everything, and afterwards nothing again.
#[test]
fn a_standby_stands_by() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&is_broken);
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x30)), blame: Blame::Token };
    let first =
        Fake::named(
            "first",
            move |_, _, _| {
                if broken.load(Ordering::SeqCst) { Err(fault) } else { Ok(()) }
            },
        );
    let standby = well("standby");
    let mut caller =
        start(&[(&standby, Share { priority: 1, ..share(4) }), (&first, share(4))], OFF);
    for _ in 0..100 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert_eq!((standby.calls(), first.calls()), (0, 100));

    is_broken.store(true, Ordering::SeqCst);
    *first.sickness.lock().unwrap() = Some(fault);
    for _ in 0..100 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert_eq!(standby.calls(), 100, "what failed at the first is done by the standby");
    eventually("the first is known to be away", || {
        caller.ask(decryption(b"x")).unwrap();
        caller.hsm.health().tokens[1].status == HealthStatus::Unavailable
    });
    let before = first.calls();
    for _ in 0..50 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert_eq!(first.calls(), before, "it is left alone");

    is_broken.store(false, Ordering::SeqCst);
    *first.sickness.lock().unwrap() = None;
    eventually("the first is back", || {
        let stats = caller.hsm.stats().remove(1);
        stats.is_usable && stats.idle > 0
    });
    let before = standby.calls();
    for _ in 0..100 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert_eq!(standby.calls(), before);
}

/// A token that lacks the key is not asked, even if the other one fails. If all lack it they are
/// asked, since the key may be new.
#[test]
fn who_lacks_the_key_is_not_asked() {
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x30)), blame: Blame::Busy };
    let has = Fake::named(
        "has",
        move |token, _, _| {
            if token.calls().is_multiple_of(2) { Ok(()) } else { Err(fault) }
        },
    );
    let lacks = well("lacks");
    lacks.lacks_key.store(true, Ordering::SeqCst);
    let mut caller = start(&[(&lacks, share(4)), (&has, share(4))], SOON);
    for _ in 0..50 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert_eq!((lacks.calls(), has.calls()), (0, 100));
    has.lacks_key.store(true, Ordering::SeqCst);
    for _ in 0..50 {
        caller.ask(decryption(b"x")).unwrap();
    }
    assert!(lacks.calls() > 0);
}

/// A ciphertext that one token rejects is tried on another: if that decrypts it, the caller gets
/// the plaintext and the first token's health shows it; if not, the ciphertext was bad, and the
/// work is shared.
#[test]
fn two_tokens_judge_a_ciphertext() {
    const SUSPECT: Fault = Fault { failure: Failure::InvalidCiphertext, blame: Blame::Suspect };
    let wrong = Fake::named("wrong", |_, _, _| Err(SUSPECT));
    let right = Fake::named("right", |_, _, request| match request.input.as_slice() {
        b"bad" => Err(SUSPECT),
        _ => Ok(()),
    });
    let mut caller = start(&[(&wrong, share(4)), (&right, share(4))], OFF);
    assert_eq!(caller.ask(decryption(b"bad")), Err(Failure::InvalidCiphertext));
    let each = usize::from(xks_proxy::limits::SUSPICIONS) / 2;
    assert_eq!((wrong.calls(), right.calls()), (each, each));
    for _ in 0..100 {
        caller.ask(decryption(b"good")).unwrap();
    }
    let stats = caller.hsm.stats();
    assert!(stats[0].faults_total > 20 && stats[0].is_usable, "{stats:#?}");
    assert_eq!(stats[1].faults_total, 0);
    eventually("health tells", || caller.hsm.health().tokens[0].status == HealthStatus::Degraded);
    assert_eq!(caller.hsm.health().tokens[1].status, HealthStatus::Active);
}

/// An operation that one token refuses may succeed on another make of HSM; if all refuse, each is
/// asked once.
#[test]
fn what_one_refuses_another_may_do() {
    let refusal = Fault::answer(Failure::Pkcs11(ReturnCode::Other(0x71)));
    let refuses = Fake::named("refuses", move |_, _, _| Err(refusal));
    let fussy = Fake::named("fussy", move |_, _, request| match request.input.as_slice() {
        b"neither" => Err(refusal),
        _ => Ok(()),
    });
    let mut caller = start(&[(&refuses, share(4)), (&fussy, share(4))], OFF);
    for _ in 0..50 {
        caller.ask(decryption(b"x")).unwrap();
    }
    let before = refuses.calls() + fussy.calls();
    assert_eq!(caller.ask(decryption(b"neither")), Err(Failure::Pkcs11(ReturnCode::Other(0x71))));
    assert_eq!(refuses.calls() + fussy.calls(), before + 2);
    assert_eq!(caller.hsm.stats()[0].faults_total, 0);
}

/// Requests before and after the last token is taken out of use get the same answer.
#[test]
fn with_no_token_left_all_hear_the_same() {
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x32)), blame: Blame::Token };
    let gone = Fake::named("gone", move |token, _, _| {
        token.gate.pass();
        *token.sickness.lock().unwrap() = Some(fault);
        Err(fault)
    });
    let mut caller = start(&[(&gone, share(8))], OFF);
    submit(&mut caller, 40, 60_000);
    eventually("all sessions are at work", || gone.gate.inside() == 8);
    gone.gate.open();
    let answers = caller.wait(40);
    assert_eq!(answers.len(), 40);
    for answer in &answers {
        assert_eq!(answer.outcome, Err(Failure::NoToken));
    }
}

/// An input too large for one token goes to another, and is refused if there is none.
#[test]
fn the_largest_operation() {
    let (small, large) = (well("small"), well("large"));
    let limited = Share { max_operation_bytes: 100, ..share(4) };
    let mut caller = start(&[(&small, limited), (&large, share(4))], OFF);
    for _ in 0..20 {
        caller.ask(decryption(&[7; 117])).unwrap();
    }
    assert_eq!((small.calls(), large.calls()), (0, 20));
    let mut caller = start(&[(&small, limited)], OFF);
    caller.ask(decryption(&[7; 116])).unwrap();
    assert_eq!(caller.ask(decryption(&[7; 117])), Err(Failure::TooLarge));
    let operation = Operation::Encrypt { cdiv: None };
    assert_eq!(caller.ask(request(0, operation, &[7; 101])), Err(Failure::TooLarge));
}

/// A call that hangs is also sent to another token. If it returns later, its answer is discarded.
#[test]
fn a_slow_call_is_hedged() {
    let (slow, quick) = (stuck("slow"), well("quick"));
    let first = Share { priority: 1, ..share(4) };
    let mut caller = start(&[(&slow, share(4)), (&quick, first)], SOON);
    submit(&mut caller, 1, 60_000);
    let answer = answers(&caller, 1).remove(0);
    assert_eq!(answer.token.unwrap().0, 1);
    // The answer may be quicker than the counter.
    eventually("it is counted", || caller.hsm.stats()[0].hedged_total == 1);
    assert_eq!(caller.hsm.stats()[1].hedges_won_total, 1);
    slow.gate.open();
    eventually("it returns", || slow.gate.inside() == 0);
    nothing_more_comes(&caller);
    let stats = caller.hsm.stats();
    let answered = stats.iter().map(|token| token.answered_total).sum::<u64>();
    assert_eq!((answered, stats[0].answered_total), (1, 0), "each answer is counted once");
}

/// With hedging switched off, the hung call is waited for.
#[test]
fn no_hedge_where_there_is_to_be_none() {
    let (slow, quick) = (stuck("slow"), well("quick"));
    let standby = Share { priority: 1, ..share(4) };
    let mut caller = start(&[(&slow, share(4)), (&quick, standby)], OFF);
    submit(&mut caller, 1, 60_000);
    eventually("it is in the call", || slow.gate.inside() == 1);
    assert!(caller.wait_for(1, 100 * MILLI).is_empty());
    assert_eq!(quick.calls(), 0);
    slow.gate.open();
    assert_eq!(answers(&caller, 1).remove(0).token.unwrap().0, 0);
}

/// All sessions of one token hang: the other token does the jobs in them and those queued for them.
#[test]
fn all_sessions_of_a_token_hang() {
    for sessions in [1, 2, 8] {
        let (hung, well) = (stuck("hung"), well("well"));
        let mut caller = start(&[(&hung, share(sessions)), (&well, share(4))], Hedging::default());
        for _ in 0..20 {
            submit(&mut caller, 5, 2_000);
            answers(&caller, 5);
        }
        assert!(hung.gate.inside() > 0);
        hung.gate.open();
        nothing_more_comes(&caller);
    }
}

/// One of a token's many sessions hangs and the others do not: one of those takes the job.
#[test]
fn a_stuck_session_of_the_only_token() {
    let token = Fake::new(|token, _, _| {
        if token.calls() == 1 {
            token.gate.pass();
        }
        Ok(())
    });
    let mut caller = start(&[(&token, share(4))], SOON);
    submit(&mut caller, 1, 60_000);
    eventually("it is stuck", || token.gate.inside() == 1);
    submit(&mut caller, 1, 60_000);
    answers(&caller, 2);
    assert_eq!(token.gate.inside(), 1);
    token.gate.open();
    nothing_more_comes(&caller);
}

/// If the request itself causes the hang, its second attempt hangs too; other requests still get a
/// session.
#[test]
fn a_request_that_hangs_does_not_take_the_last_session() {
    let token = Fake::new(|token, _, request| {
        if request.input == b"hangs" {
            token.gate.pass();
        }
        Ok(())
    });
    let mut caller = start(&[(&token, share(3))], SOON);
    let mut jobs = (0..2).map(|_| caller.job(decryption(b"hangs"), 60_000)).collect();
    caller.hsm.submit(&mut jobs, &mut Vec::new());
    eventually("both hang", || token.gate.inside() == 2);
    for _ in 0..50 {
        assert!(caller.ask_any(decryption(b"x")).is_ok());
    }
    assert_eq!(token.gate.inside(), 2);
    token.gate.open();
}

/// A token whose calls are all slow is overloaded: repeating them makes it worse.
#[test]
fn a_slow_token_is_not_called_twice() {
    let token = stuck("slow");
    let mut caller = start(&[(&token, share(4))], SOON);
    submit(&mut caller, 2, 60_000);
    eventually("both are in it", || token.gate.inside() == 2);
    assert!(caller.wait_for(1, 100 * MILLI).is_empty());
    assert_eq!(token.calls(), 2);
    token.gate.open();
    answers(&caller, 2);
}

/// Even if all calls are slow, there are no more second attempts than the budget allows.
#[test]
fn the_budget_is_kept() {
    let slow = |name| {
        Fake::named(name, |_, _, _| {
            std::thread::sleep(12 * MILLI);
            Ok(())
        })
    };
    let (one, two) = (slow("one"), slow("two"));
    let hedging = Hedging { after: HedgeAfter::Fixed(MILLI), budget_percent: 5 };
    let mut caller = start(&[(&one, share(8)), (&two, share(8))], hedging);
    for _ in 0..50 {
        submit(&mut caller, 4, 60_000);
        answers(&caller, 4);
    }
    let burst = xks_proxy::limits::MAX_HEDGE_BURST as usize;
    assert!(one.calls() + two.calls() <= 200 + burst + 10, "{} {}", one.calls(), two.calls());
    let hedged = caller.hsm.stats().iter().map(|token| token.hedged_total).sum::<u64>();
    assert!(hedged > 0);
}

/// If the second attempt fails while the first is still running, its failure is not the answer.
#[test]
fn a_failed_hedge_is_not_the_answer() {
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x30)), blame: Blame::Busy };
    let slow = stuck("slow");
    let broken = Fake::named("broken", move |_, _, _| Err(fault));
    let standby = Share { priority: 1, ..share(4) };
    let mut caller = start(&[(&slow, share(1)), (&broken, standby)], SOON);
    submit(&mut caller, 1, 60_000);
    eventually("the second attempt has failed", || broken.calls() > 0);
    assert!(caller.wait_for(1, 100 * MILLI).is_empty());
    slow.gate.open();
    answers(&caller, 1);
    nothing_more_comes(&caller);
}

/// Once each token has failed, each may be tried again: one dead session of a healthy token must
/// not leave a job with the token that is not.
#[test]
fn tokens_are_tried_again_in_turn() {
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0xb3)), blame: Blame::Session };
    let broken = Fake::named("broken", move |_, _, _| Err(fault));
    let well = Fake::named(
        "well",
        move |token, _, _| {
            if token.calls() % 2 == 1 { Err(fault) } else { Ok(()) }
        },
    );
    let mut caller = start(&[(&broken, share(2)), (&well, share(2))], OFF);
    for _ in 0..50 {
        caller.ask(decryption(b"x")).unwrap();
    }
}

/// If a token can never serve, the start fails with a message.
#[test]
fn an_unfit_token_is_refused_at_start() {
    let (fit, unfit) = (well("fit"), well("unfit"));
    *unfit.refusal.lock().unwrap() = Some(OpenError::Unfit("it has no AES-GCM".to_owned()));
    let error = try_start(&[(&fit, share(1)), (&unfit, share(1))], OFF).err().unwrap();
    assert!(error.message.contains("no AES-GCM"));
}

/// If calls do not return and no token is usable, a new process may help. Not while one is usable.
#[test]
fn when_the_fleet_is_wedged() {
    let (hung, other) = (stuck("hung"), well("other"));
    let mut caller = start(&[(&hung, share(4)), (&other, Share { priority: 1, ..share(4) })], OFF);
    hung.probes_hang.store(true, Ordering::SeqCst);
    eventually("the hung one is given up", || {
        let mut jobs = (0..8).map(|_| caller.job(decryption(b"x"), 1)).collect();
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        !caller.hsm.stats()[0].is_usable
    });
    assert!(!caller.hsm.is_wedged(), "the other one is well");
    let fault = Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x30)), blame: Blame::Token };
    *other.sickness.lock().unwrap() = Some(fault);
    *other.refusal.lock().unwrap() = Some(OpenError::Unavailable("away".to_owned()));
    eventually("nobody is left", || caller.hsm.is_wedged());
    hung.gate.open();
    hung.probes_hang.store(false, Ordering::SeqCst);
    eventually("they return", || !caller.hsm.is_wedged());
}

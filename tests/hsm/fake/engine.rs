//! Queue, workers, health checker and monitor, with tokens whose behaviour the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::caller::{Caller, eventually, request};
use crate::token::{Fake, FakeToken};
use xks_proxy::hsm::backend::{Backend, Blame, Evidence, Fault, OpenError};
use xks_proxy::hsm::{Hsm, TokenStats};
use xks_proxy::job::{Failure, HealthStatus, Iv, Operation, Request, ReturnCode, Success};
use xks_proxy::limits::{MAX_SUSPICIONS, SUSPICIONS};

fn start(tokens: &[&Arc<Fake>], max_sessions: usize) -> Caller {
    Caller::with(|inboxes| {
        let backend =
            |token: &&Arc<Fake>| Box::new(FakeToken(Arc::clone(token))) as Box<dyn Backend>;
        let backends = tokens.iter().map(|token| (backend(token), max_sessions));
        Hsm::start_with(backends.collect(), inboxes).unwrap()
    })
}

fn decryption(input: &[u8]) -> Request {
    request(0, Operation::Decrypt { iv: Iv::from_slice(&[1; 12]).unwrap() }, input)
}

/// Submits without waiting; returns serial numbers of the accepted jobs and failures of the
/// refused.
fn submit(caller: &mut Caller, deadlines_milli: &[u64]) -> (Vec<u64>, Vec<Failure>) {
    let mut jobs: Vec<_> =
        deadlines_milli.iter().map(|milli| caller.job(decryption(b"x"), *milli)).collect();
    let serials: Vec<_> = jobs.iter().map(|job| job.reply_to.serial).collect();
    let mut refused = Vec::new();
    caller.hsm.submit(&mut jobs, &mut refused);
    assert!(jobs.is_empty());
    let refused_serials: Vec<_> = refused.iter().map(|(job, _)| job.reply_to.serial).collect();
    let taken = serials.into_iter().filter(|serial| !refused_serials.contains(serial)).collect();
    (taken, refused.into_iter().map(|(_, failure)| failure).collect())
}

fn stats(caller: &Caller) -> TokenStats {
    caller.hsm.stats().remove(0)
}

const fn fault(blame: Blame) -> Fault {
    Fault { failure: Failure::Pkcs11(ReturnCode::Other(0x30)), blame }
}

/// Sessions are opened as load demands, all of them work at once on a token that waits, and there
/// are never more than the settings allow (plus the health checker's).
#[test]
fn sessions_grow_with_load_up_to_the_limit() {
    let token = Fake::new(|token, _, _| {
        token.gate.pass();
        Ok(())
    });
    let mut caller = start(&[&token], 8);
    eventually("one session is ready", || token.open_now.load(Ordering::SeqCst) == 2);
    let (taken, refused) = submit(&mut caller, &[60_000; 3]);
    assert!(refused.is_empty());
    eventually("each job has a session", || token.gate.inside() == 3);
    assert!(token.open_now.load(Ordering::SeqCst) <= 5);
    let (more, _) = submit(&mut caller, &[60_000; 20]);
    eventually("all sessions work", || token.gate.inside() == 8);
    token.gate.open();
    let answers = caller.wait(taken.len() + more.len());
    assert_eq!(answers.len(), 23);
    assert!(answers.iter().all(|a| a.outcome == Ok(Success::Decrypted) && **a.output == *b"x"));
    assert_eq!(token.most_open.load(Ordering::SeqCst), 9);
}

/// A job whose caller no longer waits is not executed.
#[test]
fn expired_jobs_are_dropped() {
    let token = Fake::new(|token, _, _| {
        token.gate.pass();
        Ok(())
    });
    let mut caller = start(&[&token], 1);
    let (first, _) = submit(&mut caller, &[60_000]);
    eventually("the session is at work", || token.gate.inside() == 1);
    submit(&mut caller, &[1, 1]);
    let (last, _) = submit(&mut caller, &[60_000]);
    std::thread::sleep(Duration::from_millis(5));
    token.gate.open();
    let answered: Vec<_> = caller.wait(2).iter().map(|a| a.reply_to.serial).collect();
    assert_eq!(answered, [first, last].concat());
    assert_eq!(token.calls(), 2);
    assert_eq!(stats(&caller).expired_total, 2);
}

/// Jobs that cannot be finished in time are refused at once; those that can are accepted, even
/// right after a refusal.
#[test]
fn admission_is_by_expected_wait() {
    let token = Fake::new(|_, _, _| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    });
    let mut caller = start(&[&token], 1);
    for _ in 0..3 {
        caller.ask(decryption(b"x")).unwrap();
    }
    // Each takes at least 10 ms, so at most nine of a hundred fit into 100 ms.
    let (taken, refused) = submit(&mut caller, &[100; 100]);
    assert!(taken.len() <= 10, "{} taken", taken.len());
    assert_eq!(refused.len(), 100 - taken.len());
    assert!(refused.iter().all(|failure| *failure == Failure::Overloaded));
    eventually("the queue is empty", || stats(&caller).queued == 0 && stats(&caller).idle == 1);
    caller.wait(1);
    assert_eq!(submit(&mut caller, &[100]).1, []);
}

/// A burst that one session could not handle in time is accepted while more sessions may be opened.
#[test]
fn a_first_burst_counts_on_sessions_to_come() {
    let token = Fake::new(|_, _, _| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    });
    let mut caller = start(&[&token], 64);
    // Sequentially, until it is known that the token does not compute in this process.
    for _ in 0..1_000 {
        if stats(&caller).active_limit == 64 {
            break;
        }
        caller.ask(decryption(b"x")).unwrap();
    }
    // On a busy machine a call may have been hedged. Eight sessions could do half the jobs in time.
    assert!(stats(&caller).running + stats(&caller).idle < 8);
    let (taken, refused) = submit(&mut caller, &[200; 64]);
    assert_eq!((taken.len(), refused), (64, Vec::new()));
}

/// The queue is bounded.
#[test]
fn a_full_queue_refuses() {
    let token = Fake::new(|token, _, _| {
        token.gate.pass();
        Ok(())
    });
    let mut caller = start(&[&token], 1);
    let limit = xks_proxy::limits::MAX_QUEUED_JOBS_PER_TOKEN;
    let (_, refused) = submit(&mut caller, &vec![600_000; limit + 100]);
    assert!(refused.len() >= 99, "{}", refused.len());
    assert!(refused.iter().all(|failure| *failure == Failure::Overloaded));
    token.gate.open();
}

/// A session that dies costs the caller nothing: another is opened and the job is retried.
#[test]
fn a_dead_session_is_replaced_and_its_job_done() {
    for blame in [Blame::Session, Blame::Token, Blame::Busy] {
        let token = Fake::new(move |token, _, _| match token.calls() {
            1 | 2 => Err(fault(blame)),
            _ => Ok(()),
        });
        let mut caller = start(&[&token], 4);
        let (success, output) = caller.ask(decryption(b"secret")).unwrap();
        assert_eq!((success, output.as_slice()), (Success::Decrypted, b"secret".as_slice()));
        assert_eq!(token.calls(), 3, "{blame:?}");
        assert_eq!(stats(&caller).faults_total, 2);
    }
}

/// With 64 dead sessions in the pool (the HSM was restarted), a job must not go from one to the
/// next until its attempts are used up.
#[test]
fn dead_sessions_do_not_use_up_attempts() {
    const SESSIONS: usize = 64;
    let token = Fake::new(|token, number, _| {
        token.gate.pass();
        if number <= SESSIONS { Err(fault(Blame::Session)) } else { Ok(()) }
    });
    let mut caller = start(&[&token], SESSIONS);
    let (taken, _) = submit(&mut caller, &[60_000; SESSIONS]);
    eventually("all sessions are open", || token.gate.inside() == SESSIONS);
    token.gate.open();
    let answers = caller.wait(taken.len());
    let good = answers.iter().filter(|answer| answer.outcome.is_ok()).count();
    assert_eq!(good, SESSIONS);
}

/// A job that one token cannot do is done by another, and the caller does not notice.
#[test]
fn another_token_steps_in() {
    for blame in [Blame::Session, Blame::Token, Blame::Busy, Blame::Key] {
        let bad = Fake::named("bad", move |_, _, _| Err(fault(blame)));
        let good = Fake::named("good", |_, _, _| Ok(()));
        let mut caller = start(&[&bad, &good], 2);
        // A token without a session is passed over for one that has one.
        eventually("both have a session", || caller.hsm.stats().iter().all(|token| token.idle > 0));
        for _ in 0..100 {
            let answer = caller.ask(decryption(b"x"));
            assert!(answer.is_ok(), "{blame:?}: {answer:?} {:#?}", caller.hsm.stats());
        }
        // A slow call may be hedged, and so made twice.
        assert!(bad.calls() >= 1 && good.calls() >= 100);
        if blame == Blame::Token {
            eventually("the bad one is probed well again", || {
                caller.hsm.health().tokens.iter().all(|t| t.status != HealthStatus::Unavailable)
            });
        }
    }
}

/// A key that no token has is reported as not found, unless a token that may have it is out of
/// service.
#[test]
fn a_missing_key_is_told_from_a_missing_token() {
    let lacks = |_: &Fake, _: usize, _: &Request| {
        Err(Fault { failure: Failure::KeyNotFound, blame: Blame::Key })
    };
    let (one, two) = (Fake::new(lacks), Fake::new(lacks));
    let mut caller = start(&[&one, &two], 2);
    assert_eq!(caller.ask(decryption(b"x")), Err(Failure::KeyNotFound));
    assert_eq!((one.calls(), two.calls()), (1, 1));
    drop(caller);
    *two.refusal.lock().unwrap() = Some(OpenError::Unavailable("away".to_owned()));
    let mut caller = start(&[&one, &two], 2);
    assert_eq!(caller.ask(decryption(b"x")), Err(Failure::NoToken));
}

/// A fault of the request itself is answered at once, as the first token reports it.
#[test]
fn a_bad_request_is_not_tried_again() {
    let token = Fake::new(|_, _, _| Err(Fault::answer(Failure::InvalidCiphertext)));
    let other = Fake::new(|_, _, _| Err(Fault::answer(Failure::InvalidCiphertext)));
    let mut caller = start(&[&token, &other], 2);
    for n in 1..=100 {
        assert_eq!(caller.ask(decryption(b"x")), Err(Failure::InvalidCiphertext));
        assert_eq!(token.calls() + other.calls(), n);
    }
    assert_eq!(stats(&caller).faults_total, 0);
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Active);
}

const SUSPICION_CALLS: usize = SUSPICIONS as usize;
const SUSPECT: Fault = Fault { failure: Failure::InvalidCiphertext, blame: Blame::Suspect };

/// A code that may mean trouble is blamed on the caller only after a number of attempts, which is
/// larger after recent trouble but bounded.
#[test]
fn a_suspect_ciphertext_is_tried_a_few_times() {
    let token = Fake::new(|_, _, request| match request.input.as_slice() {
        b"bad" => Err(SUSPECT),
        _ => Ok(()),
    });
    let mut caller = start(&[&token], 2);
    for n in 1..=100 {
        assert_eq!(caller.ask(decryption(b"bad")), Err(Failure::InvalidCiphertext));
        assert_eq!(token.calls(), n * SUSPICION_CALLS);
    }
    assert_eq!((stats(&caller).faults_total, stats(&caller).sessions_opened_total), (0, 1));
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Active);

    let token = Fake::new(|token, _, _| match token.calls() {
        1 => Err(fault(Blame::Busy)),
        _ => Err(SUSPECT),
    });
    let mut caller = start(&[&token], 2);
    assert_eq!(caller.ask(decryption(b"bad")), Err(Failure::InvalidCiphertext));
    assert_eq!(token.calls(), 1 + usize::from(MAX_SUSPICIONS));
}

/// If an attempt succeeds in the end, the token was at fault: the fault is counted, and the token's
/// next such code is trusted less.
#[test]
fn a_suspicion_that_proves_wrong_is_a_fault() {
    let token = Fake::new(|token, _, _| match token.calls() {
        1..SUSPICION_CALLS => Err(SUSPECT),
        SUSPICION_CALLS => Ok(()),
        _ => Err(SUSPECT),
    });
    let mut caller = start(&[&token], 2);
    assert!(caller.ask(decryption(b"good")).is_ok());
    assert_eq!(stats(&caller).faults_total, 1);
    assert_eq!(caller.ask(decryption(b"bad")), Err(Failure::InvalidCiphertext));
    assert_eq!(token.calls(), SUSPICION_CALLS + usize::from(MAX_SUSPICIONS));
}

/// A token that fails three calls in ten stays in use, since retries succeed at once; its health
/// reports it as degraded.
#[test]
fn a_token_that_often_fails_is_degraded() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let token = Fake::new(move |token, _, _| {
        if well.load(Ordering::SeqCst) || token.calls() % 10 >= 3 {
            Ok(())
        } else {
            Err(fault(Blame::Busy))
        }
    });
    let mut caller = start(&[&token], 2);
    eventually("it is degraded", || {
        caller.ask(decryption(b"x")).unwrap();
        // Not merely because of two faults in a row, which happen all the time here.
        caller.hsm.health().tokens[0].status == HealthStatus::Degraded
            && stats(&caller).trouble.is_some_and(|trouble| trouble.contains("of the latest 64"))
    });
    assert!(caller.hsm.health().can_serve());
    is_well.store(true, Ordering::SeqCst);
    eventually("it is well", || {
        caller.ask(decryption(b"x")).unwrap();
        caller.hsm.health().tokens[0].status == HealthStatus::Active
    });
    assert_eq!(stats(&caller).trouble, None);
}

/// A call that hangs costs one worker: it is written off, another session takes over, and an answer
/// that arrives later is discarded.
#[test]
fn a_hung_call_is_written_off() {
    let token = Fake::new(|token, _, request| {
        if request.input == b"hang" {
            token.gate.pass();
        }
        Ok(())
    });
    let mut caller = start(&[&token], 1);
    caller.ask(decryption(b"x")).unwrap();
    let mut jobs = vec![caller.job(decryption(b"hang"), 50)];
    caller.hsm.submit(&mut jobs, &mut Vec::new());
    eventually("it hangs", || token.gate.inside() == 1);
    // Other jobs wait until the only session has been written off.
    for _ in 0..10 {
        assert!(caller.ask(decryption(b"x")).is_ok());
    }
    assert_eq!(stats(&caller).hung, 1);
    assert_eq!(stats(&caller).hung_total, 1);
    eventually("health tells", || caller.hsm.health().tokens[0].status == HealthStatus::Degraded);
    token.gate.open();
    eventually("its thread has ended", || stats(&caller).hung == 0);
    eventually("its session is closed", || token.open_now.load(Ordering::SeqCst) == 2);
    assert!(caller.ask(decryption(b"y")).is_ok(), "and no other answer came before");
}

/// While other sessions are left, no job waits for the one that was written off.
#[test]
fn a_hung_call_does_not_hold_others_up() {
    let token = Fake::new(|token, _, request| {
        if request.input == b"hang" {
            token.gate.pass();
        }
        Ok(())
    });
    let mut caller = start(&[&token], 4);
    let mut jobs: Vec<_> = (0..3).map(|_| caller.job(decryption(b"hang"), 60_000)).collect();
    caller.hsm.submit(&mut jobs, &mut Vec::new());
    eventually("three hang", || token.gate.inside() == 3);
    for _ in 0..100 {
        assert!(caller.ask(decryption(b"x")).is_ok());
    }
    assert_eq!(stats(&caller).hung_total, 0);
    token.gate.open();
    assert_eq!(caller.wait(3).len(), 3);
}

/// A token, and the switch that makes its calls fail.
fn goes_away() -> (Arc<Fake>, Arc<AtomicBool>) {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let call = move |_: &Fake, _, _: &Request| {
        if away.load(Ordering::SeqCst) { Err(fault(Blame::Token)) } else { Ok(()) }
    };
    (Fake::new(call), is_away)
}

/// A token that is away fails at once, and is used again when it returns; its dead sessions are
/// closed before the module is initialised again.
#[test]
fn a_token_that_went_away_comes_back() {
    let (token, is_away) = goes_away();
    let mut caller = start(&[&token], 4);
    assert!(caller.ask(decryption(b"x")).is_ok());
    is_away.store(true, Ordering::SeqCst);
    *token.refusal.lock().unwrap() = Some(OpenError::Unavailable("away".to_owned()));
    *token.sickness.lock().unwrap() = Some(fault(Blame::Token));
    eventually("it is given up", || {
        caller.ask(decryption(b"x")).is_err() && !stats(&caller).is_usable
    });
    let (taken, refused) = submit(&mut caller, &[60_000; 10]);
    assert!(taken.is_empty());
    assert_eq!(refused, [Failure::NoToken; 10]);
    let trouble = stats(&caller).trouble.unwrap();
    assert!(["CKR_DEVICE_ERROR (0x00000030)", "away"].contains(&trouble.as_str()), "{trouble}");
    eventually("health tells", || {
        caller.hsm.health().tokens[0].status == HealthStatus::Unavailable
    });
    eventually("the last rung is reached", || token.reinitialized.load(Ordering::SeqCst) > 0);
    assert_eq!(token.open_now.load(Ordering::SeqCst), 0);
    is_away.store(false, Ordering::SeqCst);
    *token.refusal.lock().unwrap() = None;
    *token.sickness.lock().unwrap() = None;
    eventually("it is used again", || caller.ask(decryption(b"x")).is_ok());
    eventually("health tells", || caller.hsm.health().tokens[0].status == HealthStatus::Active);
}

/// Sessions open but nothing works in them: workers keep none while the token is out of use, so
/// that the module can be initialised again.
#[test]
fn sessions_that_open_in_vain_do_not_keep_the_module() {
    let (token, is_away) = goes_away();
    let mut caller = start(&[&token], 4);
    assert!(caller.ask(decryption(b"x")).is_ok());
    is_away.store(true, Ordering::SeqCst);
    *token.sickness.lock().unwrap() = Some(fault(Blame::Token));
    eventually("it is given up", || {
        caller.ask(decryption(b"x")).is_err() && !stats(&caller).is_usable
    });
    eventually("the module is asked to be initialised again", || {
        token.reinitialized.load(Ordering::SeqCst) > 0
    });
    eventually("no session is left", || token.open_now.load(Ordering::SeqCst) == 0);
    is_away.store(false, Ordering::SeqCst);
    *token.sickness.lock().unwrap() = None;
    eventually("it is used again", || caller.ask(decryption(b"x")).is_ok());
}

/// HSMs lock after a few wrong PINs, so a process makes one attempt only.
#[test]
fn a_refused_pin_is_not_tried_again() {
    let token = Fake::new(|_, _, _| Ok(()));
    *token.refusal.lock().unwrap() = Some(OpenError::PinRefused("CKR_PIN_INCORRECT".to_owned()));
    let mut caller = start(&[&token], 4);
    for _ in 0..100 {
        assert_eq!(caller.ask(decryption(b"x")), Err(Failure::NoToken));
    }
    // Longer than the first delay of everything that might retry.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(token.opens.load(Ordering::SeqCst), 1);
    assert_eq!(stats(&caller).trouble.as_deref(), Some("CKR_PIN_INCORRECT"));
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Unavailable);
}

/// A token that offers fewer sessions than the settings want works with those that it offers.
#[test]
fn too_few_sessions_are_made_do_with() {
    let token = Fake::new(|token, _, _| {
        token.gate.pass();
        Ok(())
    });
    let mut caller = start(&[&token], 8);
    let (first, _) = submit(&mut caller, &[60_000; 2]);
    eventually("two are at work", || token.gate.inside() == 2);
    *token.refusal.lock().unwrap() = Some(OpenError::TooManySessions("no more".to_owned()));
    let (more, _) = submit(&mut caller, &[60_000; 20]);
    token.gate.open();
    let answers = caller.wait(first.len() + more.len());
    assert_eq!(answers.len(), 22);
    assert!(answers.iter().all(|answer| answer.outcome.is_ok()));
    assert!(stats(&caller).is_usable);
}

/// If a probe hangs while jobs are answered, the token is degraded and stays in use. Once the jobs
/// stop, its state is unknown.
#[test]
fn a_hung_probe_is_judged_by_recent_traffic() {
    let token = Fake::new(|_, _, _| Ok(()));
    let mut caller = start(&[&token], 2);
    token.probes_hang.store(true, Ordering::SeqCst);
    let start = Instant::now();
    eventually("it is degraded", || {
        assert!(caller.ask(decryption(b"x")).is_ok());
        caller.hsm.health().tokens[0].status == HealthStatus::Degraded
    });
    assert!(start.elapsed() < xks_proxy::limits::MAX_HEALTH_AGE / 2);
    assert!(caller.hsm.health().can_serve());
    eventually("nobody knows", || {
        caller.hsm.health().tokens[0].status == HealthStatus::Unavailable
    });
    token.probes_hang.store(false, Ordering::SeqCst);
    token.gate.open();
    eventually("it is well again", || caller.ask(decryption(b"x")).is_ok());
}

/// Computes for this time.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A token that computes in this process gets as many active sessions as there are spare cores,
/// even if the settings allow more; one that waits gets all that they allow.
#[test]
fn active_sessions_follow_what_the_token_is() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let spare = cores.saturating_sub(1).clamp(1, 64);
    let computes = Fake::named("computes", |_, _, _| {
        spin(Duration::from_micros(500));
        Ok(())
    });
    let waits = Fake::named("waits", |_, _, _| {
        std::thread::sleep(Duration::from_micros(500));
        Ok(())
    });
    for (token, limit) in [(computes, spare), (waits, 64)] {
        let mut caller = start(&[&token], 64);
        for _ in 0..100 {
            caller.ask(decryption(b"x")).unwrap();
        }
        eventually("it is settled", || {
            caller.ask(decryption(b"x")).unwrap();
            stats(&caller).active_limit == limit
        });
        submit(&mut caller, &[60_000; 64]);
        assert_eq!(caller.wait(64).len(), 64);
        if limit == 1 {
            assert!(token.most_open.load(Ordering::SeqCst) <= 64);
        }
    }
}

/// A token that computes in this process lacks CPU time if more jobs wait than it gets done. One that
/// waits for another device does not, however few sessions it has.
#[test]
fn only_a_token_that_computes_here_lacks_cpu() {
    let computes = Fake::named("computes", |_, _, _| {
        spin(Duration::from_millis(1));
        Ok(())
    });
    let waits = Fake::named("waits", |_, _, _| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    for (token, is_here) in [(computes, true), (waits, false)] {
        let mut caller = start(&[&token], 1);
        for _ in 0..100 {
            caller.ask(decryption(b"x")).unwrap();
        }
        assert!(!caller.hsm.lacks_cpu(Duration::from_millis(1)), "nothing waits");
        let (taken, _) = submit(&mut caller, &[60_000; 1000]);
        if is_here {
            eventually("it lacks CPU time", || caller.hsm.lacks_cpu(Duration::from_millis(1)));
        } else {
            assert!(!caller.hsm.lacks_cpu(Duration::from_millis(1)));
        }
        assert_eq!(caller.wait(taken.len()).len(), 1000);
    }
}

/// All accepted jobs are answered before a stop completes, and all sessions are closed.
#[test]
fn a_stop_drains() {
    let token = Fake::new(|_, _, _| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let mut caller = start(&[&token], 4);
    let (taken, _) = submit(&mut caller, &[60_000; 100]);
    assert!(caller.hsm.stop(Duration::from_secs(20)));
    let answers = caller.wait(taken.len());
    assert_eq!(answers.len(), taken.len());
    assert!(answers.iter().all(|answer| answer.outcome.is_ok()));
    assert_eq!(token.open_now.load(Ordering::SeqCst), 0);
    assert_eq!(token.closed.load(Ordering::SeqCst), 1);
    assert_eq!(submit(&mut caller, &[60_000]).1, [Failure::NoToken]);
}

/// A call that hangs indefinitely does not delay a stop beyond its time limit.
#[test]
fn a_stop_does_not_wait_for_what_hangs() {
    let token = Fake::new(|token, _, _| {
        token.gate.pass();
        Ok(())
    });
    let mut caller = start(&[&token], 1);
    submit(&mut caller, &[60_000; 5]);
    eventually("it hangs", || token.gate.inside() == 1);
    assert!(!caller.hsm.stop(Duration::from_millis(300)));
    let answers = caller.wait(4);
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|answer| answer.outcome == Err(Failure::NoToken)));
    token.gate.open();
}

/// No job is lost and none is answered twice, with several loops' worth of jobs, faults of all
/// kinds, and two tokens.
#[test]
fn every_job_is_answered_once() {
    let mishaps = |token: &Fake, _: usize, _: &Request| match token.calls() % 23 {
        3 => Err(fault(Blame::Session)),
        7 => Err(fault(Blame::Token)),
        11 => Err(fault(Blame::Busy)),
        13 => Err(Fault { failure: Failure::KeyNotFound, blame: Blame::Key }),
        17 => Err(Fault::answer(Failure::InvalidCiphertext)),
        _ => Ok(()),
    };
    let (one, two) = (Fake::named("one", mishaps), Fake::named("two", mishaps));
    let mut caller = start(&[&one, &two], 8);
    let mut seen = std::collections::HashSet::new();
    let mut expected = 0;
    for round in 0..200 {
        let (taken, refused) = submit(&mut caller, &vec![60_000; round % 40 + 1]);
        assert_eq!(refused, [], "round {round}");
        expected += taken.len();
        for answer in caller.wait(taken.len()) {
            assert!(seen.insert(answer.reply_to.serial));
            if let Err(failure) = answer.outcome {
                assert!(answer.output.is_empty(), "{failure:?}");
            }
        }
    }
    assert_eq!(seen.len(), expected);
}

fn of_key(key: u32) -> Request {
    request(key, Operation::Decrypt { iv: Iv::from_slice(&[1; 12]).unwrap() }, b"x")
}

/// A token that fails every operation with key 1 and serves all other keys.
fn with_a_bad_key(name: &'static str) -> Arc<Fake> {
    let token = Fake::named(name, |token, _, request| {
        if request.key.0 == 1 {
            token.counted.fetch_add(1, Ordering::SeqCst);
            return Err(fault(Blame::Token));
        }
        Ok(())
    });
    *token.evidence.lock().unwrap() = Evidence::Passed;
    token
}

/// If another key works in the same session, a key's faults cost no session and do not open the
/// token's circuit breaker; they open the key's, and the token is still tried now and then.
#[test]
fn a_bad_key_costs_no_session() {
    let token = with_a_bad_key("one");
    let mut caller = start(&[&token], 4);
    eventually("one session is ready", || token.open_now.load(Ordering::SeqCst) == 2);
    eventually("the key is out of use", || {
        assert_eq!(caller.ask(of_key(1)), Err(Failure::Pkcs11(ReturnCode::Other(0x30))));
        assert!(caller.ask(of_key(0)).is_ok());
        !stats(&caller).keys_out_of_use.is_empty()
    });
    let before = token.counted.load(Ordering::SeqCst);
    for _ in 0..200 {
        assert_eq!(caller.ask(of_key(1)), Err(Failure::Pkcs11(ReturnCode::Other(0x30))));
        assert!(caller.ask(of_key(0)).is_ok());
    }
    let tried = token.counted.load(Ordering::SeqCst) - before;
    assert!(tried <= 2, "{tried} attempts with an open circuit breaker");
    let stats = stats(&caller);
    assert_eq!(stats.keys_out_of_use[0].direction, "decrypt");
    assert_eq!((stats.put_in_use_total, stats.key_breaker_openings_total), (1, 1), "{stats:#?}");
    assert!(stats.is_usable && token.opens.load(Ordering::SeqCst) <= 5, "{stats:#?}");
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Active);
}

/// A key that fails on one token is served by another from the first failure on, and goes there
/// directly once the key's circuit breaker is open.
#[test]
fn another_token_serves_the_key() {
    let (one, two) = (with_a_bad_key("one"), Fake::named("two", |_, _, _| Ok(())));
    let mut caller = start(&[&one, &two], 4);
    eventually("both are usable", || caller.hsm.stats().iter().all(|token| token.is_usable));
    eventually("the key is out of use on one", || {
        assert!(caller.ask(of_key(1)).is_ok() && caller.ask(of_key(0)).is_ok());
        !stats(&caller).keys_out_of_use.is_empty()
    });
    let before = one.counted.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(caller.ask(of_key(1)).is_ok());
    }
    assert!(one.counted.load(Ordering::SeqCst) - before <= 2);
}

/// If the other key fails too, in that session and in the next, the token is at fault and not the
/// key.
#[test]
fn where_another_key_fails_too_the_token_is_at_fault() {
    let token = with_a_bad_key("one");
    *token.evidence.lock().unwrap() = Evidence::Failed;
    let mut caller = start(&[&token], 2);
    eventually("the token is usable", || stats(&caller).is_usable);
    eventually("the token is out of use", || {
        assert!(caller.ask_any(of_key(1)).is_err());
        stats(&caller).put_in_use_total > 1 || !stats(&caller).is_usable
    });
    assert!(stats(&caller).keys_out_of_use.is_empty());
}

/// A token all of whose threads hang, with no room for another session, is not usable.
#[test]
fn no_session_left() {
    let token = Fake::new(|token, _, request| {
        if matches!(request.operation, Operation::Describe) {
            token.gate.pass();
        }
        Ok(())
    });
    let mut caller = start(&[&token], 64);
    caller.ask(decryption(b"x")).unwrap();
    // Until then it is briefly out of use at times, since calls hang and nothing is answered.
    let end = Instant::now() + Duration::from_secs(60);
    let is_so =
        |stats: &TokenStats| stats.trouble.as_ref().is_some_and(|it| it.contains("no session"));
    while !is_so(&stats(&caller)) {
        assert!(Instant::now() < end, "{:#?}", stats(&caller));
        let mut jobs: Vec<_> =
            (0..64).map(|_| caller.job(request(0, Operation::Describe, b""), 1)).collect();
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("health tells", || !caller.hsm.health().can_serve());
    assert!(caller.hsm.is_wedged());
    token.gate.open();
    eventually("it is usable again", || stats(&caller).is_usable);
}

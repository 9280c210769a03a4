//! The way back: the race of attempts, inboxes of event loops, signals, deferred jobs and the hedge
//! budget.

use std::sync::Arc;

use super::rig::LONG;
use crate::hsm::deferred::Deferred;
use crate::hsm::hedge_budget::HedgeBudget;
use crate::hsm::queued::Queued;
use crate::hsm::race::Race;
use crate::hsm::signal::Signal;
use crate::job::{Completion, CompletionQueue, Failure, Job, ReplyTo, Request, Success};
use crate::limits::MAX_HEDGE_BURST;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::check::check;
use crate::sync::{clock, thread};

fn reply_to(serial: u64) -> ReplyTo {
    ReplyTo { event_loop: 0, slot: 0, serial }
}

fn completion(serial: u64) -> Completion {
    Completion {
        reply_to: reply_to(serial),
        outcome: Ok(Success::Decrypted),
        output: Vec::new().into(),
        token: None,
        queue_micros: 0,
        hsm_micros: 0,
    }
}

/// An event loop that sleeps until its inbox wakes it gets each answer once.
#[test]
fn an_inbox_wakes_its_owner() {
    check(10_000, || {
        let signal = Arc::new(Signal::default());
        let inbox = Arc::new(CompletionQueue::new({
            let signal = Arc::clone(&signal);
            move || signal.notify()
        }));
        for first in [1, 3] {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                inbox.push(&mut vec![completion(first)]);
                inbox.push(&mut vec![completion(first + 1)]);
            });
        }
        let mut arrived = Vec::new();
        while arrived.len() < 4 {
            let mut batch = Vec::new();
            inbox.take(&mut batch);
            if batch.is_empty() {
                signal.wait_until(clock::now() + LONG);
            }
            arrived.extend(batch.into_iter().map(|answer| answer.reply_to.serial));
        }
        arrived.sort_unstable();
        assert_eq!(arrived, [1, 2, 3, 4]);
    });
}

/// A thread that is about to sleep for long because there is no work sees the work or the signal.
#[test]
fn a_signal_ends_a_long_wait() {
    check(10_000, || {
        let signal = Arc::new(Signal::default());
        let work = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let (signal, work) = (Arc::clone(&signal), Arc::clone(&work));
            thread::spawn(move || {
                work.fetch_add(1, Ordering::SeqCst);
                signal.notify_if_waiting();
            });
        }
        let mut done = 0;
        while done < 2 {
            let is_needed = || work.load(Ordering::SeqCst) > 0;
            signal.wait_idle_until(clock::now() + LONG, is_needed);
            done += work.swap(0, Ordering::SeqCst);
        }
    });
}

/// Returns how many of these concurrent attempts were told that theirs is the answer, and whether
/// one of those has succeeded.
fn answers(outcomes: &[Result<Success, Failure>]) -> (usize, bool) {
    let race = Arc::new(Race::of_two());
    outcomes.iter().skip(2).for_each(|_| race.join());
    let attempt = |outcome: &Result<Success, Failure>| {
        let (race, outcome) = (Arc::clone(&race), *outcome);
        thread::spawn(move || (race.finish(&outcome), outcome.is_ok()))
    };
    let attempts: Vec<_> = outcomes.iter().map(attempt).collect();
    let ends: Vec<_> = attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect();
    assert!(race.is_over());
    let wins = ends.iter().filter(|(is_answer, _)| *is_answer);
    (wins.clone().count(), wins.clone().any(|(_, is_good)| *is_good))
}

/// Of concurrent attempts exactly one is the answer, and a success if there is one.
#[test]
fn one_attempt_answers() {
    check(3000, || {
        let (done, failed) = (Ok(Success::Decrypted), Err(Failure::NoToken));
        assert_eq!(answers(&[done, done]), (1, true));
        assert_eq!(answers(&[done, failed]), (1, true));
        assert_eq!(answers(&[failed, failed]), (1, false));
        assert_eq!(answers(&[failed, done, failed]), (1, true));
        assert_eq!(answers(&[failed, failed, failed]), (1, false));
    });
}

/// A second attempt that is not made after all leaves the answer to the first.
#[test]
fn an_attempt_that_is_undone_answers_nothing() {
    check(3000, || {
        let race = Arc::new(Race::of_two());
        race.join();
        let first = thread::spawn({
            let race = Arc::clone(&race);
            move || usize::from(race.finish(&Err(Failure::NoToken)))
        });
        race.leave();
        let answers = usize::from(race.finish(&Err(Failure::NoToken))) + first.join().unwrap();
        assert_eq!(answers, 1);
    });
}

/// No more hedges are made than there is money for, and payments that are returned can be spent.
#[test]
fn the_hedge_budget_is_kept() {
    check(3000, || {
        let budget = Arc::new(HedgeBudget::new(5));
        for _ in 0..MAX_HEDGE_BURST - 1 {
            assert!(budget.spend());
        }
        let spenders: Vec<_> = (0..3)
            .map(|number| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    let is_paid = budget.spend();
                    if is_paid && number == 0 {
                        budget.refund();
                        return 0;
                    }
                    usize::from(is_paid)
                })
            })
            .collect();
        budget.earn(20);
        let spent: usize = spenders.into_iter().map(|spender| spender.join().unwrap()).sum();
        let left = (0..5).filter(|_| budget.spend()).count();
        assert_eq!(spent + left, 2, "one was left, and one was earned");
    });
}

/// Deferred jobs are taken once, and their number is that of the jobs.
#[test]
fn deferred_jobs_are_taken_once() {
    check(4000, || {
        let now = clock::now();
        let job = |serial| Job {
            request: Arc::new(Request::default()),
            output: Vec::new().into(),
            reply_to: reply_to(serial),
            queued_at: now,
            deadline: now + LONG,
        };
        let deferred = Arc::new(Deferred::default());
        assert!(deferred.push(Queued::new(job(1))).is_ok());
        let taker = |_| {
            let deferred = Arc::clone(&deferred);
            thread::spawn(move || usize::from(deferred.take(|_| true).is_some()))
        };
        let takers: Vec<_> = (0..2).map(taker).collect();
        assert!(deferred.push(Queued::new(job(2))).is_ok());
        let drained = deferred.drain().len();
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(taken + drained + deferred.drain().len(), 2);
        assert!(deferred.is_empty());
    });
}

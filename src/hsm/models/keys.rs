//! Circuit breakers of keys, and calls by key that take too long.

use std::sync::Arc;
use std::time::Duration;

use super::rig::KEY;
use crate::hsm::key_breaker::{Admission, KeyBreakers};
use crate::hsm::key_hangs::KeyHangs;
use crate::job::Failure;
use crate::limits::{KEY_FAULT_EXPIRY, KEY_FAULT_SPAN, MAX_OVERDUE_CALLS_PER_KEY, MIN_KEY_FAULTS};
use crate::sync::check::check;
use crate::sync::{clock, thread};

fn fault(breakers: &KeyBreakers, after: Duration) -> bool {
    let now = clock::now() + after;
    breakers.fault(KEY.0, KEY.1, Failure::Malformed, false, now).is_some()
}

fn spawn<R: Send + 'static>(
    breakers: &Arc<KeyBreakers>,
    action: impl FnOnce(&KeyBreakers) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let breakers = Arc::clone(breakers);
    thread::spawn(move || action(&breakers))
}

/// However faults, successes and expiry coincide, the number of open breakers is right, and each
/// opening is reported once.
#[test]
fn open_breakers_are_counted() {
    check(4000, || {
        let breakers = Arc::new(KeyBreakers::default());
        for _ in 1..MIN_KEY_FAULTS {
            assert!(!fault(&breakers, Duration::ZERO));
        }
        let later = KEY_FAULT_SPAN;
        let faults = [(); 2].map(|()| spawn(&breakers, move |it| fault(it, later)));
        let success = spawn(&breakers, |it| it.success(KEY.0, KEY.1, clock::now()).is_some());
        let expiry = spawn(&breakers, |it| it.forget_old(clock::now() + KEY_FAULT_EXPIRY));
        expiry.join().unwrap();
        let opened: u64 = faults.map(|fault| u64::from(fault.join().unwrap())).iter().sum();
        let is_closed = success.join().unwrap();
        assert!(!is_closed || opened > 0, "only an open breaker is closed");
        assert_eq!(breakers.opened_total(), opened);
        assert_eq!(breakers.open(), breakers.all_open().len());
        assert_eq!(breakers.open() > 0, breakers.is_open(KEY.0, Some(KEY.1)));
        assert!(breakers.success(KEY.0, KEY.1, clock::now()).is_some() || breakers.open() == 0);
        assert_eq!(breakers.open(), 0);
    });
}

/// Of requests that come when a trial is due, one tries the key.
#[test]
fn one_request_tries_the_key() {
    check(3000, || {
        let breakers = Arc::new(KeyBreakers::default());
        for number in 0..MIN_KEY_FAULTS {
            fault(&breakers, KEY_FAULT_SPAN * number);
        }
        assert_eq!(breakers.open(), 1);
        let due = clock::now() + KEY_FAULT_EXPIRY;
        let ask = move |it: &KeyBreakers| it.admit(KEY.0, Some(KEY.1), due, true);
        let requests = [(); 3].map(|()| spawn(&breakers, ask));
        let untried = spawn(&breakers, move |it| it.take_untried(1, due).len());
        let admissions = requests.map(|request| request.join().unwrap());
        let trials = admissions.iter().filter(|it| **it == Admission::Trial).count();
        assert_eq!(trials + untried.join().unwrap(), 1);
        assert!(!admissions.contains(&Admission::Admitted));
    });
}

/// Calls that stall and hang, and return before or after they are counted, leave no count behind.
#[test]
fn hangs_leave_no_count() {
    check(4000, || {
        let hangs = Arc::new(KeyHangs::new(4, clock::now()));
        let now = clock::now();
        let spawn = |action: fn(&KeyHangs)| {
            let hangs = Arc::clone(&hangs);
            thread::spawn(move || action(&hangs))
        };
        let returns = [
            spawn(|it| it.resumed(KEY)),
            spawn(|it| it.returned(KEY)),
            spawn(|it| {
                let _ = (it.must_wait(KEY, clock::now()), it.surplus(clock::now()));
                it.success(KEY, clock::now());
            }),
        ];
        hangs.stalled(KEY);
        hangs.stalled(KEY);
        hangs.overdue(KEY, true, now);
        returns.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!hangs.is_any());
        assert!(!hangs.is_blocked(KEY, now) && !hangs.hangs(KEY.0));
    });
}

/// Of requests that come at the end of a back-off, one tries the key that hangs.
#[test]
fn one_request_tries_a_key_that_hangs() {
    check(3000, || {
        let hangs = Arc::new(KeyHangs::new(8, clock::now()));
        let now = clock::now();
        (0..MAX_OVERDUE_CALLS_PER_KEY).for_each(|_| hangs.overdue(KEY, false, now));
        assert!(hangs.is_blocked(KEY, now));
        let due = now + KEY_FAULT_EXPIRY;
        let ask = |_| {
            let hangs = Arc::clone(&hangs);
            thread::spawn(move || usize::from(hangs.takes_trial(KEY, due)))
        };
        let requests: Vec<_> = (0..3).map(ask).collect();
        let trials: usize = requests.into_iter().map(|request| request.join().unwrap()).sum();
        assert_eq!(trials, 1);
    });
}

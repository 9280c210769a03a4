//! A circuit breaker for each key, token and direction: requests with a key that the token does not
//! serve are answered immediately, except that one of them tries the key from time to time.
//!
//! It opens after [`MIN_KEY_FAULTS`] consecutive faults that `attribution` attributes to the key,
//! if they span at least [`KEY_FAULT_SPAN`]. If other keys fail too, [`MIN_KEY_FAULTS_IN_TROUBLE`]
//! faults are needed: random faults of a token rarely hit one key that often in a row. At intervals
//! slightly longer than [`KEY_TRIAL_INTERVAL`], a request tries the key of an open breaker; the
//! first success closes it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::backend::Direction;
use crate::backoff::jittered;
use crate::job::{Failure, KeyIndex};
use crate::limits::{
    KEY_FAULT_EXPIRY, KEY_FAULT_SPAN, KEY_TRIAL_INTERVAL, MIN_DOUBTFUL_KEY_FAULTS, MIN_KEY_FAULTS,
    MIN_KEY_FAULTS_IN_TROUBLE,
};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The breaker of one key and direction on one token, created by the first fault.
#[derive(Clone, Copy, Debug)]
struct Breaker {
    /// Number of consecutive faults.
    faults: u32,
    /// Number of rejections by a busy token, which do not count towards opening.
    busy: u32,
    first_fault: Instant,
    last_fault: Instant,
    /// The latest fault, which is the answer while the breaker is open.
    failure: Failure,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { since: Instant, next_trial: Instant },
}

/// The decision whether the token accepts a request with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The token accepts the request.
    Admitted,
    /// The breaker is open, and this request tries the key.
    Trial,
    /// The breaker is open: the failure is the answer, unless another token has the key.
    Refused(Failure),
}

/// An open breaker, as shown to an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBreaker {
    /// The key.
    pub key: KeyIndex,
    /// The direction that is not served.
    pub direction: Direction,
    /// The answer to requests.
    pub failure: Failure,
    /// Time at which it opened.
    pub since: Instant,
    /// Number of consecutive faults.
    pub faults: u32,
}

/// A change of a breaker, which was just opened by a fault or closed by a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The fault that opened it.
    pub failure: Failure,
    /// Number of consecutive faults.
    pub faults: u32,
    /// Time for which it was open; zero if it was just opened.
    pub open_for: Duration,
}

impl Breaker {
    fn new(now: Instant, failure: Failure) -> Self {
        Self {
            faults: 0,
            busy: 0,
            first_fault: now,
            last_fault: now,
            failure,
            state: State::Closed,
        }
    }

    /// Records that the token was too busy, which never opens the breaker.
    fn busy(&mut self, now: Instant) {
        self.busy = self.busy.saturating_add(1);
        self.last_fault = now;
    }

    /// Records a fault. Returns whether it opened the breaker.
    fn fault(&mut self, now: Instant, failure: Failure, do_others_fail: bool) -> bool {
        if self.faults == 0 {
            self.first_fault = now;
        }
        self.faults = self.faults.saturating_add(1);
        self.last_fault = now;
        self.failure = failure;
        let spans = now.saturating_duration_since(self.first_fault) >= KEY_FAULT_SPAN;
        let needed = if do_others_fail { MIN_KEY_FAULTS_IN_TROUBLE } else { MIN_KEY_FAULTS };
        let opens = self.state == State::Closed && spans && self.faults >= needed;
        if opens {
            self.state = State::Open { since: now, next_trial: now + jittered_trial() };
        }
        opens
    }

    fn admit(&mut self, now: Instant, takes_trial: bool) -> Admission {
        match &mut self.state {
            State::Closed => Admission::Admitted,
            State::Open { next_trial, .. } if now >= *next_trial && takes_trial => {
                *next_trial = now + jittered_trial();
                Admission::Trial
            }
            State::Open { .. } => Admission::Refused(self.failure),
        }
    }
}

/// Returns a random duration between 1 and 1.5 seconds.
fn jittered_trial() -> Duration {
    KEY_TRIAL_INTERVAL + jittered(KEY_TRIAL_INTERVAL).saturating_sub(KEY_TRIAL_INTERVAL * 3 / 4)
}

/// The breakers of one token. While no key fails, a check costs a single atomic load.
#[derive(Default)]
pub struct KeyBreakers {
    breakers: Mutex<HashMap<(KeyIndex, Direction), Breaker>>,
    /// Number of entries in `breakers`.
    count: AtomicUsize,
    /// Number of open ones.
    open: AtomicUsize,
    opened_total: AtomicU64,
}

impl KeyBreakers {
    /// Returns whether any key has failed recently; if not, the other methods need not be called.
    #[must_use]
    pub fn is_any_failing(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Returns the number of open breakers.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns how many times a breaker was opened since the start.
    #[must_use]
    pub fn opened_total(&self) -> u64 {
        self.opened_total.load(Ordering::Relaxed)
    }

    /// Decides whether to accept a new request. Returns [`Admission::Trial`] at intervals, and only
    /// if `takes_trial`.
    #[must_use]
    pub fn admit(
        &self,
        key: KeyIndex,
        direction: Option<Direction>,
        now: Instant,
        takes_trial: bool,
    ) -> Admission {
        let Some(direction) = direction else { return Admission::Admitted };
        if self.open() == 0 {
            return Admission::Admitted;
        }
        let mut breakers = self.breakers.lock();
        breakers
            .get_mut(&(key, direction))
            .map_or(Admission::Admitted, |it| it.admit(now, takes_trial))
    }

    /// Returns whether there is a breaker for that key and direction for which `is_so` is true.
    fn is(
        &self,
        key: KeyIndex,
        direction: Option<Direction>,
        is_so: impl FnOnce(&Breaker) -> bool,
    ) -> bool {
        direction.is_some_and(|direction| {
            self.is_any_failing() && self.breakers.lock().get(&(key, direction)).is_some_and(is_so)
        })
    }

    /// Returns whether the breaker is open.
    #[must_use]
    pub fn is_open(&self, key: KeyIndex, direction: Option<Direction>) -> bool {
        self.is(key, direction, |breaker| breaker.state != State::Closed)
    }

    /// Returns whether the key has failed so often in a row that another attempt at the same
    /// request on this token is useless.
    #[must_use]
    pub fn is_doubtful(
        &self,
        key: KeyIndex,
        direction: Option<Direction>,
        do_others_fail: bool,
    ) -> bool {
        let needed =
            if do_others_fail { MIN_KEY_FAULTS_IN_TROUBLE } else { MIN_DOUBTFUL_KEY_FAULTS };
        self.is(key, direction, |breaker| breaker.faults.saturating_add(breaker.busy) >= needed)
    }

    /// Returns whether the key's breaker is open because of the same failure, so that no further
    /// evidence is needed to attribute the failure to the key.
    #[must_use]
    pub fn explains(&self, key: KeyIndex, direction: Option<Direction>, failure: Failure) -> bool {
        self.is(key, direction, |breaker| {
            breaker.state != State::Closed && breaker.failure == failure
        })
    }

    /// Records a fault attributed to the key. Returns the change if that opened the breaker.
    pub fn fault(
        &self,
        key: KeyIndex,
        direction: Direction,
        failure: Failure,
        do_others_fail: bool,
        now: Instant,
    ) -> Option<Change> {
        let mut breakers = self.breakers.lock();
        let breaker =
            breakers.entry((key, direction)).or_insert_with(|| Breaker::new(now, failure));
        let opened = breaker.fault(now, failure, do_others_fail);
        let change = Change { failure, faults: breaker.faults, open_for: Duration::ZERO };
        self.count.store(breakers.len(), Ordering::Relaxed);
        if opened {
            self.open.fetch_add(1, Ordering::Relaxed);
            self.opened_total.fetch_add(1, Ordering::Relaxed);
        }
        opened.then_some(change)
    }

    /// Records that the token was too busy for the key, but not for another key. That does not open
    /// the breaker, but limits the attempts at a request.
    pub fn busy(&self, key: KeyIndex, direction: Direction, failure: Failure, now: Instant) {
        let mut breakers = self.breakers.lock();
        breakers.entry((key, direction)).or_insert_with(|| Breaker::new(now, failure)).busy(now);
        self.count.store(breakers.len(), Ordering::Relaxed);
    }

    /// Records that an operation with the key succeeded. Returns the change if that closed the
    /// breaker. Needed only if [`Self::is_any_failing`].
    pub fn success(&self, key: KeyIndex, direction: Direction, now: Instant) -> Option<Change> {
        let mut breakers = self.breakers.lock();
        let breaker = breakers.remove(&(key, direction))?;
        self.count.store(breakers.len(), Ordering::Relaxed);
        let State::Open { since, .. } = breaker.state else { return None };
        self.open.fetch_sub(1, Ordering::Relaxed);
        let open_for = now.saturating_duration_since(since);
        Some(Change { failure: breaker.failure, faults: breaker.faults, open_for })
    }

    /// Removes the breakers of keys whose last fault is long past. Any that are still open could be
    /// tried by neither a request nor the health checker; removing them makes requests try the
    /// keys.
    pub fn forget_old(&self, now: Instant) {
        if !self.is_any_failing() {
            return;
        }
        let mut breakers = self.breakers.lock();
        breakers.retain(|_, breaker| {
            now.saturating_duration_since(breaker.last_fault) < KEY_FAULT_EXPIRY
        });
        self.count.store(breakers.len(), Ordering::Relaxed);
        let open = breakers.values().filter(|breaker| breaker.state != State::Closed).count();
        self.open.store(open, Ordering::Relaxed);
    }

    /// Returns up to `max` keys with an open breaker whose trial is overdue, since no request has
    /// made it, and schedules their next trials.
    #[must_use]
    pub fn take_untried(&self, max: usize, now: Instant) -> Vec<(KeyIndex, Direction)> {
        if self.open() == 0 {
            return Vec::new();
        }
        let mut breakers = self.breakers.lock();
        let mut untried = Vec::new();
        for (key_use, breaker) in breakers.iter_mut() {
            if let State::Open { next_trial, .. } = &mut breaker.state
                && now >= *next_trial + KEY_TRIAL_INTERVAL
                && untried.len() < max
            {
                *next_trial = now + jittered_trial();
                untried.push(*key_use);
            }
        }
        untried
    }

    /// Records that a trial made without a request has failed.
    pub fn still_fails(&self, key: KeyIndex, direction: Direction, now: Instant) {
        if let Some(breaker) = self.breakers.lock().get_mut(&(key, direction)) {
            breaker.last_fault = now;
        }
    }

    /// Returns the open breakers, in the order of their keys.
    #[must_use]
    pub fn all_open(&self) -> Vec<OpenBreaker> {
        let breakers = self.breakers.lock();
        let mut open: Vec<_> = breakers
            .iter()
            .filter_map(|(&(key, direction), breaker)| {
                let State::Open { since, .. } = breaker.state else { return None };
                let Breaker { failure, faults, .. } = *breaker;
                Some(OpenBreaker { key, direction, failure, since, faults })
            })
            .collect();
        open.sort_by_key(|breaker| (breaker.key, breaker.direction));
        open
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ReturnCode;

    const KEY: KeyIndex = KeyIndex(7);
    const ENCRYPT: Direction = Direction::Encrypt;
    const FAILURE: Failure = Failure::Pkcs11(ReturnCode::Other(6));

    fn milli(milli: u64) -> Duration {
        Duration::from_millis(milli)
    }

    /// Records `count` faults, `step` milliseconds apart. Returns whether any of them opened the
    /// breaker.
    fn fail(breakers: &KeyBreakers, start: Instant, count: u64, step: u64, trouble: bool) -> bool {
        (0..count)
            .filter_map(|n| breakers.fault(KEY, ENCRYPT, FAILURE, trouble, start + milli(n * step)))
            .count()
            > 0
    }

    /// Neither a burst of faults nor a few faults over a long time open the breaker, but many
    /// faults over a long time do.
    #[test]
    fn opens_by_number_and_time() {
        let start = Instant::now();
        assert!(!fail(&KeyBreakers::default(), start, 1000, 0, false), "a burst");
        assert!(!fail(&KeyBreakers::default(), start, 4, 1000, false), "a few");
        let breakers = KeyBreakers::default();
        assert!(fail(&breakers, start, 6, 100, false), "six faults over half a second");
        assert!(breakers.is_open(KEY, Some(ENCRYPT)) && breakers.open() == 1);
        assert!(!breakers.is_open(KEY, Some(Direction::Decrypt)), "the other direction");
        assert!(!breakers.is_open(KeyIndex(8), Some(ENCRYPT)), "another key");
    }

    /// A success resets the count.
    #[test]
    fn a_success_in_between() {
        let (breakers, start) = (KeyBreakers::default(), Instant::now());
        for round in 0..10 {
            assert!(!fail(&breakers, start + milli(round * 1000), 4, 200, false));
            assert_eq!(breakers.success(KEY, ENCRYPT, start), None);
            assert!(!breakers.is_any_failing());
        }
        assert_eq!(breakers.opened_total(), 0);
    }

    /// If other keys fail too, more faults are needed.
    #[test]
    fn others_fail_too() {
        let (breakers, start) = (KeyBreakers::default(), Instant::now());
        assert!(!fail(&breakers, start, 7, 200, true));
        assert!(!breakers.is_doubtful(KEY, Some(ENCRYPT), true), "not yet");
        assert!(breakers.is_doubtful(KEY, Some(ENCRYPT), false));
        assert!(fail(&breakers, start + milli(1400), 1, 0, true));
    }

    /// A token that is too busy for a key opens no breaker, however often that happens.
    #[test]
    fn busy_is_no_fault() {
        let (breakers, start) = (KeyBreakers::default(), Instant::now());
        for n in 0..100 {
            breakers.busy(KEY, ENCRYPT, FAILURE, start + milli(n * 100));
        }
        assert!(breakers.is_doubtful(KEY, Some(ENCRYPT), true) && breakers.open() == 0);
        assert!(!fail(&breakers, start + milli(10_000), 4, 0, false));
    }

    /// While the breaker is open, a request tries the key every second or two, and a success closes
    /// it.
    #[test]
    fn trials() {
        let (breakers, start) = (KeyBreakers::default(), Instant::now());
        assert!(fail(&breakers, start, 6, 100, false));
        let admitted = (0..10_000)
            .map(|n| breakers.admit(KEY, Some(ENCRYPT), start + milli(500 + n), true))
            .filter(|admission| *admission == Admission::Trial)
            .count();
        assert!((6..=9).contains(&admitted), "{admitted} trials in 10 s");
        let now = start + milli(10_500);
        assert_eq!(breakers.admit(KEY, Some(ENCRYPT), now, false), Admission::Refused(FAILURE));
        assert_eq!(breakers.admit(KEY, None, now, true), Admission::Admitted, "attributes");
        assert!(breakers.explains(KEY, Some(ENCRYPT), FAILURE));
        assert!(!breakers.explains(KEY, Some(ENCRYPT), Failure::NoToken));
        assert_eq!(breakers.all_open().len(), 1);
        assert!(breakers.take_untried(3, now).is_empty(), "requests can try it");
        let later = now + KEY_TRIAL_INTERVAL * 4;
        assert_eq!(breakers.take_untried(3, later), [(KEY, ENCRYPT)]);
        assert!(breakers.take_untried(3, later).is_empty(), "once");
        let change = breakers.success(KEY, ENCRYPT, now).unwrap();
        assert_eq!((change.faults, change.open_for), (6, milli(10_000)));
        assert_eq!(breakers.admit(KEY, Some(ENCRYPT), now, true), Admission::Admitted);
        assert_eq!((breakers.open(), breakers.opened_total()), (0, 1));
    }

    /// Old faults are removed, and a breaker whose key cannot be tried does not stay open forever.
    #[test]
    fn old_faults_are_forgotten() {
        let (breakers, start) = (KeyBreakers::default(), Instant::now());
        breakers.fault(KeyIndex(1), ENCRYPT, FAILURE, false, start);
        fail(&breakers, start, 6, 100, false);
        breakers.forget_old(start + KEY_FAULT_EXPIRY - milli(1));
        assert_eq!(breakers.count.load(Ordering::Relaxed), 2);
        breakers.still_fails(KEY, ENCRYPT, start + KEY_FAULT_EXPIRY);
        breakers.forget_old(start + KEY_FAULT_EXPIRY);
        assert_eq!((breakers.count.load(Ordering::Relaxed), breakers.open()), (1, 1));
        assert!(breakers.is_open(KEY, Some(ENCRYPT)));
        breakers.forget_old(start + KEY_FAULT_EXPIRY * 2);
        assert_eq!((breakers.count.load(Ordering::Relaxed), breakers.open()), (0, 0));
    }

    /// In random histories, the breaker is open only after enough consecutive faults over enough
    /// time, and never after a success.
    #[test]
    fn random_histories() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let (breakers, mut now) = (KeyBreakers::default(), Instant::now());
            let mut run: Vec<Instant> = Vec::new();
            for _ in 0..random(40) {
                now += milli(random(200));
                if random(8) == 0 {
                    breakers.success(KEY, ENCRYPT, now);
                    run.clear();
                } else {
                    breakers.fault(KEY, ENCRYPT, FAILURE, false, now);
                    run.push(now);
                }
                let is_open = breakers.is_open(KEY, Some(ENCRYPT));
                let enough = usize::try_from(MIN_KEY_FAULTS).unwrap();
                let may = run.len() >= enough && run.last().unwrap() >= &(run[0] + KEY_FAULT_SPAN);
                assert_eq!(is_open, may);
            }
        }
    }
}

//! Calls that do not return, tracked by key, so that a key that hangs takes neither sessions nor
//! threads away from other keys.
//!
//! - A call is *stalled* once it takes much longer than usual, and *overdue* once its thread is
//!   abandoned. While other keys are served, stalled calls with one key may hold half of the
//!   token's sessions; further requests with that key wait.
//! - After [`MAX_OVERDUE_CALLS_PER_KEY`] overdue calls without a success, no new call with the key
//!   begins until one returns, except one at the end of each back-off. Once the token has many
//!   overdue calls, one overdue call is enough to block a key.
//! - A single session that hangs therefore blocks no key, since the key succeeds in other sessions.

use std::collections::HashMap;
use std::time::Instant;

use super::backend::{Direction, KeyUse};
use crate::job::KeyIndex;
use crate::limits::{
    MAX_HANG_BACKOFF, MAX_OVERDUE_CALLS_OF_KEYS, MAX_OVERDUE_CALLS_PER_KEY, MAX_STALLED_TO_HEDGE,
    MIN_HANG_BACKOFF, OTHER_KEYS_SERVED_WINDOW,
};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The calls of one key and direction.
#[derive(Debug, Default)]
struct Calls {
    /// Number of stalled calls. May briefly be -1, since a call may return before it is counted; so
    /// may `overdue`.
    stalled: isize,
    /// Number of abandoned threads that have not returned.
    overdue: isize,
    /// Number of calls that became overdue since the last success or return.
    streak: isize,
    backoff: Backoff,
    /// Time of the last success since calls began to take too long.
    last_success: Option<Instant>,
}

/// The schedule of trials of a blocked key.
#[derive(Debug, Default)]
struct Backoff {
    has_tried: bool,
    next: Option<Instant>,
}

impl Backoff {
    fn start(&mut self, now: Instant) {
        let wait = if self.has_tried { MAX_HANG_BACKOFF } else { MIN_HANG_BACKOFF };
        self.next = Some(now + wait);
        self.has_tried = true;
    }

    fn is_over(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }
}

/// The kind of the next call with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextCall {
    /// An ordinary call.
    Free,
    /// The trial call at the end of the key's back-off.
    Trial,
    /// A call with a key that has not succeeded since very many calls began to hang.
    Newcomer,
    /// No call is allowed now.
    Blocked,
}

/// All calls to one token that take too long.
pub struct KeyHangs {
    /// Number of stalled calls that one key may have while other keys are served.
    half: isize,
    is_any: AtomicBool,
    inner: Mutex<Inner>,
    /// The two keys served most recently, the newer one first. Updated only occasionally.
    served: [Served; 2],
    start: Instant,
}

/// A key and the time at which it was last served, in milliseconds after the start; 0 if never.
#[derive(Debug, Default)]
struct Served {
    key: AtomicU32,
    milli: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<KeyUse, Calls>,
    overdue: isize,
    /// Number of stalled calls with all keys.
    stalled: isize,
    /// Back-off shared by all keys that have not succeeded since calls began to hang, used while
    /// very many calls hang.
    newcomers: Backoff,
}

impl KeyHangs {
    /// Creates the record of a token with `max_sessions` sessions.
    #[must_use]
    pub fn new(max_sessions: usize, start: Instant) -> Self {
        let half = isize::try_from(max_sessions.div_ceil(2)).unwrap_or(isize::MAX).max(1);
        let is_any = AtomicBool::new(false);
        Self { half, is_any, inner: Mutex::default(), served: Default::default(), start }
    }

    /// Returns whether any call is taking too long; if not, the other methods need not be called.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// Records that a call is taking much longer than usual.
    pub fn stalled(&self, key: KeyUse) {
        let mut inner = self.inner.lock();
        inner.keys.entry(key).or_default().stalled += 1;
        inner.stalled += 1;
        self.tidy(&mut inner);
    }

    /// Records that a stalled call returned in time.
    pub fn resumed(&self, key: KeyUse) {
        let mut inner = self.inner.lock();
        inner.keys.entry(key).or_default().stalled -= 1;
        inner.stalled -= 1;
        self.tidy(&mut inner);
    }

    /// Records that a call's thread was abandoned. `was_stalled` is true if [`Self::stalled`] has
    /// counted the call.
    pub fn overdue(&self, key: KeyUse, was_stalled: bool, now: Instant) {
        let mut inner = self.inner.lock();
        inner.overdue += 1;
        inner.stalled -= isize::from(was_stalled);
        let is_crowded = inner.overdue >= self.crowd();
        let calls = inner.keys.entry(key).or_default();
        calls.stalled -= isize::from(was_stalled);
        calls.overdue += 1;
        // The call may have returned before it was counted.
        calls.streak += isize::from(calls.overdue > 0);
        if calls.streak >= Self::limit(is_crowded) && calls.backoff.is_over(now) {
            calls.backoff.start(now);
        }
        if inner.overdue >= MAX_OVERDUE_CALLS_OF_KEYS && inner.newcomers.is_over(now) {
            inner.newcomers.start(now);
        }
        self.tidy(&mut inner);
    }

    /// Records that the thread of an overdue call returned.
    pub fn returned(&self, key: KeyUse) {
        let mut inner = self.inner.lock();
        inner.overdue -= 1;
        let calls = inner.keys.entry(key).or_default();
        calls.overdue -= 1;
        calls.streak = (calls.streak - 1).max(0);
        self.tidy(&mut inner);
    }

    /// Records that an operation with the key succeeded. Needed only if [`Self::is_any`].
    pub fn success(&self, key: KeyUse, now: Instant) {
        let mut inner = self.inner.lock();
        let calls = inner.keys.entry(key).or_default();
        calls.last_success = Some(now);
        calls.streak = 0;
        calls.backoff = Backoff::default();
    }

    /// Unblocks all keys when the token is put back in use: calls that still hang predate that.
    pub fn unblock_all(&self) {
        let mut inner = self.inner.lock();
        inner.newcomers = Backoff::default();
        for calls in inner.keys.values_mut() {
            calls.streak = 0;
            calls.backoff = Backoff::default();
        }
    }

    /// Records that the key was served in time. Called occasionally, so that it is known whether
    /// other keys work when one begins to hang.
    pub fn served(&self, key: KeyIndex, now: Instant) {
        let [newer, older] = &self.served;
        if newer.key.load(Ordering::Relaxed) != key.0 {
            older.key.store(newer.key.swap(key.0, Ordering::Relaxed), Ordering::Relaxed);
            older.milli.store(newer.milli.load(Ordering::Relaxed), Ordering::Release);
        }
        // Release, with the Acquire of `are_others_served`: the time of a key's call is never seen
        // with the key before it, for which that call would be another key's.
        newer.milli.store(self.milli(now), Ordering::Release);
    }

    fn milli(&self, now: Instant) -> u64 {
        let milli = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(milli).unwrap_or(u64::MAX - 1) + 1
    }

    /// Returns whether calls with the key are taking too long.
    #[must_use]
    pub fn is_slow(&self, key: KeyIndex) -> bool {
        self.is_any_of(key, |calls| calls.stalled > 0 || calls.overdue > 0)
    }

    fn is_any_of(&self, key: KeyIndex, is_so: impl Fn(&Calls) -> bool) -> bool {
        if !self.is_any() {
            return false;
        }
        let inner = self.inner.lock();
        let of = |direction| inner.keys.get(&(key, direction));
        [Direction::Encrypt, Direction::Decrypt].into_iter().filter_map(of).any(is_so)
    }

    /// Returns whether unanswered requests with this key are the key's fault: its calls are taking
    /// too long, while other keys are served.
    #[must_use]
    pub fn explains_silence(&self, key: KeyIndex, now: Instant) -> bool {
        self.is_slow(key) && self.are_others_served(key, now)
    }

    /// Returns whether keys other than this one were served recently.
    #[must_use]
    pub fn are_others_served(&self, key: KeyIndex, now: Instant) -> bool {
        let span = u64::try_from(OTHER_KEYS_SERVED_WINDOW.as_millis()).unwrap_or(u64::MAX);
        let now = self.milli(now);
        self.served.iter().any(|served| {
            let milli = served.milli.load(Ordering::Acquire);
            milli > 0 && served.key.load(Ordering::Relaxed) != key.0 && now < milli + span
        })
    }

    /// Returns the number of additional sessions that other keys need: the number of stalled calls
    /// that exceed their keys' shares while other keys are served, up to half of the configured
    /// sessions.
    #[must_use]
    pub fn surplus(&self, now: Instant) -> usize {
        if !self.is_any() {
            return 0;
        }
        let inner = self.inner.lock();
        let beyond = |(key, calls): (&KeyUse, &Calls)| match calls.stalled - self.half {
            beyond @ 1.. if self.are_others_served(key.0, now) => beyond,
            _ => 0,
        };
        let surplus: isize = inner.keys.iter().map(beyond).sum();
        usize::try_from(surplus.min(self.half)).unwrap_or(0)
    }

    /// Resets everything once no call is taking too long.
    fn tidy(&self, inner: &mut Inner) {
        let is_over = |calls: &Calls| calls.stalled == 0 && calls.overdue == 0;
        let is_any = inner.stalled != 0 || inner.overdue != 0 || !inner.keys.values().all(is_over);
        if !is_any {
            *inner = Inner::default();
        }
        self.is_any.store(is_any, Ordering::Relaxed);
    }

    /// Returns the number of overdue calls on the token at which a single one is enough to block a
    /// key.
    fn crowd(&self) -> isize {
        self.half.max(MAX_OVERDUE_CALLS_PER_KEY)
    }

    fn limit(is_crowded: bool) -> isize {
        if is_crowded { 1 } else { MAX_OVERDUE_CALLS_PER_KEY }
    }

    /// Returns whether a call with the key is not allowed now.
    #[must_use]
    pub fn is_blocked(&self, key: KeyUse, now: Instant) -> bool {
        self.is_any() && self.next_call(&self.inner.lock(), key, now) == NextCall::Blocked
    }

    /// Returns whether a call with the key that begins now is its trial. If so, starts the next
    /// back-off.
    pub fn takes_trial(&self, key: KeyUse, now: Instant) -> bool {
        if !self.is_any() {
            return false;
        }
        let mut inner = self.inner.lock();
        match self.next_call(&inner, key, now) {
            NextCall::Free | NextCall::Blocked => return false,
            NextCall::Trial => {
                if let Some(calls) = inner.keys.get_mut(&key) {
                    calls.backoff.start(now);
                }
            }
            NextCall::Newcomer => inner.newcomers.start(now),
        }
        true
    }

    fn next_call(&self, inner: &Inner, key: KeyUse, now: Instant) -> NextCall {
        let is_full = inner.overdue >= MAX_OVERDUE_CALLS_OF_KEYS;
        let known = inner.keys.get(&key);
        if is_full && known.is_none_or(|calls| calls.last_success.is_none()) {
            let is_due = inner.newcomers.is_over(now);
            return if is_due { NextCall::Newcomer } else { NextCall::Blocked };
        }
        let Some(calls) = known else { return NextCall::Free };
        if calls.streak < Self::limit(inner.overdue >= self.crowd()) {
            return NextCall::Free;
        }
        let may_try = calls.backoff.is_over(now) && calls.stalled <= 0 && !is_full;
        if may_try { NextCall::Trial } else { NextCall::Blocked }
    }

    /// Returns whether a request must wait, because stalled calls with its key hold their share of
    /// the sessions and other keys are served. The share is half of the sessions, or a single one
    /// if all stalled calls together hold half.
    #[must_use]
    pub fn must_wait(&self, key: KeyUse, now: Instant) -> bool {
        if !self.is_any() {
            return false;
        }
        let inner = self.inner.lock();
        let Some(calls) = inner.keys.get(&key) else { return false };
        let other_direction = (key.0, key.1.other());
        let stalled_of_key =
            calls.stalled + inner.keys.get(&other_direction).map_or(0, |calls| calls.stalled);
        // If several keys are slow, one call with each is enough to notice when it works again.
        let share = if inner.stalled >= self.half { 1 } else { self.half };
        // Each overdue call reduces the share; but one call is always allowed, to see if the key
        // works.
        let holds_its_share = stalled_of_key >= (share - calls.streak).max(1);
        holds_its_share && self.are_others_served(key.0, now)
    }

    /// Returns whether a call with the key is overdue and none has succeeded since.
    #[must_use]
    pub fn hangs(&self, key: KeyIndex) -> bool {
        self.is_any_of(key, |calls| calls.streak > 0)
    }

    /// Returns whether a second attempt at a slow call that began at `since` may help on this
    /// token. It does not if the key hangs, unless the key has succeeded since.
    #[must_use]
    pub fn may_hedge(&self, key: KeyUse, since: Instant) -> bool {
        if !self.is_any() {
            return true;
        }
        let inner = self.inner.lock();
        let Some(calls) = inner.keys.get(&key) else { return true };
        let has_succeeded = calls.last_success.is_some_and(|then| then > since);
        has_succeeded || (calls.streak == 0 && calls.stalled <= MAX_STALLED_TO_HEDGE)
    }

    /// Returns the blocked keys and directions, sorted, which have too many overdue calls.
    #[must_use]
    pub fn blocked(&self) -> Vec<KeyUse> {
        if !self.is_any() {
            return Vec::new();
        }
        let inner = self.inner.lock();
        let limit = Self::limit(inner.overdue >= self.crowd());
        let is_blocked = |(key, calls): (&KeyUse, &Calls)| (calls.streak >= limit).then_some(*key);
        let mut keys: Vec<_> = inner.keys.iter().filter_map(is_blocked).collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HANGS: KeyUse = (KeyIndex(1), Direction::Encrypt);
    const GOOD: KeyUse = (KeyIndex(2), Direction::Encrypt);

    /// Returns the record of a token with eight sessions, and its start time.
    fn token() -> (KeyHangs, Instant) {
        let start = Instant::now();
        (KeyHangs::new(8, start), start)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Records a call that stalls and is abandoned.
    fn hang(hangs: &KeyHangs, key: KeyUse, now: Instant) {
        hangs.stalled(key);
        hangs.overdue(key, true, now);
    }

    /// Returns whether a call may begin, and starts the trial if it is one.
    fn begins(hangs: &KeyHangs, key: KeyUse, now: Instant) -> bool {
        let may = !hangs.is_blocked(key, now);
        may && {
            hangs.takes_trial(key, now);
            true
        }
    }

    /// Four overdue calls block the key and no other; each back-off allows one trial; a return
    /// unblocks it.
    #[test]
    fn four_overdue_calls_block_a_key() {
        let (hangs, start) = token();
        for _ in 0..3 {
            hang(&hangs, HANGS, start);
            assert!(begins(&hangs, HANGS, start));
        }
        hang(&hangs, HANGS, start);
        assert!(!begins(&hangs, HANGS, start) && hangs.hangs(HANGS.0));
        assert!(begins(&hangs, GOOD, start) && !hangs.hangs(GOOD.0));
        assert_eq!(hangs.blocked(), [HANGS]);
        let now = start + secs(1);
        assert!(!hangs.is_blocked(HANGS, now), "asking takes no trial");
        assert!(begins(&hangs, HANGS, now), "the trial");
        assert!(!begins(&hangs, HANGS, now), "only one");
        hang(&hangs, HANGS, now);
        assert!(!begins(&hangs, HANGS, now + secs(29)), "the back-off grows");
        assert!(begins(&hangs, HANGS, now + secs(30)));
        for _ in 0..2 {
            hangs.returned(HANGS);
        }
        assert!(begins(&hangs, HANGS, now + secs(30)));
    }

    /// Within two minutes, longer than client libraries' time-outs, one key hangs half of eight
    /// sessions and four more threads; after that, one more every half minute.
    #[test]
    fn trials_are_bounded() {
        let (hangs, start) = token();
        let mut hung = 0;
        for tick in 0..1200 {
            let now = start + Duration::from_millis(tick * 100);
            if begins(&hangs, HANGS, now) {
                hang(&hangs, HANGS, now);
                hung += 1;
            }
        }
        assert_eq!(hung, 8);
    }

    /// Once a token is back in use, calls that hung before block no key.
    #[test]
    fn a_token_that_returns() {
        let (hangs, start) = token();
        for _ in 0..4 {
            hang(&hangs, HANGS, start);
        }
        assert!(!begins(&hangs, HANGS, start));
        hangs.unblock_all();
        assert!(begins(&hangs, HANGS, start) && hangs.is_slow(HANGS.0));
    }

    /// A call that returns before it is counted leaves no trace.
    #[test]
    fn returns_that_are_counted_first() {
        let (hangs, start) = token();
        hangs.resumed(HANGS);
        assert!(hangs.is_any());
        hangs.stalled(HANGS);
        assert!(!hangs.is_any());
        hangs.returned(HANGS);
        hangs.overdue(HANGS, false, start);
        assert!(!hangs.is_any() && !hangs.hangs(HANGS.0));
    }

    /// A session that hangs does not block a key that other sessions serve.
    #[test]
    fn a_success_in_between() {
        let (hangs, start) = token();
        for _ in 0..50 {
            hang(&hangs, GOOD, start);
            hangs.success(GOOD, start);
            assert!(begins(&hangs, GOOD, start));
        }
    }

    /// Stalled calls with one key leave half of the sessions to other keys, while these are served.
    #[test]
    fn stalled_calls_hold_half() {
        let (hangs, start) = token();
        hangs.served(HANGS.0, start);
        for _ in 0..4 {
            hangs.stalled(HANGS);
        }
        assert!(!hangs.must_wait(HANGS, start), "there are no other keys");
        hangs.served(GOOD.0, start);
        hangs.served(HANGS.0, start);
        assert!(hangs.must_wait(HANGS, start) && !hangs.must_wait(GOOD, start));
        hangs.stalled(GOOD);
        assert!(hangs.must_wait(GOOD, start), "each may have one slow call");
        hangs.resumed(GOOD);
        assert!(hangs.explains_silence(HANGS.0, start));
        assert!(!hangs.explains_silence(GOOD.0, start));
        assert!(!hangs.explains_silence(HANGS.0, start + OTHER_KEYS_SERVED_WINDOW));
        assert!(!hangs.must_wait(HANGS, start + OTHER_KEYS_SERVED_WINDOW));
        assert_eq!(hangs.surplus(start), 0);
        for _ in 0..4 {
            hangs.stalled(HANGS);
        }
        assert_eq!(hangs.surplus(start), 4, "the others get back the half that it has taken");
        assert_eq!(hangs.surplus(start + OTHER_KEYS_SERVED_WINDOW), 0, "there are no other keys");
        for _ in 0..5 {
            hangs.resumed(HANGS);
        }
        assert!(!hangs.must_wait(HANGS, start) && hangs.surplus(start) == 0);
        for _ in 0..3 {
            hangs.resumed(HANGS);
        }
        assert!(!hangs.is_any(), "no call lasts too long");
    }

    /// On a token with few sessions, a key whose calls hang continues with one call at a time until
    /// it is blocked, since the session may be at fault instead.
    #[test]
    fn one_at_a_time() {
        let start = Instant::now();
        let hangs = KeyHangs::new(2, start);
        hangs.served(GOOD.0, start);
        hang(&hangs, HANGS, start);
        assert!(!hangs.must_wait(HANGS, start));
        hangs.stalled(HANGS);
        assert!(hangs.must_wait(HANGS, start));
    }

    /// A second attempt helps if the key does not hang, or has succeeded since.
    #[test]
    fn second_attempts() {
        let (hangs, start) = token();
        assert!(hangs.may_hedge(HANGS, start));
        hangs.stalled(HANGS);
        assert!(hangs.may_hedge(HANGS, start), "the session may be at fault");
        for _ in 0..MAX_STALLED_TO_HEDGE {
            hangs.stalled(HANGS);
        }
        assert!(!hangs.may_hedge(HANGS, start));
        hangs.success(HANGS, start + secs(1));
        assert!(hangs.may_hedge(HANGS, start));
        hangs.overdue(HANGS, true, start + secs(2));
        assert!(!hangs.may_hedge(HANGS, start + secs(1)) && hangs.may_hedge(GOOD, start));
    }

    /// When many keys hang, each is blocked by its first overdue call, and together they use at
    /// most half of the threads that may hang.
    #[test]
    fn many_keys_hang() {
        let (hangs, start) = token();
        let key = |number: u32| (KeyIndex(number), Direction::Decrypt);
        let mut hung = 0;
        for round in 0..20 {
            let now = start + Duration::from_millis(round);
            hangs.success(GOOD, now);
            for number in (0..200).map(|n| n + 10) {
                if begins(&hangs, key(number), now) {
                    hang(&hangs, key(number), now);
                    hung += 1;
                }
            }
        }
        assert_eq!(hung, MAX_OVERDUE_CALLS_OF_KEYS);
        assert!(begins(&hangs, GOOD, start + secs(1)), "a key that succeeds is no newcomer");
        assert!(begins(&hangs, key(500), start + secs(1)), "one newcomer a second");
        assert!(!begins(&hangs, key(501), start + secs(1)), "one");
    }
}

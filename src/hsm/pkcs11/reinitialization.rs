//! The schedule for initialising a module again, after waits that grow while no token works.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limits::{MAX_REINITIALIZE_WAIT, MIN_REINITIALIZE_WAIT, MIN_STABLE_TIME};

/// Identity of a module's user, which is a token of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct User(pub u64);

/// The waits before a module is initialised again, and the users that currently work.
#[derive(Debug)]
pub struct Schedule {
    /// Users whose latest health check succeeded, each with the time since which its checks have
    /// succeeded.
    working: HashMap<User, Instant>,
    wait: Duration,
    /// Time at which the current wait began.
    since: Option<Instant>,
    last: Option<Instant>,
    /// The module's slots, as listed most recently since it was initialised.
    slots: Option<Vec<u64>>,
    have_slots_changed: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            working: HashMap::new(),
            wait: MIN_REINITIALIZE_WAIT,
            since: None,
            last: None,
            slots: None,
            have_slots_changed: false,
        }
    }
}

impl Schedule {
    /// Records that a token works.
    pub fn works(&mut self, user: User, now: Instant) {
        let since = *self.working.entry(user).or_insert(now);
        if now.saturating_duration_since(since) >= MIN_STABLE_TIME {
            self.wait = MIN_REINITIALIZE_WAIT;
        }
        self.since = None;
    }

    /// Records that a token no longer works or no longer exists.
    pub fn fails(&mut self, user: User) {
        self.working.remove(&user);
    }

    /// Returns whether any other token works.
    #[must_use]
    pub fn does_another_work(&self, user: User) -> bool {
        self.working.keys().any(|other| *other != user)
    }

    /// Returns whether to initialise the module again, given that no token works, because the wait
    /// is over or the list of slots has changed. `slots` is `None` if the list could not be read.
    pub fn is_due(&mut self, now: Instant, slots: Option<Vec<u64>>) -> bool {
        if let Some(slots) = slots {
            self.have_slots_changed |= self.slots.as_ref().is_some_and(|known| *known != slots);
            self.slots = Some(slots);
        }
        let is_over = |since: Instant, wait| now.saturating_duration_since(since) >= wait;
        let since = *self.since.get_or_insert(now);
        // A module whose slots keep changing must not be initialised continually.
        let may_at_once = self.last.is_none_or(|last| is_over(last, MIN_REINITIALIZE_WAIT));
        is_over(since, self.wait) || (self.have_slots_changed && may_at_once)
    }

    /// Records an attempt to initialise the module again.
    pub fn done(&mut self, now: Instant) {
        self.wait = (self.wait * 2).min(MAX_REINITIALIZE_WAIT);
        (self.since, self.last) = (Some(now), Some(now));
        (self.slots, self.have_slots_changed) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: User = User(1);

    /// Calls `is_due` every 100 ms from `start` on, and returns the milliseconds at which it was
    /// true.
    fn due_within(schedule: &mut Schedule, start: Instant, secs: u32) -> Vec<u128> {
        let mut due = Vec::new();
        for tick in 0..secs * 10 {
            let at = Duration::from_millis(100) * tick;
            if schedule.is_due(start + at, Some(vec![1, 2])) {
                schedule.done(start + at);
                due.push(at.as_millis());
            }
        }
        due
    }

    /// Each wait is twice as long as the previous one, up to 30 s.
    #[test]
    fn waits_grow() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let due = due_within(&mut schedule, start, 130);
        assert_eq!(due, [1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000, 121_000]);
    }

    /// The waits are short again once a token has worked for a while, but not after a single
    /// successful health check.
    #[test]
    fn waits_are_short_again() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        assert_eq!(due_within(&mut schedule, start, 10), [1_000, 3_000, 7_000]);
        let start = start + Duration::from_secs(10);
        schedule.works(ONE, start);
        schedule.fails(ONE);
        assert_eq!(due_within(&mut schedule, start, 10), [8_000]);
        let start = start + Duration::from_secs(10);
        schedule.works(ONE, start);
        schedule.works(ONE, start + MIN_STABLE_TIME);
        schedule.fails(ONE);
        assert_eq!(due_within(&mut schedule, start + MIN_STABLE_TIME, 2), [1_000]);
    }

    /// A changed list of slots makes an initialisation due at once, but not twice within a second.
    #[test]
    fn slots_that_change() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let after = |milli| start + Duration::from_millis(milli);
        assert!(!schedule.is_due(start, Some(vec![1])));
        assert!(!schedule.is_due(after(100), None) && !schedule.is_due(after(200), Some(vec![1])));
        assert!(schedule.is_due(after(300), Some(vec![1, 2])));
        schedule.done(after(300));
        assert!(!schedule.is_due(after(400), Some(vec![1])), "the first list since");
        assert!(!schedule.is_due(after(500), Some(vec![])) && !schedule.is_due(after(600), None));
        assert!(schedule.is_due(after(1_300), Some(vec![])));
    }

    /// A token can find out whether any other token works.
    #[test]
    fn others_that_work() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.works(ONE, now);
        assert!(!schedule.does_another_work(ONE) && schedule.does_another_work(User(2)));
        schedule.fails(ONE);
        assert!(!schedule.does_another_work(User(2)));
    }
}

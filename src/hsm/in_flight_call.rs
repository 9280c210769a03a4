//! One thread's call into an HSM, as the monitor sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backend::KeyUse;
use super::outbox::Outbox;
use super::queued::{Queued, key_use};
use super::race::Race;
use super::token_set::TokenSet;
use super::worker_pool::WorkerState;
use crate::job::{ReplyTo, Request};

/// What a thread does at present.
#[derive(Default)]
pub struct InFlightCall {
    call: Mutex<Call>,
    /// What the thread has finished and not sent yet. Here, so that a call that hangs does not hold
    /// answers to others.
    pub outbox: Mutex<Outbox>,
}

#[derive(Default)]
enum Call {
    #[default]
    None,
    Running(Running),
    /// And the key that it is counted for.
    Abandoned(Option<KeyUse>),
}

struct Running {
    since: Instant,
    /// Later than this it hangs.
    until: Instant,
    /// Counts among its token's running workers.
    is_running: bool,
    is_stalled: bool,
    /// The job that the call is about.
    job: Option<JobCall>,
    /// What the call is about, until it is hedged.
    attempt: Option<Attempt>,
    /// The other attempts, once it is.
    race: Option<Arc<Race>>,
}

/// The facts about a job whose call lasts too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCall {
    /// Its key; `None` if only the key's attributes are asked for.
    pub key: Option<KeyUse>,
    /// How long the whole request may take; `None` if it is no request's.
    pub time: Option<Duration>,
}

/// What a second attempt at a request needs to know of the first.
pub struct Attempt {
    /// What is asked.
    pub request: Arc<Request>,
    /// Whom to answer.
    pub reply_to: ReplyTo,
    /// As in [`crate::job::Job`].
    pub queued_at: Instant,
    /// As in [`crate::job::Job`].
    pub deadline: Instant,
    /// As in [`Queued`].
    pub tried: TokenSet,
    /// As in [`Queued`].
    pub lacking: TokenSet,
    /// As in [`Queued`].
    pub race: Option<Arc<Race>>,
}

impl Attempt {
    /// At that job.
    #[must_use]
    pub fn at(queued: &Queued) -> Self {
        Self {
            request: Arc::clone(&queued.job.request),
            reply_to: queued.job.reply_to,
            queued_at: queued.job.queued_at,
            deadline: queued.job.deadline,
            tried: queued.tried,
            lacking: queued.lacking,
            race: queued.race.clone(),
        }
    }
}

/// How a call ended, for the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is well.
    InTime,
    /// It took long, and its place was stalled.
    Stalled,
    /// Nobody waits for it any more: the result is wiped and the thread ends.
    Abandoned,
}

/// What the monitor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// No call.
    Idle,
    /// A call, and it may go on.
    Busy,
    /// A call that from now on counts as slow.
    NowStalled(Option<JobCall>),
    /// A call that from now on counts as hung, and what its thread counted as.
    NowAbandoned(WorkerState, Option<JobCall>),
}

impl InFlightCall {
    /// A call begins that is about no job. `is_running`: the thread is one of the token's running
    /// workers.
    pub fn begin(&self, since: Instant, until: Instant, is_running: bool) {
        let (job, attempt, race) = (None, None, None);
        self.set(Running { since, until, is_running, is_stalled: false, job, attempt, race });
    }

    /// A running worker's call begins.
    pub fn begin_attempt(&self, since: Instant, until: Instant, attempt: Attempt) {
        let time = attempt.deadline.saturating_duration_since(attempt.queued_at);
        let job = Some(JobCall { key: key_use(&attempt.request), time: Some(time) });
        let attempt = Some(attempt);
        self.set(Running {
            since,
            until,
            is_running: true,
            is_stalled: false,
            job,
            attempt,
            race: None,
        });
    }

    fn set(&self, running: Running) {
        *self.call.lock() = Call::Running(running);
    }

    /// The call is about this key from now on, if it is not counted as slow for another one
    /// already. `max`: it hangs if it lasts for so long from now on.
    pub fn uses(&self, key: Option<KeyUse>, max: Option<Duration>) {
        if let Call::Running(running) = &mut *self.call.lock()
            && !running.is_stalled
        {
            running.job = key.map(|key| JobCall { key: Some(key), time: None });
            if let Some(max) = max {
                running.until = Instant::now() + max;
            }
        }
    }

    /// It returned.
    pub fn end(&self) -> (End, Option<KeyUse>) {
        let (end, _, key) = self.end_attempt();
        (end, key)
    }

    /// It returned. Also gives the race with other attempts, if it was hedged, and the key that it
    /// was counted for. The rest that was known of the job is let go of.
    pub fn end_attempt(&self) -> (End, Option<Arc<Race>>, Option<KeyUse>) {
        let mut call = self.call.lock();
        if let Call::Abandoned(key) = *call {
            return (End::Abandoned, None, key);
        }
        match std::mem::take(&mut *call) {
            Call::Running(Running { is_stalled, race, job, .. }) => {
                let end = if is_stalled { End::Stalled } else { End::InTime };
                (end, race, job.and_then(|job| job.key))
            }
            Call::None | Call::Abandoned(_) => (End::InTime, None, None),
        }
    }

    /// The monitor's look. A call slower than `stall` lends its place.
    pub fn inspect(&self, now: Instant, stall: Duration) -> Inspection {
        let mut call = self.call.lock();
        match &mut *call {
            Call::None => Inspection::Idle,
            Call::Abandoned(_) => Inspection::Busy,
            Call::Running(Running { until, is_running, is_stalled, job, .. }) if now >= *until => {
                let job = *job;
                let state = match (*is_running, *is_stalled) {
                    (false, _) => WorkerState::NotRunning,
                    (true, false) => WorkerState::Running,
                    (true, true) => WorkerState::Stalled,
                };
                *call = Call::Abandoned(job.and_then(|job| job.key));
                Inspection::NowAbandoned(state, job)
            }
            Call::Running(Running { since, is_running: true, is_stalled, job, .. })
                if !*is_stalled && now.saturating_duration_since(*since) > stall =>
            {
                *is_stalled = true;
                Inspection::NowStalled(*job)
            }
            Call::Running(_) => Inspection::Busy,
        }
    }

    /// Has a call hedged that lasts longer than `after`, once: `hedge` is given the attempt and
    /// when it began, and gives the race if there is another attempt now.
    pub fn hedge(
        &self,
        now: Instant,
        after: Duration,
        hedge: impl FnOnce(&Attempt, Instant) -> Option<Arc<Race>>,
    ) {
        if let Call::Running(running) = &mut *self.call.lock()
            && now.saturating_duration_since(running.since) > after
            && let Some(attempt) = &running.attempt
            && let Some(race) = hedge(attempt, running.since)
        {
            running.race = Some(race);
            running.attempt = None;
        }
    }

    /// Since when a call has been running.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        match &*self.call.lock() {
            Call::Running(running) => Some(running.since),
            Call::None | Call::Abandoned(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::backend::Direction;
    use crate::job::KeyIndex;

    /// A call is in time, then slow, then hung, and its thread hears of the last state.
    #[test]
    fn stages_of_a_call() {
        let (call, start) = (InFlightCall::default(), Instant::now());
        let at = |milli| start + Duration::from_millis(milli);
        let stall = Duration::from_millis(5);
        assert_eq!(call.inspect(start, stall), Inspection::Idle);
        call.begin(start, at(100), true);
        assert_eq!(call.inspect(at(5), stall), Inspection::Busy);
        assert_eq!(call.inspect(at(6), stall), Inspection::NowStalled(None));
        assert_eq!(call.inspect(at(99), stall), Inspection::Busy);
        assert_eq!(call.end(), (End::Stalled, None));
        call.begin(start, at(100), true);
        assert_eq!(call.inspect(at(50), stall), Inspection::NowStalled(None));
        assert_eq!(
            call.inspect(at(100), stall),
            Inspection::NowAbandoned(WorkerState::Stalled, None)
        );
        assert_eq!(call.inspect(at(200), stall), Inspection::Busy);
        assert_eq!(call.end(), (End::Abandoned, None));
    }

    /// A call that uses one key after the other is counted for the first one that it is slow with.
    #[test]
    fn keys_of_a_call() {
        let (call, start) = (InFlightCall::default(), Instant::now());
        let (stall, key) = (Duration::from_millis(5), |n| (KeyIndex(n), Direction::Encrypt));
        let job = |n| Some(JobCall { key: Some(key(n)), time: None });
        call.begin(start, start + Duration::from_secs(60), true);
        call.uses(Some(key(1)), None);
        call.uses(Some(key(2)), Some(Duration::ZERO));
        assert_eq!(call.inspect(start + Duration::from_secs(1), stall), {
            Inspection::NowAbandoned(WorkerState::Running, job(2))
        });
        assert_eq!(call.end(), (End::Abandoned, Some(key(2))));
        call.begin(start, start + Duration::from_secs(60), true);
        call.uses(Some(key(1)), None);
        assert_eq!(call.inspect(start + 2 * stall, stall), Inspection::NowStalled(job(1)));
        call.uses(Some(key(2)), None);
        assert_eq!(call.end(), (End::Stalled, Some(key(1))));
    }

    /// Opening a session lends no place, for it has none.
    #[test]
    fn housekeeping_lends_nothing() {
        let (call, start) = (InFlightCall::default(), Instant::now());
        let end = start + Duration::from_secs(10);
        call.begin(start, end, false);
        let stall = Duration::from_millis(5);
        assert_eq!(call.inspect(start + Duration::from_secs(1), stall), Inspection::Busy);
        assert_eq!(
            call.inspect(end, stall),
            Inspection::NowAbandoned(WorkerState::NotRunning, None)
        );
    }

    /// A slow call is hedged once; its thread hears of it, and the request is let go of.
    #[test]
    fn hedged_once() {
        let (call, start) = (InFlightCall::default(), Instant::now());
        let request = Arc::new(Request::default());
        let attempt = Attempt {
            request: Arc::clone(&request),
            reply_to: ReplyTo { event_loop: 0, slot: 0, serial: 0 },
            queued_at: start,
            deadline: start + Duration::from_secs(1),
            tried: TokenSet::EMPTY,
            lacking: TokenSet::EMPTY,
            race: None,
        };
        let milli = Duration::from_millis(1);
        let mut hedges = 0;
        let mut hedge = |now, is_possible: bool| {
            call.hedge(now, 5 * milli, |_, since| {
                assert_eq!(since, start);
                hedges += 1;
                is_possible.then(|| Arc::new(Race::of_two()))
            });
        };
        hedge(start + 9 * milli, true);
        call.begin_attempt(start, start + 100 * milli, attempt);
        hedge(start + 5 * milli, true);
        hedge(start + 6 * milli, false);
        hedge(start + 7 * milli, true);
        hedge(start + 8 * milli, true);
        assert_eq!(hedges, 2);
        assert_eq!(Arc::strong_count(&request), 1);
        let (end, race, _) = call.end_attempt();
        assert!(end == End::InTime && race.is_some());
    }
}

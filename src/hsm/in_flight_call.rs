//! A thread's call into an HSM, shared with the monitor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::KeyUse;
use super::outbox::Outbox;
use super::queued::{Queued, key_use};
use super::race::Race;
use super::token_set::TokenSet;
use super::worker_pool::WorkerState;
use crate::job::{ReplyTo, Request};
use crate::sync::{Mutex, clock};

/// A thread's current call, if any.
#[derive(Default)]
pub struct InFlightCall {
    call: Mutex<Call>,
    /// Answers that the thread has finished but not sent yet. Kept here so that the monitor can
    /// send them if a call hangs.
    pub outbox: Mutex<Outbox>,
}

#[derive(Default)]
enum Call {
    #[default]
    None,
    Running(Running),
    /// The call hangs. Contains the key that the call is counted for.
    Abandoned(Option<KeyUse>),
}

struct Running {
    since: Instant,
    /// Time after which the call counts as hanging.
    until: Instant,
    /// True if the thread is one of its token's running workers.
    is_running: bool,
    is_stalled: bool,
    /// The job that the call is for.
    job: Option<JobCall>,
    /// The attempt that the call belongs to, until it is hedged.
    attempt: Option<Attempt>,
    /// The race with the other attempts, once the call is hedged.
    race: Option<Arc<Race>>,
}

/// Facts about the job of a call that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCall {
    /// The job's key; `None` if only the key's attributes are read.
    pub key: Option<KeyUse>,
    /// Time allowed to the whole request; `None` for a call that is not for a request.
    pub time: Option<Duration>,
}

/// Everything about an attempt that is needed for a second attempt at its request.
pub struct Attempt {
    /// The request.
    pub request: Arc<Request>,
    /// Address of the answer.
    pub reply_to: ReplyTo,
    /// See [`crate::job::Job::queued_at`].
    pub queued_at: Instant,
    /// See [`crate::job::Job::deadline`].
    pub deadline: Instant,
    /// See [`Queued::tried`].
    pub tried: TokenSet,
    /// See [`Queued::lacking`].
    pub lacking: TokenSet,
    /// See [`Queued::race`].
    pub race: Option<Arc<Race>>,
}

impl Attempt {
    /// Creates the description of an attempt at that job.
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

/// The state in which a call ended, as reported to the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The call ended before it was counted as stalled.
    InTime,
    /// The call ended after it was counted as stalled.
    Stalled,
    /// The call ended after it was counted as hanging: the result is zeroed and the thread ends.
    Abandoned,
}

/// The result of the monitor's inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// There is no call.
    Idle,
    /// There is a call, and its state has not changed.
    Busy,
    /// The call has stalled.
    NowStalled(Option<JobCall>),
    /// The call hangs. Contains the state that its worker was in.
    NowAbandoned(WorkerState, Option<JobCall>),
}

fn worker_state(is_running: bool, is_stalled: bool) -> WorkerState {
    match (is_running, is_stalled) {
        (false, _) => WorkerState::NotRunning,
        (true, false) => WorkerState::Running,
        (true, true) => WorkerState::Stalled,
    }
}

impl InFlightCall {
    /// Records the start of a call that is not for a job. `is_running` is true if the thread is one
    /// of the token's running workers.
    pub fn begin(&self, since: Instant, until: Instant, is_running: bool) {
        let (job, attempt, race) = (None, None, None);
        self.set(Running { since, until, is_running, is_stalled: false, job, attempt, race });
    }

    /// Records the start of a running worker's call for a job.
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

    /// Records that the call uses this key from now on, unless the call has stalled with another
    /// key. With `max`, the call hangs if it takes that long from now on.
    pub fn uses(&self, key: Option<KeyUse>, max: Option<Duration>) {
        if let Call::Running(running) = &mut *self.call.lock()
            && !running.is_stalled
        {
            running.job = key.map(|key| JobCall { key: Some(key), time: None });
            if let Some(max) = max {
                running.until = clock::now() + max;
            }
        }
    }

    /// Records the end of the call.
    pub fn end(&self) -> (End, Option<KeyUse>) {
        let (end, _, key) = self.end_attempt();
        (end, key)
    }

    /// Records the end of the call and forgets its job. Also returns the race with other attempts,
    /// if the call was hedged, and the key that the call was counted for.
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

    /// Inspects the call for the monitor. A call that takes longer than `stall` is stalled.
    pub fn inspect(&self, now: Instant, stall: Duration) -> Inspection {
        let mut call = self.call.lock();
        match &mut *call {
            Call::None => Inspection::Idle,
            Call::Abandoned(_) => Inspection::Busy,
            Call::Running(Running { until, is_running, is_stalled, job, .. }) if now >= *until => {
                let job = *job;
                let state = worker_state(*is_running, *is_stalled);
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

    /// Writes off the call of a thread that ends by a panic. Returns the state that its worker was
    /// in, unless the monitor has written the call off.
    pub fn write_off(&self) -> Option<WorkerState> {
        let mut call = self.call.lock();
        let state = match &*call {
            Call::Abandoned(_) => return None,
            Call::Running(running) => worker_state(running.is_running, running.is_stalled),
            Call::None => WorkerState::Running,
        };
        *call = Call::Abandoned(None);
        Some(state)
    }

    /// Hedges a call that takes longer than `after`, once. `hedge` receives the attempt and the
    /// call's start, and returns the race if it has started another attempt.
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

    /// Returns the start of the current call.
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

    /// A call is in time, then stalled, then hung, and its thread receives the last state.
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

    /// A call that uses several keys is counted for the key with which it stalls.
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

    /// Opening a session frees no place for another worker, because it does not occupy one.
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

    /// A slow call is hedged once; its thread receives the race, and the request is released.
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

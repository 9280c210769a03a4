//! A token of the fleet: its queue, its workers, its service time and its state.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, Direction};
use super::circuit_breaker::CircuitBreaker;
use super::deferred::Deferred;
use super::in_flight_call::InFlightCall;
use super::key_breaker::{Admission, KeyBreakers};
use super::key_hangs::KeyHangs;
use super::latency::Latencies;
use super::queue::Queue;
use super::queued::{Queued, key_use};
use super::service_time::{Locality, ServiceTime};
use super::signal::Signal;
use super::worker_pool::WorkerPool;
use crate::backoff::Backoff;
use crate::job::{Failure, Job, KeyIndex, Operation, Request, TokenIndex};
use crate::limits::{GCM_TAG_BYTES, MAX_QUEUE_SHARDS, MAX_QUEUED_JOBS_PER_TOKEN};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, clock};

/// A token of the fleet.
pub struct Token {
    /// Index in the order of the settings.
    pub index: TokenIndex,
    /// The interface to the token.
    pub backend: Box<dyn Backend>,
    /// The token's waiting jobs.
    pub queue: Queue,
    /// The token's workers.
    pub pool: WorkerPool,
    /// Average service time.
    pub service_time: ServiceTime,
    /// Latencies of the token's calls in the last minute.
    pub latencies: Latencies,
    /// Circuit breaker that decides whether the token gets jobs.
    pub circuit_breaker: CircuitBreaker,
    /// Circuit breakers of the token's keys.
    pub key_breakers: KeyBreakers,
    /// Calls that take too long, by key.
    pub hangs: KeyHangs,
    /// Jobs deferred because of calls that take too long.
    pub deferred: Deferred,
    /// The workers' calls.
    pub calls: Mutex<Vec<Arc<InFlightCall>>>,
    /// State of the health checker.
    pub checker: Mutex<CheckerState>,
    /// Wakes the health checker.
    pub checker_signal: Signal,
    /// True if the proxy has connected to the token since the token's health was last published.
    pub is_identity_new: AtomicBool,
    /// Counters since the start.
    pub counters: Counters,
    /// Time before which no session is opened because the last attempt failed, and the next wait.
    open_after: Mutex<(Option<Instant>, Backoff)>,
    spare_cores: usize,
    /// The token computes in this process.
    is_in_process: AtomicBool,
    /// The token's share of the work, according to the settings.
    pub share: Share,
}

/// A token's share in the fleet, according to the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Maximum number of sessions, at least one.
    pub max_sessions: usize,
    /// Weight that determines its share of the work, at least 1.
    pub weight: u32,
    /// Priority; tokens with a higher number get jobs only if no token with a lower number is
    /// usable.
    pub priority: u32,
    /// Maximum size of a plaintext in bytes.
    pub max_operation_bytes: usize,
}

impl Share {
    /// Creates the share of one of several equal tokens.
    #[must_use]
    pub fn of_sessions(max_sessions: usize) -> Self {
        Self { max_sessions, weight: 1, priority: 0, max_operation_bytes: usize::MAX }
    }
}

/// State of a token's health checker.
#[derive(Default)]
pub struct CheckerState {
    /// Current call. Replaced together with the health checker.
    pub call: Arc<InFlightCall>,
    /// Time from which a health checker that hangs may be replaced.
    pub replace_at: Option<Instant>,
    /// True if the call is a listing, which may take a long time on a healthy token.
    pub is_listing: bool,
    /// Time of the last completed health check.
    pub checked_at: Option<Instant>,
    /// Reason why the last health check failed, if it did.
    pub trouble: Option<String>,
    /// True if the token has been tried once, with any result.
    pub has_tried: bool,
    /// True if the health checker waits for a change because the PIN was refused, or has ended
    /// because the token is unfit.
    pub has_stopped_trying: bool,
    /// True if the token permanently lacks something that the proxy needs.
    pub is_unfit: bool,
}

/// Counters since the start.
#[derive(Default)]
pub struct Counters {
    /// Number of answers, including failures.
    pub answered: AtomicU64,
    /// Number of faults of the token or a session.
    pub faults: AtomicU64,
    /// Number of jobs not answered by their deadline.
    pub expired: AtomicU64,
    /// Number of jobs that were moved to another token, or tried again on this one.
    pub retried: AtomicU64,
    /// Number of slow calls that were repeated on another session.
    pub hedged: AtomicU64,
    /// Number of repeated calls on this token that answered first.
    pub hedges_won: AtomicU64,
    /// Number of calls that hung.
    pub hung: AtomicU64,
    /// Number of sessions opened.
    pub sessions_opened: AtomicU64,
    /// Number of times that the token's module was initialized again because of this token.
    pub reinitialized: AtomicU64,
    /// Number of times that the token was put in use, including the first time.
    pub put_in_use: AtomicU64,
}

impl Token {
    /// Creates a token about which nothing is known yet. `spare_cores` is the number of cores not
    /// used by event loops.
    #[must_use]
    pub fn new(
        index: TokenIndex,
        backend: Box<dyn Backend>,
        share: Share,
        spare_cores: usize,
        start: Instant,
    ) -> Self {
        let max_sessions = share.max_sessions;
        let shards = max_sessions.min(MAX_QUEUE_SHARDS).min(spare_cores + 1);
        Self {
            index,
            backend,
            queue: Queue::new(shards, MAX_QUEUED_JOBS_PER_TOKEN),
            pool: WorkerPool::new(max_sessions),
            service_time: ServiceTime::new(start),
            latencies: Latencies::default(),
            circuit_breaker: CircuitBreaker::new(start),
            key_breakers: KeyBreakers::default(),
            hangs: KeyHangs::new(max_sessions, start),
            deferred: Deferred::default(),
            calls: Mutex::default(),
            checker: Mutex::default(),
            checker_signal: Signal::default(),
            is_identity_new: AtomicBool::new(false),
            counters: Counters::default(),
            open_after: Mutex::new((None, Backoff::default())),
            spare_cores: spare_cores.max(1),
            is_in_process: AtomicBool::new(false),
            share,
        }
    }

    /// Sets where the token's work is done. A token that computes in this process gets as many
    /// active sessions as there are spare cores, since more would only slow each other down; a
    /// remote token uses all of its sessions.
    pub fn set_locality(&self, locality: Locality) {
        self.is_in_process.store(locality == Locality::InProcess, Ordering::Relaxed);
        let limit = match locality {
            Locality::InProcess => self.spare_cores,
            Locality::Remote => self.share.max_sessions,
        };
        if self.pool.counts().limit != limit {
            self.pool.set_limit(limit);
            self.pool.wake(self.queue.len());
        }
    }

    /// Returns the current load.
    #[must_use]
    pub fn load(&self) -> Load {
        let counts = self.pool.counts();
        // Sessions are opened on demand, which takes less time than a job may wait, unless the last
        // attempt to open one failed.
        let to_come = match self.open_after.lock().0 {
            None => counts.free_slots,
            Some(_) => 0,
        };
        let sessions = counts.workers + to_come;
        Load {
            sessions: sessions.min(counts.limit).max(1),
            free: counts.limit.saturating_sub(counts.running).min(counts.idle),
            service: self.service_time.mean(),
            outstanding: counts.running + counts.stalled + self.queue.len(),
            is_stalled: counts.running == 0 && counts.idle == 0,
        }
    }

    /// Returns whether the token computes in this process and its waiting jobs take its sessions
    /// longer than `wait`: they lack CPU time.
    #[must_use]
    pub fn lacks_cpu(&self, wait: Duration) -> bool {
        self.is_in_process.load(Ordering::Relaxed) && self.load().wait(self.queue.len()) > wait
    }

    /// Returns whether the first job need not wait for a session to be opened, which could make it
    /// miss its deadline: either a session is open, or none can be opened now.
    #[must_use]
    pub fn is_ready_for_first_job(&self) -> bool {
        let counts = self.pool.counts();
        !self.circuit_breaker.is_usable()
            || counts.running + counts.stalled + counts.idle > 0
            || self.open_after.lock().0.is_some()
    }

    /// Empties the queue and returns the jobs that have not expired. Expired jobs are only counted,
    /// since the event loop's timer has answered them.
    pub fn drain_unexpired(&self, now: Instant) -> Vec<Queued> {
        let mut queued = self.drain();
        let all = queued.len();
        queued.retain(|queued| now < queued.job.deadline);
        self.counters.expired.fetch_add((all - queued.len()) as u64, Ordering::Relaxed);
        queued
    }

    /// Returns whether any job waits, queued or deferred.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || !self.deferred.is_empty()
    }

    /// Removes and returns all waiting jobs.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut queued = self.queue.drain();
        queued.extend(self.deferred.drain());
        queued
    }

    /// Records that a job of this token has expired.
    pub fn record_expired(&self, job: &Job) {
        self.counters.expired.fetch_add(1, Ordering::Relaxed);
        let time = job.deadline.saturating_duration_since(job.queued_at);
        self.record_unanswered(Some(job.request.key), time);
    }

    /// Records that a request was not answered within the time that it had.
    pub fn record_unanswered(&self, key: Option<KeyIndex>, time: Duration) {
        let now = clock::now();
        if key.is_some_and(|key| self.hangs.explains_silence(key, now)) {
            return;
        }
        if self.circuit_breaker.record_expiry(time) {
            // The health checker finds out whether the token answers at all.
            self.checker_signal.notify();
        }
    }

    /// Returns whether requests with some key may be refused; if not, [`Self::admit`] admits all.
    #[must_use]
    pub fn has_failing_keys(&self) -> bool {
        self.key_breakers.open() > 0 || self.hangs.is_any()
    }

    /// Decides whether the token accepts a new request with its key. If the key is due for a trial
    /// and `takes_trial` is true, the request becomes the trial.
    #[must_use]
    pub fn admit(&self, request: &Request, now: Instant, takes_trial: bool) -> Admission {
        let Some(key) = key_use(request) else { return Admission::Admitted };
        if self.hangs.is_blocked(key, now) {
            return Admission::Refused(Failure::TimedOut);
        }
        let admission = self.key_breakers.admit(key.0, Some(key.1), now, takes_trial);
        if admission == Admission::Admitted && takes_trial && self.hangs.takes_trial(key, now) {
            return Admission::Trial;
        }
        admission
    }

    /// Returns whether the key may be used for known-good operations, that is, whether it is not
    /// failing itself.
    #[must_use]
    pub fn is_key_sound(&self, key: KeyIndex) -> bool {
        let is_open = |direction| self.key_breakers.is_open(key, Some(direction));
        !is_open(Direction::Encrypt) && !is_open(Direction::Decrypt) && !self.hangs.hangs(key)
    }

    /// Returns whether the token serves no key: every key that it has and that stores use has an
    /// open circuit breaker, in every permitted direction.
    #[must_use]
    pub fn serves_no_key(&self) -> bool {
        if self.key_breakers.open() == 0 {
            return false;
        }
        let open: HashSet<_> =
            self.key_breakers.all_open().iter().map(|open| (open.key, open.direction)).collect();
        self.backend.serves_no_key(&|key, direction| open.contains(&(key, direction)))
    }

    /// Returns the number of sessions that are not in a call, including those not opened yet.
    #[must_use]
    pub fn spare_sessions(&self) -> usize {
        let counts = self.pool.counts();
        self.share.max_sessions.saturating_sub(counts.running + counts.stalled)
    }

    /// Returns whether the request's size is within the token's limit.
    #[must_use]
    pub fn has_room_for(&self, request: &Request) -> bool {
        let tag_bytes = match request.operation {
            Operation::Decrypt { .. } => GCM_TAG_BYTES,
            Operation::Encrypt { .. } | Operation::Describe => 0,
        };
        request.input.len().saturating_sub(tag_bytes) <= self.share.max_operation_bytes
    }

    /// Records that a session could not be opened. The wait before the next attempt grows each
    /// time.
    pub fn open_failed(&self, now: Instant) {
        let mut open_after = self.open_after.lock();
        let wait = open_after.1.wait();
        open_after.0 = Some(now + wait);
    }

    /// Records that a session was opened.
    pub fn open_succeeded(&self) {
        self.counters.sessions_opened.fetch_add(1, Ordering::Relaxed);
        *self.open_after.lock() = (None, Backoff::default());
    }

    /// Returns whether a session may be opened now.
    #[must_use]
    pub fn may_open_session(&self, now: Instant) -> bool {
        self.circuit_breaker.is_usable()
            && self.open_after.lock().0.is_none_or(|after| now >= after)
    }
}

/// A token's load at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Number of sessions available for waiting jobs, excluding hanging ones.
    pub sessions: usize,
    /// Number of sessions that can take a job immediately.
    pub free: usize,
    /// Average duration of a call.
    pub service: Duration,
    /// Number of jobs waiting or being performed.
    pub outstanding: usize,
    /// True if no session is idle or making progress: all sessions hang, are slow, or have yet to
    /// be opened.
    pub is_stalled: bool,
}

impl Load {
    /// Returns how long a job waits behind `ahead` others; zero if a session is free for it.
    #[must_use]
    pub fn wait(&self, ahead: usize) -> Duration {
        let behind = u32::try_from(ahead.saturating_sub(self.free)).unwrap_or(u32::MAX);
        self.service.saturating_mul(behind) / u32::try_from(self.sessions).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected waits, on which admission depends.
    #[test]
    fn waits_by_load() {
        let load = Load {
            sessions: 64,
            free: 2,
            service: Duration::from_millis(2),
            outstanding: 0,
            is_stalled: false,
        };
        assert_eq!(load.wait(0), Duration::ZERO);
        assert_eq!(load.wait(2), Duration::ZERO);
        assert_eq!(load.wait(66), Duration::from_millis(2));
        let unknown = Load { service: Duration::ZERO, ..load };
        assert_eq!(unknown.wait(10_000), Duration::ZERO, "all are admitted while nothing is known");
    }
}

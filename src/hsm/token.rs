//! One token of the fleet: its queue, its workers, its service time and its state.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backend::{Backend, Direction};
use super::backoff::Backoff;
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
use crate::job::{Failure, Job, KeyIndex, Operation, Request, TokenIndex};
use crate::limits::{GCM_TAG_BYTES, MAX_QUEUE_SHARDS, MAX_QUEUED_JOBS_PER_TOKEN};

/// One token.
pub struct Token {
    /// In the order of the settings.
    pub index: TokenIndex,
    /// How it is reached.
    pub backend: Box<dyn Backend>,
    /// Jobs that wait.
    pub queue: Queue,
    /// Who works on them.
    pub pool: WorkerPool,
    /// How fast.
    pub service_time: ServiceTime,
    /// How fast it was in the last minute.
    pub latencies: Latencies,
    /// Whether it gets jobs.
    pub circuit_breaker: CircuitBreaker,
    /// Keys that it does not serve.
    pub breakers: KeyBreakers,
    /// Keys whose calls do not return.
    pub hangs: KeyHangs,
    /// Requests with such keys.
    pub deferred: Deferred,
    /// The workers' calls.
    pub calls: Mutex<Vec<Arc<InFlightCall>>>,
    /// The health checker's state.
    pub checker: Mutex<CheckerState>,
    /// Wakes the health checker.
    pub checker_signal: Signal,
    /// It was connected to since its health was last published.
    pub is_identity_new: AtomicBool,
    /// Since the start.
    pub counters: Counters,
    /// Sessions wait to be opened until then, after one could not be.
    open_after: Mutex<(Option<Instant>, Backoff)>,
    spare_cores: usize,
    /// What the settings say.
    pub share: Share,
}

/// A token's part in the fleet, by the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Sessions at the most, at least one.
    pub max_sessions: usize,
    /// Its share of the work, beside the other tokens' weights; at least 1.
    pub weight: u32,
    /// Tokens of a higher number get jobs when none of a lower one is usable.
    pub priority: u32,
    /// The largest plaintext that it takes, in bytes.
    pub max_operation_bytes: usize,
}

impl Share {
    /// As in a fleet of equals.
    #[must_use]
    pub fn of_sessions(max_sessions: usize) -> Self {
        Self { max_sessions, weight: 1, priority: 0, max_operation_bytes: usize::MAX }
    }
}

/// What the health checker last found.
#[derive(Default)]
pub struct CheckerState {
    /// Its call at present. Replaced when the health checker is.
    pub call: Arc<InFlightCall>,
    /// It hangs, and another is to take its place, not before that.
    pub replace_at: Option<Instant>,
    /// Whether that call is a listing, which may take long on a healthy token.
    pub is_listing: bool,
    /// When a health check last succeeded or failed.
    pub checked_at: Option<Instant>,
    /// Why the last one failed, if it did.
    pub trouble: Option<String>,
    /// It has tried for the first time, whatever came of it.
    pub has_tried: bool,
    /// The PIN was refused, and nothing has changed since; or the token is unfit, and there is no
    /// health checker any more.
    pub has_stopped_trying: bool,
    /// The token cannot do what is needed.
    pub is_unfit: bool,
}

/// Counts since the start.
#[derive(Default)]
pub struct Counters {
    /// Jobs answered, well or not.
    pub answered: AtomicU64,
    /// Failures that were the token's or a session's own.
    pub faults: AtomicU64,
    /// Jobs that were not answered by their deadline.
    pub expired: AtomicU64,
    /// Jobs that went to another token, or were tried again here.
    pub retried: AtomicU64,
    /// Calls that were slow, and made a second time elsewhere.
    pub hedged: AtomicU64,
    /// Such second calls here that were the first to answer.
    pub hedges_won: AtomicU64,
    /// Calls that hung.
    pub hung: AtomicU64,
    /// Sessions opened.
    pub sessions_opened: AtomicU64,
    /// Times that the token's module was initialised anew for its sake.
    pub reinitialized: AtomicU64,
    /// Times that the token was put in use, the first time included.
    pub put_in_use: AtomicU64,
}

impl Token {
    /// A token that nothing is known of yet. `spare_cores`: those that event loops leave.
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
            breakers: KeyBreakers::default(),
            hangs: KeyHangs::new(max_sessions, start),
            deferred: Deferred::default(),
            calls: Mutex::default(),
            checker: Mutex::default(),
            checker_signal: Signal::default(),
            is_identity_new: AtomicBool::new(false),
            counters: Counters::default(),
            open_after: Mutex::new((None, Backoff::default())),
            spare_cores: spare_cores.max(1),
            share,
        }
    }

    /// Takes in where the token's work is done. One that computes in this process gets as many
    /// active sessions as there are cores to compute on, since each further one only makes the
    /// others wait; one across a network gets all.
    pub fn set_locality(&self, locality: Locality) {
        let limit = match locality {
            Locality::InProcess => self.spare_cores,
            Locality::Remote => self.share.max_sessions,
        };
        if self.pool.counts().limit != limit {
            self.pool.set_limit(limit);
            self.pool.wake(self.queue.len());
        }
    }

    /// What a new job's wait depends on.
    #[must_use]
    pub fn load(&self) -> Load {
        let counts = self.pool.counts();
        // Sessions are opened as load asks, and that takes less than a job may wait; unless the
        // last try to open one failed.
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

    /// Whether its first job need not wait for a session to be opened, which may take longer than a
    /// job has: there is one, or none is to be had now.
    #[must_use]
    pub fn is_ready_for_first_job(&self) -> bool {
        let counts = self.pool.counts();
        !self.circuit_breaker.is_usable()
            || counts.running + counts.stalled + counts.idle > 0
            || self.open_after.lock().0.is_some()
    }

    /// Empties the queue. Jobs that nobody waits for any more are only counted: the loop has
    /// answered by its timer.
    pub fn drain_unexpired(&self, now: Instant) -> Vec<Queued> {
        let mut queued = self.drain();
        let all = queued.len();
        queued.retain(|queued| now < queued.job.deadline);
        self.counters.expired.fetch_add((all - queued.len()) as u64, Ordering::Relaxed);
        queued
    }

    /// Whether a request waits, in the queue or for a slow key.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || !self.deferred.is_empty()
    }

    /// Takes out all that waits.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut queued = self.queue.drain();
        queued.extend(self.deferred.drain());
        queued
    }

    /// Takes in that a request that the token had been given has expired.
    pub fn record_expired(&self, job: &Job) {
        self.counters.expired.fetch_add(1, Ordering::Relaxed);
        let time = job.deadline.saturating_duration_since(job.queued_at);
        self.record_unanswered(Some(job.request.key), time);
    }

    /// Takes in that a request that might have taken that long was not answered in time.
    pub fn record_unanswered(&self, key: Option<KeyIndex>, time: Duration) {
        let now = Instant::now();
        if key.is_some_and(|key| self.hangs.explains_silence(key, now)) {
            return;
        }
        if self.circuit_breaker.record_expiry(time) {
            // Does it answer at all?
            self.checker_signal.notify();
        }
    }

    /// Whether [`Self::admit`] has anything to decide.
    #[must_use]
    pub fn has_failing_keys(&self) -> bool {
        self.breakers.open() > 0 || self.hangs.is_any()
    }

    /// Decides whether a new request may be given to the token, as far as its key is concerned.
    /// `takes_trial`: if the key is to be tried now, it is by this request.
    #[must_use]
    pub fn admit(&self, request: &Request, now: Instant, takes_trial: bool) -> Admission {
        let Some(key) = key_use(request) else { return Admission::Admitted };
        if self.hangs.is_blocked(key, now) {
            return Admission::Refused(Failure::TimedOut);
        }
        let admission = self.breakers.admit(key.0, Some(key.1), now, takes_trial);
        if admission == Admission::Admitted && takes_trial && self.hangs.takes_trial(key, now) {
            return Admission::Trial;
        }
        admission
    }

    /// Whether the key may be used for evidence about this token: it has not been failing itself.
    #[must_use]
    pub fn is_key_sound(&self, key: KeyIndex) -> bool {
        let is_open = |direction| self.breakers.is_open(key, Some(direction));
        !is_open(Direction::Encrypt) && !is_open(Direction::Decrypt) && !self.hangs.hangs(key)
    }

    /// Whether the circuit breakers of all keys of the stores that the token has are open, for each
    /// direction that a key may be used in.
    #[must_use]
    pub fn serves_no_key(&self) -> bool {
        if self.breakers.open() == 0 {
            return false;
        }
        let open: HashSet<_> =
            self.breakers.all_open().iter().map(|open| (open.key, open.direction)).collect();
        self.backend.serves_no_key(&|key, direction| open.contains(&(key, direction)))
    }

    /// Sessions that are not in a call, those among them that are not open yet.
    #[must_use]
    pub fn spare_sessions(&self) -> usize {
        let counts = self.pool.counts();
        self.share.max_sessions.saturating_sub(counts.running + counts.stalled)
    }

    /// Whether what is asked is within its limits.
    #[must_use]
    pub fn has_room_for(&self, request: &Request) -> bool {
        let tag_bytes = match request.operation {
            Operation::Decrypt { .. } => GCM_TAG_BYTES,
            Operation::Encrypt { .. } | Operation::Describe => 0,
        };
        request.input.len().saturating_sub(tag_bytes) <= self.share.max_operation_bytes
    }

    /// A session could not be opened: the next try waits, longer each time.
    pub fn open_failed(&self, now: Instant) {
        let mut open_after = self.open_after.lock();
        let wait = open_after.1.wait();
        open_after.0 = Some(now + wait);
    }

    /// A session was opened.
    pub fn open_succeeded(&self) {
        self.counters.sessions_opened.fetch_add(1, Ordering::Relaxed);
        *self.open_after.lock() = (None, Backoff::default());
    }

    /// Whether a session may be opened now.
    #[must_use]
    pub fn may_open_session(&self, now: Instant) -> bool {
        self.circuit_breaker.is_usable()
            && self.open_after.lock().0.is_none_or(|after| now >= after)
    }
}

/// A token's load at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Sessions that work on what waits; not those that hang.
    pub sessions: usize,
    /// Sessions that take a job at once.
    pub free: usize,
    /// How long a call takes.
    pub service: Duration,
    /// Jobs that wait or are at work.
    pub outstanding: usize,
    /// No session is free, and none gets on: all hang, or are slow, or are yet to be opened.
    pub is_stalled: bool,
}

impl Load {
    /// How long a job waits that `ahead` others are before; zero if a session is free for it.
    #[must_use]
    pub fn wait(&self, ahead: usize) -> Duration {
        let behind = u32::try_from(ahead.saturating_sub(self.free)).unwrap_or(u32::MAX);
        self.service.saturating_mul(behind) / u32::try_from(self.sessions).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admission rests on it.
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
        assert_eq!(unknown.wait(10_000), Duration::ZERO, "nothing known: let them in");
    }
}

//! The processing of one job on a session: admission, the call, and the handling of its result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use zeroize::Zeroize as _;

use crate::hsm::attribution::{FailedAttempt, FaultScope, attribute};
use crate::hsm::backend::{Blame, Direction, Evidence, Failed, Fault, KeyUse, Session};
use crate::hsm::evidence_keys::MonitoredKeys;
use crate::hsm::fleet::Fleet;
use crate::hsm::in_flight_call::{Attempt, End, InFlightCall};
use crate::hsm::queued::Queued;
use crate::hsm::token::Token;
use crate::hsm::{faults, retry};
use crate::job::{Completion, Failure, Operation, Success};
use crate::limits::{
    CPU_SAMPLE_ALWAYS, CPU_SAMPLE_INTERVAL, CPU_SAMPLES_PER_WINDOW, MAX_RETRY_BACKOFF,
    MIN_RETRY_BACKOFF,
};
use crate::sync::atomic::Ordering;
use crate::sync::{clock, thread};

/// Performs one worker's jobs, on one session after another.
pub struct JobRunner<'a> {
    fleet: &'a Fleet,
    token: &'a Token,
    call: &'a InFlightCall,
    jobs: u32,
    /// True if the session replaced a broken one and no operation in it has succeeded yet.
    is_successor: bool,
}

/// The fate of the session and its worker.
pub enum Next {
    /// The session is broken; this job, if any, is to be tried on its replacement.
    Reopen(Option<Queued>),
    /// The session is to be closed, and the worker ends.
    Leave,
    /// The thread was abandoned in a call, and ends.
    Abandoned,
}

/// The result of a call.
enum Called {
    Returned(Queued, Result<Success, Fault>, Times),
    Stopped(Next),
}

/// The times of a call.
struct Times {
    service: Duration,
    end: Instant,
    /// CPU time of the thread when the call began, if it is measured.
    cpu: Option<Duration>,
    queue_micros: u32,
}

/// Indicates that a call hung and its thread is abandoned.
struct Hung;

/// The step that follows a job.
pub enum Done {
    /// Another job is performed.
    GoOn,
    /// This job, which has not begun or is to be tried again, is performed on the same session.
    Again(Queued),
    /// No other job is performed on this session.
    Stop(Next),
}

impl<'a> JobRunner<'a> {
    /// Creates the runner of a worker whose calls are registered as `call`.
    #[must_use]
    pub fn new(fleet: &'a Fleet, token: &'a Token, call: &'a InFlightCall) -> Self {
        Self { fleet, token, call, jobs: 0, is_successor: false }
    }

    /// Puts a job back into the queue.
    pub fn requeue(&self, pending: Option<Queued>) {
        if let Some(queued) = pending {
            self.fleet.requeue(self.token, queued);
            self.fleet.monitor_signal.notify();
        }
    }

    /// Sends the finished answers that are being held.
    pub fn send_finished(&self) {
        self.call.outbox.lock().send_all(&self.fleet.inboxes);
    }

    /// Performs a job on a session: admits it, makes the call and settles the result.
    pub fn work(&mut self, session: &mut dyn Session, queued: Queued) -> Done {
        let Some(queued) = self.admit(queued) else { return Done::GoOn };
        match self.call(session, queued) {
            Called::Stopped(next) => Done::Stop(next),
            Called::Returned(queued, result, times) => self.settle(session, queued, result, times),
        }
    }

    /// Returns the job if it should still be performed; otherwise answers or drops it.
    fn admit(&mut self, mut queued: Queued) -> Option<Queued> {
        let start = clock::now();
        if start >= queued.job.deadline {
            self.token.record_expired(&queued.job);
            return None;
        }
        if queued.is_answered() {
            return None;
        }
        if self.comes_too_late(&queued, start) {
            self.token.record_expired(&queued.job);
            let token = Some(self.token.index);
            let queue_micros = micros(start.saturating_duration_since(queued.job.queued_at));
            self.answer(queued.complete(Err(Failure::TimedOut), token, queue_micros), start);
            return None;
        }
        if std::mem::take(&mut queued.backs_off) && queued.attempts > 1 {
            self.send_finished();
            let wait = MIN_RETRY_BACKOFF * (1 << (queued.attempts - 2).min(16));
            thread::sleep(wait.min(MAX_RETRY_BACKOFF).min(queued.job.deadline - start));
        }
        // Finished answers must not wait for a slow call.
        let mut held = self.call.outbox.lock();
        if held.is_due(start, self.token.service_time.mean()) {
            held.send_all(&self.fleet.inboxes);
        }
        Some(queued)
    }

    /// Calls the HSM.
    fn call(&mut self, session: &mut dyn Session, mut queued: Queued) -> Called {
        let start = clock::now();
        let cpu = self.is_sample().then(clock::thread_cpu_time);
        let until = queued.job.deadline.max(start + self.token.service_time.hang_limit());
        self.call.begin_attempt(start, until, Attempt::at(&queued));
        let job = &mut queued.job;
        let result =
            catch_unwind(AssertUnwindSafe(|| session.perform(&job.request, &mut job.output)));
        let end = clock::now();
        if !self.end_call(&mut queued) {
            return Called::Stopped(Next::Abandoned);
        }
        let service = end - start;
        queued.hsm_micros = queued.hsm_micros.saturating_add(micros(service));
        let queue_micros = micros(start.saturating_duration_since(queued.job.queued_at));
        let times = Times { service, end, cpu, queue_micros };
        match result {
            Ok(result) => Called::Returned(queued, result, times),
            Err(_) => {
                // A bug in the proxy or the backend. The request is not tried again, since it would
                // probably cost another session, and the state of this session is unknown.
                let label = self.token.backend.identity().label;
                tracing::error!(token = label, "an HSM call panicked");
                queued.job.output.zeroize();
                let token = Some(self.token.index);
                self.answer(queued.complete(Err(Failure::Defect), token, queue_micros), end);
                Called::Stopped(Next::Reopen(None))
            }
        }
    }

    /// Records that the job's call returned. Returns false if the thread has been abandoned; the
    /// output is then zeroed.
    fn end_call(&self, queued: &mut Queued) -> bool {
        let (ended, race, key) = self.call.end_attempt();
        if race.is_some() {
            queued.race = race;
        }
        let is_in_time = self.ended(ended, key);
        if !is_in_time {
            queued.job.output.zeroize();
        }
        is_in_time
    }

    /// Records how a running worker's call ended. Returns false if the thread has been abandoned.
    fn ended(&self, ended: End, key: Option<KeyUse>) -> bool {
        match ended {
            End::InTime => {}
            End::Stalled => {
                self.token.pool.mark_resumed();
                key.inspect(|key| self.token.hangs.resumed(*key));
            }
            End::Abandoned => {
                key.inspect(|key| self.token.hangs.returned(*key));
            }
        }
        ended != End::Abandoned
    }

    /// Handles the result of a call: answers the job, or arranges another attempt at it.
    fn settle(
        &mut self,
        session: &mut dyn Session,
        queued: Queued,
        result: Result<Success, Fault>,
        times: Times,
    ) -> Done {
        match result {
            Ok(success) => {
                self.succeeded(queued, success, times);
                Done::GoOn
            }
            Err(fault) => self.failed(session, queued, fault, times),
        }
    }

    fn succeeded(&mut self, queued: Queued, success: Success, times: Times) {
        let Times { service, end, cpu, queue_micros } = times;
        self.is_successor = false;
        if !matches!(queued.job.request.operation, Operation::Describe) {
            self.token.service_time.record(service, end);
            self.token.latencies.record(service);
            if let Some(cpu) = cpu {
                let cpu = clock::thread_cpu_time().saturating_sub(cpu);
                if let Some(locality) = self.token.service_time.sample_cpu(cpu, service, end) {
                    self.token.set_locality(locality);
                }
            }
        }
        if end <= queued.job.deadline {
            if self.token.circuit_breaker.record_success(end) {
                self.token.hangs.served(queued.job.request.key, end);
            }
        } else {
            // Too late for the caller: a token that never answers in time counts as silent.
            self.token.record_expired(&queued.job);
        }
        if let Some(key) = queued.key_use() {
            faults::key_succeeded(self.token, key, end);
        }
        retry::record_wrong_suspicions(self.fleet, self.token, &queued, end);
        let is_hedge = queued.is_hedge;
        let token = Some(self.token.index);
        let completion = queued.complete(Ok(success), token, queue_micros);
        if is_hedge && completion.is_some() {
            self.token.counters.hedges_won.fetch_add(1, Ordering::Relaxed);
        }
        self.answer(completion, end);
    }

    fn failed(
        &mut self,
        session: &mut dyn Session,
        queued: Queued,
        fault: Fault,
        times: Times,
    ) -> Done {
        let mut answered = Vec::new();
        let done = match fault.blame {
            Blame::Busy | Blame::Session | Blame::Token => {
                self.attribute_fault(session, queued, fault, &mut answered)
            }
            Blame::Request | Blame::Suspect | Blame::Key => {
                if fault.blame == Blame::Request {
                    self.token.circuit_breaker.record_success(times.end);
                }
                if let Some(key) = queued.key_use() {
                    faults::key_answered(self.token, key, fault, times.end);
                }
                match retry::on_failure(self.fleet, self.token, queued, fault, &mut answered) {
                    Some(queued) => Done::Again(queued),
                    None => Done::GoOn,
                }
            }
        };
        for mut completion in answered {
            completion.queue_micros = times.queue_micros;
            self.answer(Some(completion), times.end);
        }
        done
    }

    /// Attributes a fault, and applies the consequences for key, session, token and job.
    fn attribute_fault(
        &mut self,
        session: &mut dyn Session,
        queued: Queued,
        fault: Fault,
        answered: &mut Vec<Completion>,
    ) -> Done {
        self.token.counters.faults.fetch_add(1, Ordering::Relaxed);
        let about = queued.about();
        let is_first_attempt = queued.attempts == 0;
        let back = retry::fail_over(self.fleet, self.token, queued, fault);
        let scope = if self.token.key_breakers.explains(about.key, about.direction, fault.failure) {
            FaultScope::Key
        } else {
            let is_busy = fault.blame == Blame::Busy && fault.failure != Failure::CdivMismatch;
            let evidence = match back {
                // The session works, and the next attempt may succeed.
                Some(_) if is_busy && is_first_attempt => None,
                _ => match self.ask_other_key(session, about) {
                    Ok(evidence) => Some(evidence),
                    Err(Hung) => {
                        // The hang of the other key is recorded, and shows nothing about this key.
                        let key = (about.key, clock::now());
                        if self.token.hangs.are_others_served(key.0, key.1) {
                            faults::apply(self.fleet, self.token, about, fault, FaultScope::Key);
                        }
                        if let Some(queued) = back {
                            self.fleet.requeue(self.token, queued);
                        }
                        return Done::Stop(Next::Abandoned);
                    }
                },
            };
            match evidence {
                None => FaultScope::Key,
                Some(evidence) => {
                    let is_fresh_session = self.is_successor;
                    attribute(FailedAttempt { blame: fault.blame, evidence, is_fresh_session })
                }
            }
        };
        let breaks_session = fault.breaks_session() && scope != FaultScope::Key;
        if fault.breaks_session() && scope == FaultScope::Key {
            // The session worked with another key.
            self.is_successor = false;
        }
        faults::apply(self.fleet, self.token, about, fault, scope);
        if breaks_session {
            self.is_successor = true;
            session.on_broken(&fault);
        }
        let back = back.and_then(|mut queued| {
            queued.backs_off = scope != FaultScope::Key;
            retry::retry(self.fleet, self.token, queued, scope, answered)
        });
        self.after_fault(back, fault, breaks_session, scope)
    }

    /// Decides what happens to the session, and to a job that is to be tried again.
    fn after_fault(
        &self,
        back: Option<Queued>,
        fault: Fault,
        breaks_session: bool,
        scope: FaultScope,
    ) -> Done {
        match back {
            None if breaks_session => Done::Stop(Next::Reopen(None)),
            None => Done::GoOn,
            Some(queued) if !breaks_session => Done::Again(queued),
            // A session is reopened only once for each job. If the new session fails too, the
            // session is not to blame, unless the module says that it is.
            Some(queued) if queued.has_reopened && scope == FaultScope::Token => {
                match fault.blame {
                    Blame::Session => {
                        self.requeue(Some(queued));
                        Done::Stop(Next::Reopen(None))
                    }
                    _ => Done::Again(queued),
                }
            }
            Some(mut queued) => {
                queued.has_reopened = true;
                Done::Stop(Next::Reopen(Some(queued)))
            }
        }
    }

    /// Performs a known-good operation with another key in the session where one has just failed.
    fn ask_other_key(&self, session: &mut dyn Session, about: Failed) -> Result<Evidence, Hung> {
        let token = self.token;
        let now = clock::now();
        self.call.begin(now, now + token.service_time.hang_limit(), true);
        let direction = about.direction.unwrap_or(Direction::Encrypt);
        let keys = MonitoredKeys { token, call: self.call, direction, max: None };
        let asked = catch_unwind(AssertUnwindSafe(|| session.known_good(about, &keys)));
        let (ended, key) = self.call.end();
        if !self.ended(ended, key) {
            return Err(Hung);
        }
        Ok(asked.unwrap_or(Evidence::Failed))
    }

    /// Returns whether the call would probably miss its deadline while other jobs that may still
    /// meet theirs are waiting: those go first. If the token is too slow for any job, this one is
    /// still tried, since otherwise the token's recovery would go unnoticed.
    fn comes_too_late(&self, queued: &Queued, start: Instant) -> bool {
        let job = &queued.job;
        let service = self.token.service_time.mean();
        let whole = job.deadline.saturating_duration_since(job.queued_at);
        start + service > job.deadline && service * 4 < whole && !self.token.queue.is_empty()
    }

    /// Holds the answer for sending. There is none if another attempt at the request may answer it.
    fn answer(&mut self, completion: Option<Completion>, now: Instant) {
        if let Some(completion) = completion {
            self.token.counters.answered.fetch_add(1, Ordering::Relaxed);
            self.call.outbox.lock().add(completion, now);
        }
    }

    /// Returns whether to measure this call's CPU time, which takes a system call: true for the
    /// first calls and then at regular intervals, and for each call if calls take long.
    fn is_sample(&mut self) -> bool {
        self.jobs = self.jobs.wrapping_add(1);
        self.jobs <= CPU_SAMPLES_PER_WINDOW
            || self.jobs.is_multiple_of(CPU_SAMPLE_INTERVAL)
            || self.token.service_time.mean() >= CPU_SAMPLE_ALWAYS
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

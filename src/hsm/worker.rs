//! A session's thread: takes a job, has the HSM do it, sends the answer.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zeroize::Zeroize as _;

use super::attribution::{FailedAttempt, FaultScope, attribute};
use super::backend::{self, Blame, Direction, Evidence, Fault, KeyUse, OpenError, Session};
use super::evidence_keys::MonitoredKeys;
use super::fleet::Fleet;
use super::in_flight_call::{Attempt, End, InFlightCall};
use super::queued::Queued;
use super::service_time::thread_cpu_time;
use super::token::Token;
use super::worker_pool::{Parker, Wakeup};
use super::{faults, retry};
use crate::job::{Completion, Failure, Operation, Success};
use crate::limits::{
    CPU_SAMPLE_INTERVAL, CPU_SAMPLES_PER_WINDOW, MAX_HOUSEKEEPING, MAX_RETRY_BACKOFF,
    MIN_RETRY_BACKOFF,
};

/// Runs until the session and its successor are gone, or the fleet stops. The pool counts this
/// worker already; the watch is registered.
pub fn run(fleet: &Fleet, token: &Token, call: &Arc<InFlightCall>) {
    let mut worker =
        Worker { fleet, token, call, parker: Parker::current(), jobs: 0, is_successor: false };
    let mut pending = None;
    loop {
        // New ones are begun once it is usable again. Until then no session may be left, or the
        // module could not be initialised anew.
        if !token.circuit_breaker.is_usable() {
            token.pool.leave();
            return worker.requeue(pending);
        }
        match worker.open() {
            Opened::Session(mut session) => {
                token.pool.start_running();
                fleet.progress.notify();
                let next = worker.serve(session.as_mut(), pending.take());
                worker.send_finished();
                match next {
                    Next::Reopen(job) => {
                        token.pool.stop_running();
                        pending = job;
                        if !worker.close(session) {
                            return worker.requeue(pending);
                        }
                    }
                    Next::Leave => {
                        token.pool.stop_running();
                        if worker.close(session) {
                            token.pool.leave();
                        }
                        return;
                    }
                    Next::Abandoned => {
                        drop(session);
                        token.pool.abandoned_returned();
                        return;
                    }
                }
            }
            Opened::Failed => {
                token.pool.leave();
                fleet.progress.notify();
                worker.requeue(pending);
                // Others may be wanted in this one's place, now or after a while.
                fleet.monitor_signal.notify();
                return;
            }
            Opened::Abandoned => {
                token.pool.abandoned_returned();
                return worker.requeue(pending);
            }
        }
    }
}

struct Worker<'a> {
    fleet: &'a Fleet,
    token: &'a Token,
    call: &'a InFlightCall,
    parker: Arc<Parker>,
    jobs: u32,
    /// The session before this one broke, and this one has done nothing yet.
    is_successor: bool,
}

enum Opened {
    Session(Box<dyn Session>),
    Failed,
    Abandoned,
}

enum Next {
    /// The session is broken; this job, if any, is to be tried on its successor.
    Reopen(Option<Queued>),
    Leave,
    Abandoned,
}

/// How a call ended.
enum Called {
    Succeeded(Queued, Success, Times),
    Failed(Queued, Fault, Times),
    Stopped(Next),
}

/// A call's times.
struct Times {
    service: Duration,
    end: Instant,
    /// CPU time of the thread when the call began, if this call is a sample.
    cpu: Option<Duration>,
    queue_micros: u32,
}

/// The thread is written off.
struct Hung;

enum Done {
    GoOn,
    /// Not begun, or to be tried again on this same session.
    Again(Queued),
    Stop(Next),
}

impl Worker<'_> {
    fn open(&self) -> Opened {
        let now = Instant::now();
        self.call.begin(now, now + MAX_HOUSEKEEPING, false);
        let result = self.token.backend.open();
        if self.call.end().0 == End::Abandoned {
            return Opened::Abandoned;
        }
        match result {
            Ok(session) => {
                self.token.open_succeeded();
                Opened::Session(session)
            }
            Err(error) => {
                let label = self.token.backend.identity().label;
                tracing::warn!(token = label, reason = error.reason(), "no new HSM session");
                match error {
                    OpenError::TooManySessions(_) => self.token.pool.cap(),
                    OpenError::Unavailable(_) | OpenError::PinRefused(_) | OpenError::Unfit(_) => {
                        let reason = || error.reason().to_owned();
                        if self.token.circuit_breaker.count_fault(Instant::now(), reason) {
                            self.fleet.on_circuit_opened(self.token);
                        }
                    }
                }
                self.token.open_failed(Instant::now());
                self.token.checker_signal.notify();
                Opened::Failed
            }
        }
    }

    /// Closes the session. False if that hung, and this thread is written off.
    fn close(&self, session: Box<dyn Session>) -> bool {
        let now = Instant::now();
        self.call.begin(now, now + MAX_HOUSEKEEPING, false);
        drop(session);
        if self.call.end().0 == End::Abandoned {
            self.token.pool.abandoned_returned();
            return false;
        }
        true
    }

    fn requeue(&self, pending: Option<Queued>) {
        if let Some(queued) = pending {
            self.fleet.requeue(self.token, queued);
            self.fleet.monitor_signal.notify();
        }
    }

    fn serve(&mut self, session: &mut dyn Session, pending: Option<Queued>) -> Next {
        let epoch = self.token.circuit_breaker.epoch();
        let mut pending = pending;
        loop {
            // The token was out of use since this session was opened: it is not to be trusted,
            // and all must be closed before the module can be initialised anew.
            if !self.is_trusted(epoch) {
                self.requeue(pending);
                return Next::Leave;
            }
            let queued = match pending.take().or_else(|| self.next_job()) {
                Some(queued) => queued,
                None => {
                    self.send_finished();
                    match self.wait_for_work(epoch) {
                        Wakeup::Work => continue,
                        Wakeup::Leave => return Next::Leave,
                    }
                }
            };
            match self.work(session, queued) {
                Done::GoOn => {}
                Done::Again(queued) => pending = Some(queued),
                Done::Stop(next) => return next,
            }
            if self.token.pool.is_over_limit() && pending.is_none() {
                self.send_finished();
                if self.wait_for_work(epoch) == Wakeup::Leave {
                    return Next::Leave;
                }
            }
        }
    }

    /// Whether the token has been in use since `epoch`.
    fn is_trusted(&self, epoch: u64) -> bool {
        self.token.circuit_breaker.is_usable() && self.token.circuit_breaker.epoch() == epoch
    }

    fn wait_for_work(&self, epoch: u64) -> Wakeup {
        // Whoever takes the token out of use wakes those who sleep, once it is: who has not gone to
        // sleep by then must not.
        let may_sleep = || self.is_trusted(epoch);
        self.token.pool.wait_for_work(&self.parker, &self.token.queue, may_sleep)
    }

    fn send_finished(&self) {
        self.call.outbox.lock().send_all(&self.fleet.inboxes);
    }

    /// The next job; those of keys whose slow calls hold their share of the sessions wait.
    fn next_job(&self) -> Option<Queued> {
        let hangs = &self.token.hangs;
        if !hangs.is_any() && self.token.deferred.is_empty() {
            return self.token.queue.take();
        }
        let (now, is_stopping) = (Instant::now(), self.fleet.is_stopping());
        // Of many requests with one key, one is looked at.
        let last = Cell::new(None::<(KeyUse, bool)>);
        let must_wait = |queued: &Queued| {
            let Some(key) = queued.key_use().filter(|_| !queued.is_trial && !is_stopping) else {
                return false;
            };
            if let Some((known, must_wait)) = last.get()
                && known == key
            {
                return must_wait;
            }
            let must_wait = hangs.must_wait(key, now) || hangs.is_blocked(key, now);
            last.set(Some((key, must_wait)));
            must_wait
        };
        if let Some(queued) = self.token.deferred.take(|queued| !must_wait(queued)) {
            return Some(queued);
        }
        loop {
            let queued = self.token.queue.take()?;
            if !must_wait(&queued) {
                return Some(queued);
            }
            if let Err(queued) = self.token.deferred.push(queued) {
                return Some(queued);
            }
        }
    }

    fn work(&mut self, session: &mut dyn Session, queued: Queued) -> Done {
        let Some(queued) = self.begin(queued) else { return Done::GoOn };
        match self.call(session, queued) {
            Called::Stopped(next) => Done::Stop(next),
            Called::Succeeded(queued, success, times) => {
                self.succeeded(queued, success, times);
                Done::GoOn
            }
            Called::Failed(queued, fault, times) => self.failed(session, queued, fault, times),
        }
    }

    /// Sees whether the job is still to be done, and is so now.
    fn begin(&mut self, mut queued: Queued) -> Option<Queued> {
        let start = Instant::now();
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
            std::thread::sleep(wait.min(MAX_RETRY_BACKOFF).min(queued.job.deadline - start));
        }
        // What is finished does not wait for a slow call.
        let mut held = self.call.outbox.lock();
        if held.is_due(start, self.token.service_time.mean()) {
            held.send_all(&self.fleet.inboxes);
        }
        Some(queued)
    }

    /// Makes the call into the HSM.
    fn call(&mut self, session: &mut dyn Session, mut queued: Queued) -> Called {
        let start = Instant::now();
        let cpu = self.is_sample().then(thread_cpu_time);
        let until = queued.job.deadline.max(start + self.token.service_time.hang_limit());
        self.call.begin_attempt(start, until, Attempt::at(&queued));
        let job = &mut queued.job;
        let result =
            catch_unwind(AssertUnwindSafe(|| session.perform(&job.request, &mut job.output)));
        let end = Instant::now();
        if !self.end_call(&mut queued) {
            return Called::Stopped(Next::Abandoned);
        }
        let service = end - start;
        queued.hsm_micros = queued.hsm_micros.saturating_add(micros(service));
        let queue_micros = micros(start.saturating_duration_since(queued.job.queued_at));
        let times = Times { service, end, cpu, queue_micros };
        match result {
            Ok(Ok(success)) => Called::Succeeded(queued, success, times),
            Ok(Err(fault)) => Called::Failed(queued, fault, times),
            Err(_) => {
                // A defect, or a backend's: the request is not tried again, since it would most
                // likely cost another session, and this session may be in the middle of something.
                let label = self.token.backend.identity().label;
                tracing::error!(token = label, "an HSM call panicked");
                queued.job.output.zeroize();
                let token = Some(self.token.index);
                self.answer(queued.complete(Err(Failure::Defect), token, queue_micros), end);
                Called::Stopped(Next::Reopen(None))
            }
        }
    }

    /// Takes in that a call for the job returned. False if its thread is written off; then what it
    /// gave is wiped.
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

    /// Takes in how a running worker's call ended. False if its thread is written off.
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

    fn succeeded(&mut self, queued: Queued, success: Success, times: Times) {
        let Times { service, end, cpu, queue_micros } = times;
        self.is_successor = false;
        if !matches!(queued.job.request.operation, Operation::Describe) {
            self.token.service_time.record(service, end);
            self.token.latencies.record(service);
            if let Some(cpu) = cpu {
                let cpu = thread_cpu_time().saturating_sub(cpu);
                if let Some(locality) = self.token.service_time.sample_cpu(cpu, service) {
                    self.token.set_locality(locality);
                }
            }
        }
        if end <= queued.job.deadline {
            if self.token.circuit_breaker.record_success(end) {
                self.token.hangs.served(queued.job.request.key, end);
            }
        } else {
            // Too late for the one who asked: a token that does nothing in time does nothing.
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

    /// Finds out whose fault it was, with all that follows for key, session, token and job.
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
        let scope = if self.token.breakers.explains(about.key, about.direction, fault.failure) {
            FaultScope::Key
        } else {
            let is_busy = fault.blame == Blame::Busy && fault.failure != Failure::CdivMismatch;
            let evidence = match back {
                // The session is well, and the next attempt may be.
                Some(_) if is_busy && is_first_attempt => None,
                _ => match self.ask_other_key(session, about) {
                    Ok(evidence) => Some(evidence),
                    Err(Hung) => {
                        // The other key hung: it is counted as such, and tells nothing of this one.
                        let key = (about.key, Instant::now());
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
            // It did well with another key.
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

    /// Decides what becomes of the session, and of a job that is to be tried again.
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
            // A session is opened again once for a job. That the next one fails too is no fault
            // of the session's, unless the module says so.
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

    /// Does a known-good operation with another key in the session that has just failed.
    fn ask_other_key(
        &self,
        session: &mut dyn Session,
        about: backend::Failed,
    ) -> Result<Evidence, Hung> {
        let token = self.token;
        let now = Instant::now();
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

    /// Whether the call would most likely end after its deadline, while others wait for whom it
    /// would not: then the HSM's time is theirs. A token so slow that no job would be in time is
    /// tried all the same, or nobody would notice when it is fast again.
    fn comes_too_late(&self, queued: &Queued, start: Instant) -> bool {
        let job = &queued.job;
        let service = self.token.service_time.mean();
        let whole = job.deadline.saturating_duration_since(job.queued_at);
        start + service > job.deadline && service * 4 < whole && !self.token.queue.is_empty()
    }

    /// Nothing is to be sent if another attempt at the request was faster.
    fn answer(&mut self, completion: Option<Completion>, now: Instant) {
        if let Some(completion) = completion {
            self.token.counters.answered.fetch_add(1, Ordering::Relaxed);
            self.call.outbox.lock().add(completion, now);
        }
    }

    /// The first calls, and one in some: asking for the CPU time is a system call.
    fn is_sample(&mut self) -> bool {
        self.jobs = self.jobs.wrapping_add(1);
        self.jobs <= CPU_SAMPLES_PER_WINDOW || self.jobs.is_multiple_of(CPU_SAMPLE_INTERVAL)
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

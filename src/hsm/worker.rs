//! A session's thread: takes a job, has the HSM do it, sends the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zeroize::Zeroize as _;

use super::backend::{Blame, OpenError, Session};
use super::fleet::{Fleet, complete};
use super::pace::thread_cpu_time;
use super::queue::Queued;
use super::roster::{Parker, Rest};
use super::token::Token;
use super::watch::{Attempt, End, Watch};
use crate::job::{Completion, Failure, Operation};
use crate::limits::{
    CPU_SAMPLE_INTERVAL, CPU_SAMPLES_PER_WINDOW, MAX_HOUSEKEEPING, MAX_RETRY_BACKOFF,
    MIN_RETRY_BACKOFF,
};

/// Runs until the session and its successor are gone, or the fleet stops. The roster counts this
/// worker already; the watch is registered.
pub fn run(fleet: &Fleet, token: &Token, watch: &Arc<Watch>) {
    let mut worker =
        Worker { fleet, token, watch, parker: Parker::current(), jobs: 0, is_successor: false };
    let mut pending = None;
    loop {
        // New ones are begun once it is usable again. Until then no session may be left, or the
        // module could not be initialised anew.
        if !token.circuit.is_usable() {
            token.roster.leave();
            return worker.give_back(pending);
        }
        match worker.open() {
            Opened::Session(mut session) => {
                token.roster.start_running();
                let next = worker.serve(session.as_mut(), pending.take());
                worker.send_held();
                match next {
                    Next::Reopen(job) => {
                        token.roster.stop_running();
                        pending = job;
                        if !worker.close(session) {
                            return worker.give_back(pending);
                        }
                    }
                    Next::Leave => {
                        token.roster.stop_running();
                        if worker.close(session) {
                            token.roster.leave();
                        }
                        return;
                    }
                    Next::WrittenOff => {
                        drop(session);
                        token.roster.written_off_returned();
                        return;
                    }
                }
            }
            Opened::Failed => {
                token.roster.leave();
                worker.give_back(pending);
                // Others may be wanted in this one's place, now or after a while.
                fleet.monitor_signal.tell();
                return;
            }
            Opened::WrittenOff => {
                token.roster.written_off_returned();
                return worker.give_back(pending);
            }
        }
    }
}

struct Worker<'a> {
    fleet: &'a Fleet,
    token: &'a Token,
    watch: &'a Watch,
    parker: Arc<Parker>,
    jobs: u32,
    /// The session before this one broke, and this one has done nothing yet.
    is_successor: bool,
}

enum Opened {
    Session(Box<dyn Session>),
    Failed,
    WrittenOff,
}

enum Next {
    /// The session is broken; this job, if any, is to be tried on its successor.
    Reopen(Option<Queued>),
    Leave,
    WrittenOff,
}

enum Done {
    GoOn,
    /// Not begun, or to be tried again on this same session.
    Again(Queued),
    Stop(Next),
}

impl Worker<'_> {
    fn open(&self) -> Opened {
        let now = Instant::now();
        self.watch.begin(now, now + MAX_HOUSEKEEPING, false);
        let result = self.token.backend.open();
        if self.watch.end() == End::WrittenOff {
            return Opened::WrittenOff;
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
                    OpenError::TooManySessions(_) => self.token.roster.cap(),
                    OpenError::Unavailable(_) | OpenError::PinRefused(_) | OpenError::Unfit(_) => {
                        let reason = || error.reason().to_owned();
                        if self.token.circuit.fault(Instant::now(), reason) {
                            self.fleet.given_up(self.token);
                        }
                    }
                }
                self.token.open_failed(Instant::now());
                self.token.keeper_signal.tell();
                Opened::Failed
            }
        }
    }

    /// Closes the session. False if that hung, and this thread is written off.
    fn close(&self, session: Box<dyn Session>) -> bool {
        let now = Instant::now();
        self.watch.begin(now, now + MAX_HOUSEKEEPING, false);
        drop(session);
        if self.watch.end() == End::WrittenOff {
            self.token.roster.written_off_returned();
            return false;
        }
        true
    }

    fn give_back(&self, pending: Option<Queued>) {
        if let Some(queued) = pending {
            self.fleet.give_back(self.token, queued);
            self.fleet.monitor_signal.tell();
        }
    }

    fn serve(&mut self, session: &mut dyn Session, pending: Option<Queued>) -> Next {
        let epoch = self.token.circuit.epoch();
        let mut pending = pending;
        loop {
            // The token was out of use since this session was opened: it is not to be trusted,
            // and all must be closed before the module can be initialised anew.
            if !self.is_trusted(epoch) {
                self.give_back(pending);
                return Next::Leave;
            }
            let queued = match pending.take().or_else(|| self.token.queue.take()) {
                Some(queued) => queued,
                None => {
                    self.send_held();
                    match self.rest(epoch) {
                        Rest::Work => continue,
                        Rest::Leave => return Next::Leave,
                    }
                }
            };
            match self.work(session, queued) {
                Done::GoOn => {}
                Done::Again(queued) => pending = Some(queued),
                Done::Stop(next) => return next,
            }
            if self.token.roster.is_crowded() && pending.is_none() {
                self.send_held();
                if self.rest(epoch) == Rest::Leave {
                    return Next::Leave;
                }
            }
        }
    }

    /// Whether the token has been in use since `epoch`.
    fn is_trusted(&self, epoch: u64) -> bool {
        self.token.circuit.is_usable() && self.token.circuit.epoch() == epoch
    }

    fn rest(&self, epoch: u64) -> Rest {
        // Whoever takes the token out of use wakes those who sleep, once it is: who has not gone to
        // sleep by then must not.
        let may_sleep = || self.is_trusted(epoch);
        self.token.roster.rest(&self.parker, &self.token.queue, may_sleep)
    }

    fn send_held(&self) {
        self.watch.held.lock().send_all(self.fleet);
    }

    fn work(&mut self, session: &mut dyn Session, mut queued: Queued) -> Done {
        let start = Instant::now();
        if start >= queued.job.deadline {
            self.token.counters.expired.fetch_add(1, Ordering::Relaxed);
            return Done::GoOn;
        }
        if queued.is_answered() {
            return Done::GoOn;
        }
        if self.comes_too_late(&queued, start) {
            self.token.counters.expired.fetch_add(1, Ordering::Relaxed);
            let token = Some(self.token.index);
            let queue_micros = micros(start.saturating_duration_since(queued.job.queued_at));
            self.answer(complete(queued, Err(Failure::TimedOut), token, queue_micros), start);
            return Done::GoOn;
        }
        if queued.attempts > 1 && queued.failure.is_some() {
            self.send_held();
            let wait = MIN_RETRY_BACKOFF * (1 << (queued.attempts - 2).min(16));
            std::thread::sleep(wait.min(MAX_RETRY_BACKOFF).min(queued.job.deadline - start));
        }
        // What is finished does not wait for a slow call.
        {
            let mut held = self.watch.held.lock();
            if held.is_due(start, self.token.pace.service()) {
                held.send_all(self.fleet);
            }
        }
        let start = Instant::now();
        let cpu = self.is_sample().then(thread_cpu_time);
        let until = queued.job.deadline.max(start + self.token.pace.hang());
        self.watch.begin_attempt(start, until, Attempt::at(&queued));
        let job = &mut queued.job;
        let result =
            catch_unwind(AssertUnwindSafe(|| session.perform(&job.request, &mut job.output)));
        let end = Instant::now();
        let (ended, race) = self.watch.end_attempt();
        if race.is_some() {
            queued.race = race;
        }
        match ended {
            End::InTime => {}
            End::Lent => self.token.roster.reclaim(),
            End::WrittenOff => {
                queued.job.output.zeroize();
                return Done::Stop(Next::WrittenOff);
            }
        }
        let service = end - start;
        queued.hsm_micros = queued.hsm_micros.saturating_add(micros(service));
        let queue_micros = micros(start.saturating_duration_since(queued.job.queued_at));
        let Ok(result) = result else {
            // A defect, or a backend's: the request is not tried again, since it would most likely
            // cost another session, and this session may be in the middle of something.
            tracing::error!(token = self.token.backend.identity().label, "an HSM call panicked");
            queued.job.output.zeroize();
            let token = Some(self.token.index);
            self.answer(complete(queued, Err(Failure::Defect), token, queue_micros), end);
            return Done::Stop(Next::Reopen(None));
        };
        match result {
            Ok(success) => {
                self.is_successor = false;
                if !matches!(queued.job.request.operation, Operation::Describe) {
                    self.token.pace.record(service, end);
                    self.token.latencies.record(service);
                    if let Some(cpu) = cpu {
                        let cpu = thread_cpu_time().saturating_sub(cpu);
                        if let Some(place) = self.token.pace.sample(cpu, service) {
                            self.token.settle(place);
                        }
                    }
                }
                self.token.circuit.success(end);
                self.fleet.clear_of_suspicion(&queued, end);
                let is_hedge = queued.is_hedge;
                let token = Some(self.token.index);
                let completion = complete(queued, Ok(success), token, queue_micros);
                if is_hedge && completion.is_some() {
                    self.token.counters.hedges_won.fetch_add(1, Ordering::Relaxed);
                }
                self.answer(completion, end);
                Done::GoOn
            }
            Err(fault) => {
                match fault.blame {
                    Blame::Request => self.token.circuit.success(end),
                    // Not known yet, or no outcome.
                    Blame::Suspect | Blame::Key => {}
                    Blame::Busy | Blame::Session | Blame::Token => {
                        self.token.counters.faults.fetch_add(1, Ordering::Relaxed);
                        // A pool of sessions that died together, say because the HSM was restarted,
                        // is no reason to give up a token on which new ones work.
                        let is_first = fault.blame == Blame::Session
                            && !std::mem::replace(&mut self.is_successor, true);
                        if is_first {
                            self.token.circuit.blemish(end);
                        } else if self.token.circuit.fault(end, || fault.failure.to_string()) {
                            self.fleet.given_up(self.token);
                        }
                    }
                }
                let mut answered = Vec::new();
                let back = self.fleet.failed(self.token, queued, fault, &mut answered);
                for mut completion in answered {
                    completion.queue_micros = queue_micros;
                    self.answer(Some(completion), end);
                }
                match (fault.breaks_session(), back) {
                    (true, back) => Done::Stop(Next::Reopen(back)),
                    (false, Some(queued)) => Done::Again(queued),
                    (false, None) => Done::GoOn,
                }
            }
        }
    }

    /// Whether the call would most likely end after its deadline, while others wait for whom it
    /// would not: then the HSM's time is theirs. A token so slow that no job would be in time is
    /// tried all the same, or nobody would notice when it is fast again.
    fn comes_too_late(&self, queued: &Queued, start: Instant) -> bool {
        let job = &queued.job;
        let service = self.token.pace.service();
        let whole = job.deadline.saturating_duration_since(job.queued_at);
        start + service > job.deadline && service * 4 < whole && !self.token.queue.is_empty()
    }

    /// Nothing is to be sent if another attempt at the request was faster.
    fn answer(&mut self, completion: Option<Completion>, now: Instant) {
        if let Some(completion) = completion {
            self.token.counters.answered.fetch_add(1, Ordering::Relaxed);
            self.watch.held.lock().add(completion, now);
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

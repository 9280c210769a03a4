//! A session's thread, which takes jobs, makes the HSM perform them, and sends the answers.

mod job_runner;

use std::cell::Cell;
use std::sync::Arc;

use super::backend::{KeyUse, OpenError, Session};
use super::fleet::Fleet;
use super::in_flight_call::{End, InFlightCall};
use super::queued::Queued;
use super::token::Token;
use super::worker_pool::{Parker, Wakeup};
use crate::limits::MAX_MAINTENANCE_CALL;
use crate::sync::clock;
use job_runner::{Done, JobRunner, Next};

/// Runs until the worker is no longer needed or has no session that it can use. The pool already
/// counts this worker, and `call` is registered with the monitor.
pub fn run(fleet: &Fleet, token: &Token, call: &Arc<InFlightCall>) {
    let runner = JobRunner::new(fleet, token, call);
    let mut worker = Worker { fleet, token, call, parker: Parker::current(), runner };
    let mut pending = None;
    loop {
        // Workers are started again once the token is usable. Until then no session may be left
        // open, or the module could not be initialized again.
        if !token.circuit_breaker.is_usable() {
            token.pool.leave();
            return worker.runner.requeue(pending);
        }
        match worker.open() {
            Opened::Session(mut session) => {
                token.pool.start_running();
                fleet.progress.notify();
                let next = worker.serve(session.as_mut(), pending.take());
                worker.runner.send_finished();
                match next {
                    Next::Reopen(job) => {
                        token.pool.stop_running();
                        pending = job;
                        if !worker.close(session) {
                            return worker.runner.requeue(pending);
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
                worker.runner.requeue(pending);
                // Other workers may be needed in place of this one, now or later.
                fleet.monitor_signal.notify();
                return;
            }
            Opened::Abandoned => {
                token.pool.abandoned_returned();
                return worker.runner.requeue(pending);
            }
        }
    }
}

struct Worker<'a> {
    fleet: &'a Fleet,
    token: &'a Token,
    call: &'a InFlightCall,
    parker: Arc<Parker>,
    runner: JobRunner<'a>,
}

enum Opened {
    Session(Box<dyn Session>),
    Failed,
    Abandoned,
}

impl Worker<'_> {
    fn open(&self) -> Opened {
        let now = clock::now();
        self.call.begin(now, now + MAX_MAINTENANCE_CALL, false);
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
                tracing::warn!(
                    token = label,
                    reason = error.reason(),
                    "cannot open an HSM session"
                );
                match error {
                    OpenError::TooManySessions(_) => self.token.pool.cap(),
                    OpenError::Unavailable(_) | OpenError::PinRefused(_) | OpenError::Unfit(_) => {
                        let reason = || error.reason().to_owned();
                        if self.token.circuit_breaker.count_fault(clock::now(), reason) {
                            self.fleet.on_circuit_opened(self.token);
                        }
                    }
                }
                self.token.open_failed(clock::now());
                self.token.checker_signal.notify();
                Opened::Failed
            }
        }
    }

    /// Closes the session. Returns false if that hung, in which case this thread has been
    /// abandoned.
    fn close(&self, session: Box<dyn Session>) -> bool {
        let now = clock::now();
        self.call.begin(now, now + MAX_MAINTENANCE_CALL, false);
        drop(session);
        if self.call.end().0 == End::Abandoned {
            self.token.pool.abandoned_returned();
            return false;
        }
        true
    }

    fn serve(&mut self, session: &mut dyn Session, pending: Option<Queued>) -> Next {
        let epoch = self.token.circuit_breaker.epoch();
        let mut pending = pending;
        loop {
            // The token has been out of use since this session was opened, so the session is
            // unreliable, and all sessions must be closed before the module can be initialized
            // again.
            if !self.is_trusted(epoch) {
                self.runner.requeue(pending);
                return Next::Leave;
            }
            let queued = match pending.take().or_else(|| self.next_job()) {
                Some(queued) => queued,
                None => {
                    self.runner.send_finished();
                    match self.wait_for_work(epoch) {
                        Wakeup::Work => continue,
                        Wakeup::Leave => return Next::Leave,
                    }
                }
            };
            match self.runner.work(session, queued) {
                Done::GoOn => {}
                Done::Again(queued) => pending = Some(queued),
                Done::Stop(next) => return next,
            }
            if self.token.pool.is_over_limit() && pending.is_none() {
                self.runner.send_finished();
                if self.wait_for_work(epoch) == Wakeup::Leave {
                    return Next::Leave;
                }
            }
        }
    }

    /// Returns whether the token has been in use without interruption since `epoch`.
    fn is_trusted(&self, epoch: u64) -> bool {
        self.token.circuit_breaker.is_usable() && self.token.circuit_breaker.epoch() == epoch
    }

    fn wait_for_work(&self, epoch: u64) -> Wakeup {
        // Taking the token out of use wakes the workers that are idle then, so a worker must not go
        // to sleep afterwards.
        let may_sleep = || self.is_trusted(epoch);
        self.token.pool.wait_for_work(&self.parker, &self.token.queue, may_sleep)
    }

    /// Returns the next job. A job is deferred if slow calls with its key already take up that
    /// key's share of the sessions.
    fn next_job(&self) -> Option<Queued> {
        let hangs = &self.token.hangs;
        if !hangs.is_any() && self.token.deferred.is_empty() {
            return self.token.queue.take();
        }
        let (now, is_stopping) = (clock::now(), self.fleet.is_stopping());
        // Of consecutive requests with the same key, only the first is checked.
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
}

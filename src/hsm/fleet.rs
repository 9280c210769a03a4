//! All tokens of the HSM side, and the queueing and moving of jobs between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::config::{HedgeAfter, Hedging};
use super::hedge_budget::HedgeBudget;
use super::outbox::Inboxes;
use super::queued::Queued;
use super::selection::{Candidate, best_for, select};
use super::signal::Signal;
use super::token::Token;
use super::token_set::TokenSet;
use super::witness::Witnesses;
use crate::job::{CompletionQueue, Failure, FleetHealth, Job};
use crate::limits::MAX_TOKENS;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::clock;

/// The tokens, and the state that they share.
pub struct Fleet {
    /// The tokens, by [`crate::job::TokenIndex`].
    pub tokens: Box<[Token]>,
    /// The event loops' inboxes.
    pub inboxes: Inboxes,
    /// The setting that determines when a slow call is repeated on another session.
    pub hedge_after: HedgeAfter,
    /// The limit on how often slow calls may be repeated.
    pub hedge_budget: HedgeBudget,
    /// The witnesses with which tokens prove that they hold the same keys.
    pub witnesses: Arc<Witnesses>,
    /// Number that distinguishes this fleet from others that share the witnesses.
    pub number: u32,
    /// Time at which the first connection to a token was begun.
    pub start: Instant,
    /// The health that was published most recently.
    pub health: ArcSwap<FleetHealth>,
    /// Wakes the monitor.
    pub monitor_signal: Signal,
    /// True if the fleet is being stopped and accepts no more jobs.
    pub is_stopping: AtomicBool,
    /// True once the fleet no longer serves its queues: a job that is queued from then on is answered
    /// by the thread that queues it.
    has_stopped: AtomicBool,
    /// Number of the fleet's threads that are alive.
    pub threads: AtomicUsize,
    /// Notifies the thread that stops the fleet when a thread ends, and the thread that starts the
    /// fleet when a token has been tried for the first time.
    pub progress: Signal,
}

impl Fleet {
    /// Creates the fleet.
    #[must_use]
    pub fn new(
        tokens: Vec<Token>,
        hedging: Hedging,
        (witnesses, number): (Arc<Witnesses>, u32),
        inboxes: Vec<Arc<CompletionQueue>>,
    ) -> Self {
        debug_assert!(tokens.len() <= MAX_TOKENS);
        Self {
            tokens: tokens.into_boxed_slice(),
            inboxes: Inboxes::new(inboxes),
            hedge_after: hedging.after,
            hedge_budget: HedgeBudget::new(hedging.budget_percent),
            witnesses,
            number,
            start: clock::now(),
            health: ArcSwap::default(),
            monitor_signal: Signal::default(),
            is_stopping: AtomicBool::new(false),
            has_stopped: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
            progress: Signal::default(),
        }
    }

    /// Returns whether the fleet is being stopped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Queues jobs, emptying `jobs`. Jobs that no token can complete in time are added to
    /// `refused`.
    pub fn submit(&self, jobs: &mut Vec<Job>, refused: &mut Vec<(Job, Failure)>) {
        if jobs.is_empty() {
            return;
        }
        let now = clock::now();
        let is_stopping = self.is_stopping();
        self.hedge_budget.earn(jobs.len());
        // Each token is inspected once for the whole batch.
        let mut candidates: [Option<Candidate<'_>>; MAX_TOKENS] = [const { None }; MAX_TOKENS];
        for (token, candidate) in self.tokens.iter().zip(&mut candidates) {
            if token.circuit_breaker.is_usable() && !is_stopping {
                *candidate = Some(Candidate::of(token));
            }
        }
        for job in jobs.drain(..) {
            match select(&self.tokens, &mut candidates, &job, now) {
                Ok(candidate) => {
                    let is_trial = std::mem::take(&mut candidate.is_trial);
                    match candidate.token.queue.push(job, is_trial) {
                        Ok(()) => candidate.pushed += 1,
                        Err(job) => refused.push((job, Failure::Overloaded)),
                    }
                }
                Err(failure) => refused.push((job, failure)),
            }
        }
        let mut are_more_wanted = false;
        for (token, candidate) in self.tokens.iter().zip(candidates) {
            let pushed = candidate.map_or(0, |candidate| candidate.pushed);
            if pushed > 0 {
                are_more_wanted |= token.pool.wake(pushed);
                self.serve_late_jobs(token);
            }
        }
        if are_more_wanted {
            self.monitor_signal.notify();
        } else {
            self.monitor_signal.notify_if_waiting();
        }
    }

    /// Returns whether every token in use computes in this process and has more waiting jobs than its
    /// sessions do in `wait`.
    #[must_use]
    pub fn lacks_cpu(&self, wait: Duration) -> bool {
        let mut usable = self.tokens.iter().filter(|token| token.circuit_breaker.is_usable());
        usable.next().is_some_and(|first| first.lacks_cpu(wait))
            && usable.all(|token| token.lacks_cpu(wait))
    }

    /// Queues the job at a token other than `from`: one that has not tried it yet, or, if all have,
    /// one that may succeed now.
    ///
    /// # Errors
    /// Returns the job if there is no such token.
    pub fn reassign(&self, from: &Token, mut queued: Queued) -> Result<(), Queued> {
        let mut other =
            best_for(&self.tokens, &queued.job.request, queued.tried.union(queued.lacking));
        if other.is_none() {
            queued.tried = TokenSet::of(from.index);
            other = best_for(&self.tokens, &queued.job.request, queued.tried.union(queued.lacking));
        }
        match other {
            Some(token) => self.push_first(token, queued),
            None => Err(queued),
        }
    }

    /// Queues the job at that token, ahead of all others.
    ///
    /// # Errors
    /// Returns the job if there is no room.
    pub fn push_first(&self, token: &Token, queued: Queued) -> Result<(), Queued> {
        token.queue.push_front(queued)?;
        if token.pool.wake(1) {
            self.monitor_signal.notify();
        } else {
            self.monitor_signal.notify_if_waiting();
        }
        self.serve_late_jobs(token);
        Ok(())
    }

    /// Empties a queue that nothing else will empty, after a job was pushed: since it was selected,
    /// the token may have been taken out of service, or the fleet have stopped.
    fn serve_late_jobs(&self, token: &Token) {
        if !token.circuit_breaker.is_usable() {
            self.evacuate(token);
        }
        if self.has_stopped.load(Ordering::Acquire) {
            self.answer_waiting(token);
        }
    }

    /// Answers the jobs that still wait, now that the fleet no longer serves its queues.
    pub fn stop_serving(&self) {
        // Before the queues are emptied, so that a job that is pushed afterwards is noticed.
        self.has_stopped.store(true, Ordering::Release);
        self.tokens.iter().for_each(|token| self.answer_waiting(token));
    }

    fn answer_waiting(&self, token: &Token) {
        for queued in token.drain() {
            self.inboxes.send(queued.complete(Err(Failure::NoToken), None, 0));
        }
    }

    /// Moves all jobs of a token that is out of service to other tokens, or answers them.
    pub fn evacuate(&self, token: &Token) {
        for mut queued in token.drain_unexpired(clock::now()) {
            queued.tried.insert(token.index);
            if let Err(queued) = self.reassign(token, queued) {
                self.inboxes.send(queued.complete(Err(Failure::NoToken), Some(token.index), 0));
            }
        }
    }

    /// Puts a job that a worker cannot do back at the front of the token's queue.
    pub fn requeue(&self, token: &Token, queued: Queued) {
        match token.queue.push_front(queued) {
            Ok(()) => {
                token.pool.wake(1);
                self.serve_late_jobs(token);
            }
            Err(queued) => {
                let failure = Err(queued.failure.unwrap_or(Failure::Overloaded));
                self.inboxes.send(queued.complete(failure, Some(token.index), 0));
            }
        }
    }

    /// Opens the token's circuit breaker and handles the consequences.
    pub fn take_out_of_service(&self, token: &Token, reason: String) {
        if token.circuit_breaker.open(reason) {
            self.on_circuit_opened(token);
        }
    }

    /// Handles the consequences of the opening of the token's circuit breaker.
    pub fn on_circuit_opened(&self, token: &Token) {
        let reason = token.circuit_breaker.reason().unwrap_or_default();
        let label = token.backend.identity().label;
        tracing::error!(token = label, reason, "HSM token out of use");
        self.evacuate(token);
        // Woken idle workers close their sessions.
        token.pool.wake_all();
        token.checker_signal.notify();
        self.monitor_signal.notify();
    }
}

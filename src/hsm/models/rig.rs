//! A fleet of model tokens, with callers that take the part of the event loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::token::{ModelBackend, ModelToken};
use crate::hsm::Hsm;
use crate::hsm::backend::Direction;
use crate::hsm::config::{HedgeAfter, Hedging};
use crate::hsm::fleet::Fleet;
use crate::hsm::monitor;
use crate::hsm::signal::Signal;
use crate::hsm::token::{Share, Token};
use crate::hsm::worker_pool::WorkerCounts;
use crate::job::{
    Completion, CompletionQueue, Failure, Iv, Job, KeyIndex, Operation, ReplyTo, Request, Success,
    TokenIndex,
};
use crate::sync::{clock, thread};

/// A deadline that no scenario reaches unless it moves the clock that far.
pub const LONG: Duration = Duration::from_secs(3600);
/// Time that a request has.
pub const REQUEST: Duration = Duration::from_millis(250);
/// Cores that no event loop uses up, so that all sessions may be active.
const CORES: usize = 4;

/// A fleet whose tokens are in use. There is neither a monitor nor a health checker unless the
/// scenario starts them.
pub struct Rig {
    pub hsm: Hsm,
    pub tokens: Vec<Arc<ModelToken>>,
    inboxes: Vec<Arc<CompletionQueue>>,
    signals: Vec<Arc<Signal>>,
}

impl Rig {
    /// Creates a fleet of these tokens, each with its maximum number of sessions, and event loops.
    pub fn new(tokens: &[(&Arc<ModelToken>, usize)], event_loops: usize) -> Self {
        let signals: Vec<_> = (0..event_loops).map(|_| Arc::new(Signal::default())).collect();
        let inbox = |signal: &Arc<Signal>| {
            let signal = Arc::clone(signal);
            Arc::new(CompletionQueue::of_caller(move || signal.notify()))
        };
        let inboxes: Vec<_> = signals.iter().map(inbox).collect();
        let start = clock::now();
        let made = (0..).zip(tokens).map(|(index, (token, sessions))| {
            let backend = Box::new(ModelBackend(Arc::clone(token)));
            let share = Share::of_sessions(*sessions);
            Token::new(TokenIndex(index), backend, share, CORES, start)
        });
        let hedging = Hedging { after: HedgeAfter::Automatic, ..Hedging::default() };
        let fleet = Fleet::new(made.collect(), hedging, (Arc::default(), 0), inboxes.clone());
        for token in &fleet.tokens {
            assert!(token.circuit_breaker.close());
            token.checker.lock().checked_at = Some(start);
        }
        let tokens = tokens.iter().map(|(token, _)| Arc::clone(token)).collect();
        Self { hsm: Hsm { fleet: Arc::new(fleet) }, tokens, inboxes, signals }
    }

    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.hsm.fleet
    }

    pub fn token(&self, index: usize) -> &Token {
        &self.hsm.fleet.tokens[index]
    }

    /// Starts workers of a token.
    pub fn start_workers(&self, token: usize, count: usize) {
        let added = self.token(token).pool.grow(count);
        assert_eq!(added, count);
        for _ in 0..added {
            monitor::start_worker(self.fleet(), token).unwrap();
        }
    }

    /// Waits until that many workers of the token have sessions.
    pub fn wait_for_sessions(&self, token: usize, sessions: usize) {
        let has_them = |counts: WorkerCounts| counts.running + counts.idle >= sessions;
        while !has_them(self.token(token).pool.counts()) {
            self.fleet().progress.wait_until(clock::now() + LONG);
        }
    }

    /// Runs one turn of the monitor for each token.
    pub fn inspect(&self) {
        inspect(self.fleet());
    }

    /// Does something while the monitor inspects calls and starts workers. Time stands still.
    pub fn while_inspected<T>(&self, action: impl FnOnce() -> T) -> T {
        let fleet = Arc::clone(self.fleet());
        beside(move || inspect(&fleet), action)
    }

    pub fn caller(&self, event_loop: usize) -> Caller {
        Caller {
            fleet: Arc::clone(self.fleet()),
            event_loop: u16::try_from(event_loop).unwrap(),
            inbox: Arc::clone(&self.inboxes[event_loop]),
            signal: Arc::clone(&self.signals[event_loop]),
            accepted: Vec::new(),
            refused: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Stops the fleet. Afterwards no thread, session, job or count may be left.
    pub fn stop(&self) {
        while_time_passes(|| assert!(self.hsm.stop(LONG), "the fleet has not stopped"));
        self.assert_over();
    }

    /// Asserts that nothing is left.
    pub fn assert_over(&self) {
        let fleet = self.fleet();
        assert_eq!(fleet.threads.load(Ordering::SeqCst), 0);
        for token in &fleet.tokens {
            let counts = token.pool.counts();
            let none = WorkerCounts { limit: counts.limit, ..WorkerCounts::default() };
            assert_eq!(WorkerCounts { free_slots: 0, ..counts }, none);
            assert_eq!(token.pool.signed_counts(), (0, 0), "stalled, abandoned");
            assert_eq!((token.queue.len(), token.deferred.len()), (0, 0));
            assert!(!token.hangs.is_any());
        }
        self.tokens.iter().for_each(|token| token.assert_released());
    }
}

/// Runs one turn of the monitor for each token of the fleet.
pub fn inspect(fleet: &Arc<Fleet>) {
    let hedge_after = Some(Duration::from_millis(10));
    for index in 0..fleet.tokens.len() {
        monitor::inspect_token(fleet, index, clock::now(), hedge_after);
    }
}

/// Does something while the clock moves from the end of one wait to that of the next.
pub fn while_time_passes<T>(action: impl FnOnce() -> T) -> T {
    beside(|| clock::advance_to_next(LONG / 2), action)
}

/// Does something while another thread does its turns.
fn beside<T>(turn: impl Fn() + Send + 'static, action: impl FnOnce() -> T) -> T {
    let is_over = Arc::new(AtomicBool::new(false));
    let other = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                turn();
                thread::yield_now();
            }
        }
    });
    let result = action();
    is_over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    result
}

/// An answer, without what does not matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub serial: u64,
    pub outcome: Result<Success, Failure>,
    pub token: Option<u16>,
}

/// What an event loop does with the HSM: submits jobs, and takes answers from its inbox.
pub struct Caller {
    fleet: Arc<Fleet>,
    event_loop: u16,
    inbox: Arc<CompletionQueue>,
    signal: Arc<Signal>,
    accepted: Vec<u64>,
    refused: Vec<(u64, Failure)>,
    answers: Vec<Answer>,
}

impl Caller {
    /// Submits jobs that have all the time in the world.
    pub fn submit(&mut self, serials: &[u64]) {
        self.submit_within(serials, LONG);
    }

    /// Submits jobs that have that time. Those that are refused are not waited for.
    pub fn submit_within(&mut self, serials: &[u64], time: Duration) {
        self.submit_with_key(serials, time, KeyIndex(0));
    }

    /// Submits jobs with that key.
    pub fn submit_with_key(&mut self, serials: &[u64], time: Duration, key: KeyIndex) {
        let now = clock::now();
        let job = |serial: &u64| Job {
            request: Arc::new(Request {
                operation: Operation::Decrypt { iv: Iv::default() },
                key,
                input: serial.to_le_bytes().to_vec(),
                ..Request::default()
            }),
            output: Vec::new().into(),
            reply_to: ReplyTo { event_loop: self.event_loop, slot: 0, serial: *serial },
            queued_at: now,
            deadline: now + time,
        };
        let mut jobs: Vec<_> = serials.iter().map(job).collect();
        let mut refused = Vec::new();
        self.fleet.submit(&mut jobs, &mut refused);
        assert!(jobs.is_empty());
        let refused: Vec<_> =
            refused.into_iter().map(|(job, why)| (job.reply_to.serial, why)).collect();
        let is_refused = |serial: &u64| refused.iter().any(|(other, _)| other == serial);
        self.accepted.extend(serials.iter().filter(|serial| !is_refused(serial)));
        self.refused.extend(refused);
    }

    /// Takes what has arrived. Asserts that each answer is the first to a job that was accepted, and
    /// has the job's own bytes.
    fn take(&mut self) {
        let mut arrived = Vec::new();
        self.inbox.take(&mut arrived);
        for completion in arrived {
            let Completion { reply_to, outcome, output, token, .. } = completion;
            let serial = reply_to.serial;
            assert!(self.answers.iter().all(|other| other.serial != serial), "answered twice");
            assert!(self.accepted.contains(&serial), "answered though it was refused");
            match outcome {
                Ok(_) => assert_eq!(**output, serial.to_le_bytes(), "another job's answer"),
                Err(_) => assert!(output.is_empty()),
            }
            self.answers.push(Answer { serial, outcome, token: token.map(|token| token.0) });
        }
    }

    /// Waits until all accepted jobs are answered, without a time-out: if an answer or a wake-up is
    /// lost, the scenario ends in a deadlock.
    pub fn wait(&mut self) {
        self.wait_for(self.accepted.len());
    }

    /// Waits for that number of answers in all.
    pub fn wait_for(&mut self, answers: usize) {
        loop {
            self.take();
            if self.answers.len() >= answers {
                return;
            }
            self.signal.wait_until(clock::now() + LONG);
        }
    }

    /// Waits for the answer to that job.
    pub fn wait_for_serial(&mut self, serial: u64) {
        loop {
            self.take();
            if self.answers.iter().any(|answer| answer.serial == serial) {
                return;
            }
            self.signal.wait_until(clock::now() + LONG);
        }
    }

    /// Returns all answers. Asserts that each accepted job has been answered once.
    pub fn finish(mut self) -> Vec<Answer> {
        self.take();
        assert_eq!(self.answers.len(), self.accepted.len(), "lost: {:?}", self.accepted);
        self.answers
    }

    /// Returns all answers. Asserts that none was given twice.
    pub fn finish_with_lost(mut self) -> Vec<Answer> {
        self.take();
        self.answers
    }

    /// Returns the refused jobs.
    pub fn refused(&self) -> &[(u64, Failure)] {
        &self.refused
    }
}

/// Asserts that all answers are good.
pub fn assert_good(answers: &[Answer]) {
    assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
}

/// The use of a key in the scenarios.
pub const KEY: (KeyIndex, Direction) = (KeyIndex(0), Direction::Decrypt);

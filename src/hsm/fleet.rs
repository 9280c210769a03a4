//! All tokens: which one gets a job, and what becomes of a job that failed at one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::backend::{Blame, Fault};
use super::queue::Queued;
use super::signal::Signal;
use super::token::{Load, Token};
use crate::job::{Completion, CompletionQueue, Failure, FleetHealth, Job, Success, TokenIndex};
use crate::limits::{MAX_ATTEMPTS, MAX_TOKENS};

/// The tokens and the way back to the event loops.
pub struct Fleet {
    /// By [`TokenIndex`].
    pub tokens: Box<[Token]>,
    /// By event loop.
    inboxes: Vec<Arc<CompletionQueue>>,
    /// As last published.
    pub health: ArcSwap<FleetHealth>,
    /// Wakes the monitor.
    pub monitor_signal: Signal,
    /// There will be no more jobs.
    pub is_stopping: AtomicBool,
    /// Threads of the fleet that are alive.
    pub threads: AtomicUsize,
    /// Tells the one that stops the fleet of a thread's end, and the one that starts it of a
    /// token's first attempt.
    pub progress: Signal,
}

impl Fleet {
    /// With those tokens and inboxes.
    #[must_use]
    pub fn new(tokens: Vec<Token>, inboxes: Vec<Arc<CompletionQueue>>) -> Self {
        debug_assert!(tokens.len() <= MAX_TOKENS);
        Self {
            tokens: tokens.into_boxed_slice(),
            inboxes,
            health: ArcSwap::default(),
            monitor_signal: Signal::default(),
            is_stopping: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
            progress: Signal::default(),
        }
    }

    /// Whether [`Self::is_stopping`] was set.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Queues jobs, emptying `jobs`; what no token can take in time goes into `refused`.
    pub fn submit(&self, jobs: &mut Vec<Job>, refused: &mut Vec<(Job, Failure)>) {
        if jobs.is_empty() {
            return;
        }
        let now = Instant::now();
        let is_stopping = self.is_stopping();
        // One look at each token for all jobs of this turn.
        let mut offers: [Option<Offer<'_>>; MAX_TOKENS] = [const { None }; MAX_TOKENS];
        for (token, offer) in self.tokens.iter().zip(&mut offers) {
            if token.circuit.is_usable() && !is_stopping {
                *offer = Some(Offer::of(token));
            }
        }
        for job in jobs.drain(..) {
            match self.choose(&mut offers, &job, now) {
                Ok(offer) => match offer.token.queue.push(job) {
                    Ok(()) => offer.pushed += 1,
                    Err(job) => refused.push((job, Failure::Overloaded)),
                },
                Err(failure) => refused.push((job, failure)),
            }
        }
        let mut are_more_wanted = false;
        for (token, offer) in self.tokens.iter().zip(offers) {
            let pushed = offer.map_or(0, |offer| offer.pushed);
            if pushed > 0 {
                are_more_wanted |= token.roster.wake(pushed);
                // It may have been given up in the meantime, and its queue emptied before these.
                if !token.circuit.is_usable() {
                    self.evacuate(token);
                }
            }
        }
        if are_more_wanted {
            self.monitor_signal.tell();
        } else {
            self.monitor_signal.tell_if_waiting();
        }
    }

    /// The token on which the job waits least, of those that have its key.
    fn choose<'o, 'f>(
        &self,
        offers: &'o mut [Option<Offer<'f>>; MAX_TOKENS],
        job: &Job,
        now: Instant,
    ) -> Result<&'o mut Offer<'f>, Failure> {
        let is_sole = self.tokens.len() == 1;
        let mut is_any_usable = false;
        let mut best = None;
        for offer in offers.iter_mut().flatten() {
            let token = offer.token;
            is_any_usable = true;
            let Some(wait) = offer.wait(job.deadline, now) else { continue };
            let lacks_key = !is_sole && !token.backend.has_key(job.request.key);
            let is_trickling = !is_sole && token.circuit.is_trickling() && !wait.is_zero();
            let rank = (lacks_key, is_trickling, wait);
            if best.as_ref().is_none_or(|(best_rank, _)| rank < *best_rank) {
                best = Some((rank, offer));
            }
        }
        match best {
            Some((_, offer)) => Ok(offer),
            None if is_any_usable => Err(Failure::Overloaded),
            None => Err(Failure::NoToken),
        }
    }

    /// Takes in that `token` failed at the job. Gives it back if the same token is to try again;
    /// else it is with another token, or in `answered`.
    pub fn failed(
        &self,
        token: &Token,
        mut queued: Queued,
        fault: Fault,
        answered: &mut Vec<Completion>,
    ) -> Option<Queued> {
        queued.attempts += 1;
        if fault.blame != Blame::Key {
            queued.failure.get_or_insert(fault.failure);
        }
        let now = Instant::now();
        if fault.blame == Blame::Request {
            answered.push(complete(queued, Err(fault.failure), Some(token.index), 0));
            return None;
        }
        if now >= queued.job.deadline {
            // The loop has answered by its timer.
            token.counters.expired.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        queued.tried |= bit(token.index);
        let may_retry = queued.attempts < MAX_ATTEMPTS && !self.is_stopping();
        if may_retry {
            token.counters.retried.fetch_add(1, Ordering::Relaxed);
            match self.pass_on(queued) {
                Ok(()) => return None,
                Err(back) => queued = back,
            }
            if fault.blame != Blame::Key && token.circuit.is_usable() {
                return Some(queued);
            }
        }
        let failure = queued.failure.unwrap_or_else(|| self.not_found());
        answered.push(complete(queued, Err(failure), Some(token.index), 0));
        None
    }

    /// No token in use has the key; one that is not in use may have it.
    fn not_found(&self) -> Failure {
        if self.tokens.iter().all(|token| token.circuit.is_usable()) {
            Failure::KeyNotFound
        } else {
            Failure::NoToken
        }
    }

    /// Queues the job at a token that has not tried it yet.
    fn pass_on(&self, mut queued: Queued) -> Result<(), Queued> {
        let key = queued.job.request.key;
        let candidates = self
            .tokens
            .iter()
            .filter(|token| queued.tried & bit(token.index) == 0 && token.circuit.is_usable());
        let best = candidates.min_by_key(|token| {
            (!token.backend.has_key(key), token.load().wait(token.queue.len()))
        });
        let Some(token) = best else { return Err(queued) };
        queued = match token.queue.push_front(queued) {
            Ok(()) => {
                if token.roster.wake(1) {
                    self.monitor_signal.tell();
                } else {
                    self.monitor_signal.tell_if_waiting();
                }
                return Ok(());
            }
            Err(queued) => queued,
        };
        Err(queued)
    }

    /// The token is of no use at present: what waits for it goes to others, or is answered.
    pub fn evacuate(&self, token: &Token) {
        let now = Instant::now();
        for mut queued in token.queue.drain() {
            if now >= queued.job.deadline {
                token.counters.expired.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            queued.tried |= bit(token.index);
            if let Err(queued) = self.pass_on(queued) {
                let failure = queued.failure.unwrap_or(Failure::NoToken);
                self.answer(complete(queued, Err(failure), Some(token.index), 0));
            }
        }
    }

    /// A worker of the token can't do the job that it holds: it goes back to where it came from.
    pub fn give_back(&self, token: &Token, queued: Queued) {
        match token.queue.push_front(queued) {
            Ok(()) => {
                token.roster.wake(1);
                // If the token was given up, nobody else empties its queue.
                if !token.circuit.is_usable() {
                    self.evacuate(token);
                }
            }
            Err(queued) => {
                let failure = Err(queued.failure.unwrap_or(Failure::Overloaded));
                self.answer(complete(queued, failure, Some(token.index), 0));
            }
        }
        self.monitor_signal.tell();
    }

    /// Opens the token's circuit, with all that follows.
    pub fn give_up(&self, token: &Token, reason: String) {
        if token.circuit.open(reason) {
            self.given_up(token);
        }
    }

    /// The token's circuit has just been opened.
    pub fn given_up(&self, token: &Token) {
        let reason = token.circuit.reason().unwrap_or_default();
        let label = token.backend.identity().label;
        tracing::error!(token = label, reason, "HSM token out of use");
        self.evacuate(token);
        // Those who sleep close their sessions.
        token.roster.rouse();
        token.keeper_signal.tell();
        self.monitor_signal.tell();
    }

    /// Sends one answer.
    pub fn answer(&self, completion: Completion) {
        let event_loop = usize::from(completion.reply_to.event_loop);
        self.send(event_loop, &mut vec![completion]);
    }

    /// Sends answers that are all of one event loop.
    pub fn send(&self, event_loop: usize, completions: &mut Vec<Completion>) {
        match self.inboxes.get(event_loop) {
            Some(inbox) => inbox.push(completions),
            None => completions.clear(),
        }
    }

    /// How many event loops there are.
    #[must_use]
    pub fn event_loops(&self) -> usize {
        self.inboxes.len()
    }
}

/// One token's queue in one turn of an event loop, and how long a job would wait in it.
struct Offer<'a> {
    token: &'a Token,
    /// Before this turn.
    waiting: usize,
    /// In this turn.
    pushed: usize,
    load: Load,
}

impl<'a> Offer<'a> {
    fn of(token: &'a Token) -> Self {
        Self { token, waiting: token.queue.len(), pushed: 0, load: token.load() }
    }

    /// How long one more job would wait; `None` if that is too long, or there is no room.
    fn wait(&self, deadline: Instant, now: Instant) -> Option<Duration> {
        let ahead = self.waiting + self.pushed;
        let wait = self.load.wait(ahead);
        // Half in hand for what an average doesn't know: a job that is taken and not done in time
        // has cost the others its turn. A session that is free tries, however slow the token was
        // before.
        let end = now + wait + wait / 2 + self.load.service * 2;
        let is_in_time = wait.is_zero() || end <= deadline;
        (is_in_time && self.token.queue.has_room()).then_some(wait)
    }
}

const fn bit(index: TokenIndex) -> u32 {
    1 << (index.0 % 32)
}

/// The answer to a job. The request is let go of before the answer is sent, so that the loop can
/// use its memory again.
#[must_use]
pub fn complete(
    queued: Queued,
    outcome: Result<Success, Failure>,
    token: Option<TokenIndex>,
    queue_micros: u32,
) -> Completion {
    let Job { output, reply_to, .. } = queued.job;
    Completion { reply_to, outcome, output, token, queue_micros, hsm_micros: queued.hsm_micros }
}

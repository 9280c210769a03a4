//! All tokens: which one gets a job, and what becomes of a job that failed at one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::attribution::FaultScope;
use super::backend::{Blame, Direction, Fault, KeyStatus};
use super::config::Hedging;
use super::hedge::Hedger;
use super::key_breaker::Admission;
use super::queue::{Queued, TokenSet};
use super::selection::Candidate;
use super::signal::Signal;
use super::token::Token;
use super::witness::Witnesses;
use crate::job::{Completion, CompletionQueue, Failure, FleetHealth, Job, Success, TokenIndex};
use crate::limits::{
    ATTEMPTS_BEFORE_ATTRIBUTION, MAX_ATTEMPTS, MAX_SUSPICIONS, MAX_TOKENS, SUSPICIONS,
};

/// The tokens and the way back to the event loops.
pub struct Fleet {
    /// By [`TokenIndex`].
    pub tokens: Box<[Token]>,
    /// By event loop.
    inboxes: Vec<Arc<CompletionQueue>>,
    /// When calls are made a second time.
    pub hedger: Hedger,
    /// By which tokens show that they hold the same keys.
    pub witnesses: Arc<Witnesses>,
    /// As the witnesses count fleets.
    pub number: u32,
    /// When the first token was connected to.
    pub start: Instant,
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
    pub fn new(
        tokens: Vec<Token>,
        hedging: Hedging,
        (witnesses, number): (Arc<Witnesses>, u32),
        inboxes: Vec<Arc<CompletionQueue>>,
    ) -> Self {
        debug_assert!(tokens.len() <= MAX_TOKENS);
        Self {
            tokens: tokens.into_boxed_slice(),
            inboxes,
            hedger: Hedger::new(hedging),
            witnesses,
            number,
            start: Instant::now(),
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
        self.hedger.earn(jobs.len());
        // One look at each token for all jobs of this turn.
        let mut candidates: [Option<Candidate<'_>>; MAX_TOKENS] = [const { None }; MAX_TOKENS];
        for (token, candidate) in self.tokens.iter().zip(&mut candidates) {
            if token.circuit_breaker.is_usable() && !is_stopping {
                *candidate = Some(Candidate::of(token));
            }
        }
        for job in jobs.drain(..) {
            match self.select(&mut candidates, &job, now) {
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
                // It may have been given up in the meantime, and its queue emptied before these.
                if !token.circuit_breaker.is_usable() {
                    self.evacuate(token);
                }
            }
        }
        if are_more_wanted {
            self.monitor_signal.notify();
        } else {
            self.monitor_signal.notify_if_waiting();
        }
    }

    /// Takes in that `token` failed at the job in a way that says nothing of the token: it is
    /// answered, goes to another token, or comes back to be tried again on the same one. What is
    /// answered is in `answered`.
    pub fn failed(
        &self,
        token: &Token,
        mut queued: Queued,
        fault: Fault,
        answered: &mut Vec<Completion>,
    ) -> Option<Queued> {
        let now = Instant::now();
        match fault.blame {
            Blame::Request => self.answered_by(token, queued, fault, answered),
            _ if now >= queued.job.deadline => token.record_expired(&queued.job),
            Blame::Suspect => return self.on_suspected_ciphertext(token, queued, now, answered),
            Blame::Key | Blame::Busy | Blame::Session | Blame::Token => {
                queued.attempts += 1;
                queued.lacking |= bit(token.index);
                if fault.failure == Failure::KeysDiffer {
                    queued.failure.get_or_insert(fault.failure);
                }
                if queued.attempts < MAX_ATTEMPTS && !self.is_stopping() {
                    token.counters.retried.fetch_add(1, Ordering::Relaxed);
                    match self.reassign(token, queued) {
                        Ok(()) => return None,
                        Err(back) => queued = back,
                    }
                }
                self.answer_with_final_failure(token, queued, answered);
            }
        }
        None
    }

    /// Answers a request whose own fault it is, unless another make of HSM may do what this token
    /// will not do at all.
    fn answered_by(
        &self,
        token: &Token,
        mut queued: Queued,
        fault: Fault,
        answered: &mut Vec<Completion>,
    ) {
        if fault.failure == Failure::InvalidCiphertext {
            return self.on_bad_ciphertext(token, queued, answered);
        }
        if matches!(fault.failure, Failure::Pkcs11(_) | Failure::Malformed) {
            queued.lacking |= bit(token.index);
            queued.failure.get_or_insert(fault.failure);
            let not_these = queued.tried | queued.lacking;
            if let Some(other) = self.best_for(&queued.job.request, not_these) {
                match self.push_first(other, queued) {
                    Ok(()) => return,
                    Err(back) => queued = back,
                }
            }
        }
        answered.extend(complete(queued, Err(fault.failure), Some(token.index), 0));
    }

    /// Takes in that `token` is sure that the ciphertext is bad. A token that may hold another key
    /// under the label is asked then, which may have made it; and where no token said so whose key
    /// is proven, and one could not be asked, nobody knows.
    fn on_bad_ciphertext(&self, token: &Token, mut queued: Queued, answered: &mut Vec<Completion>) {
        let bad = Failure::InvalidCiphertext;
        let key = queued.job.request.key;
        let status = |it: &Token| it.backend.key_status(key, Some(Direction::Decrypt));
        queued.lacking |= bit(token.index);
        if status(token) == KeyStatus::Proven {
            queued.failure = Some(bad);
        }
        let is_certain = queued.failure == Some(bad);
        // A token with the same key says the same.
        let same = self.tokens.iter().filter(|it| is_certain && status(it) == KeyStatus::Proven);
        let not_these = same.fold(queued.lacking, |all, it| all | bit(it.index));
        if let Some(other) = self.best_for(&queued.job.request, not_these) {
            match self.push_first(other, queued) {
                Ok(()) => return,
                Err(back) => queued = back,
            }
        }
        // A token that is out of use and is known to hold another key may have made it.
        let may_have_made = |it: &Token| {
            let is_asked = queued.lacking & bit(it.index) != 0;
            !it.circuit_breaker.is_usable() && !is_asked && status(it) == KeyStatus::Disagrees
        };
        let failure = match is_certain {
            true if self.tokens.iter().any(may_have_made) => Failure::NoToken,
            true => bad,
            false => self.undecided_failure(&queued),
        };
        answered.extend(complete(queued, Err(failure), Some(token.index), 0));
    }

    /// The answer to a decryption that is bad by the word of those that could be asked, none of
    /// which is known to have the right key.
    fn undecided_failure(&self, queued: &Queued) -> Failure {
        let request = &queued.job.request;
        let status = |it: &Token| it.backend.key_status(request.key, Some(Direction::Decrypt));
        let has_said_so = |it: &&Token| queued.lacking & bit(it.index) != 0;
        // One that is out of use may have lost its keys for as long.
        let may_have =
            |it: &&Token| !it.circuit_breaker.is_usable() || status(it) != KeyStatus::Absent;
        let have_key = || self.tokens.iter().filter(may_have);
        let mut unasked = have_key().filter(|it| !has_said_so(it));
        if unasked.clone().any(|it| !it.circuit_breaker.is_usable()) {
            return Failure::NoToken;
        }
        // A token that failed at it has not said so.
        if let Some(failure) = queued.failure {
            return failure;
        }
        match unasked.next() {
            Some(it) => match it.admit(request, Instant::now(), false) {
                _ if !it.has_room_for(request) => Failure::TooLarge,
                Admission::Refused(failure) => failure,
                Admission::Admitted | Admission::Trial => Failure::Overloaded,
            },
            // The right key is on none of them.
            None if have_key().any(|it| status(it) == KeyStatus::Disagrees)
                && have_key().all(|it| status(it) == KeyStatus::Disagrees) =>
            {
                Failure::KeysDiffer
            }
            None => Failure::InvalidCiphertext,
        }
    }

    /// Takes in that `token` failed at the job, by a fault of its own, a session's or a key's. The
    /// job goes to a token that has not tried it, if there is one, before anybody looks into whose
    /// fault it was; else it comes back.
    pub fn fail_over(&self, token: &Token, mut queued: Queued, fault: Fault) -> Option<Queued> {
        if Instant::now() >= queued.job.deadline {
            // The loop has answered by its timer.
            token.record_expired(&queued.job);
            return None;
        }
        queued.attempts += 1;
        queued.failure.get_or_insert(fault.failure);
        queued.tried |= bit(token.index);
        if queued.attempts >= MAX_ATTEMPTS || self.is_stopping() {
            return Some(queued);
        }
        let not_these = queued.tried | queued.lacking;
        let Some(other) = self.best_for(&queued.job.request, not_these) else {
            return Some(queued);
        };
        token.counters.retried.fetch_add(1, Ordering::Relaxed);
        self.push_first(other, queued).err()
    }

    /// Decides what becomes of a job that all tokens have failed at, once the fault is charged: it
    /// is tried again here, and comes back for that, or elsewhere, or is answered. A key that has
    /// failed too often in a row is not tried again.
    pub fn retry(
        &self,
        token: &Token,
        mut queued: Queued,
        scope: FaultScope,
        answered: &mut Vec<Completion>,
    ) -> Option<Queued> {
        let now = Instant::now();
        let about = queued.about();
        let is_doubtful = |token: &Token| {
            let do_others_fail = token.circuit_breaker.has_recent_own_fault(now);
            token.breakers.is_doubtful(about.key, about.direction, do_others_fail)
        };
        // A request that tried a key with an open circuit breaker has told all there is to know.
        let is_known = |token: &Token| token.breakers.is_open(about.key, about.direction);
        let is_of_key = scope == FaultScope::Key
            && (queued.attempts >= ATTEMPTS_BEFORE_ATTRIBUTION || is_known(token));
        if queued.attempts < MAX_ATTEMPTS && !self.is_stopping() {
            if is_of_key {
                if about.direction.is_none() {
                    // No circuit breaker counts who only asks for the attributes.
                    queued.lacking |= bit(token.index);
                }
                let doubtful =
                    self.tokens.iter().filter(|token| is_doubtful(token) || is_known(token));
                queued.lacking |= doubtful.fold(0, |all, token| all | bit(token.index));
            }
            token.counters.retried.fetch_add(1, Ordering::Relaxed);
            match self.reassign(token, queued) {
                Ok(()) => return None,
                Err(back) => queued = back,
            }
            if queued.lacking & bit(token.index) == 0 && token.circuit_breaker.is_usable() {
                return Some(queued);
            }
        }
        self.answer_with_final_failure(token, queued, answered);
        None
    }

    fn answer_with_final_failure(
        &self,
        token: &Token,
        queued: Queued,
        answered: &mut Vec<Completion>,
    ) {
        let failure = self.final_failure(&queued);
        answered.extend(complete(queued, Err(failure), Some(token.index), 0));
    }

    /// Takes in that `token` holds the ciphertext to be bad, and that its code for that may also
    /// mean trouble. Another token is asked then, or the same one again, and it is the answer when
    /// enough say so. As [`Self::failed`].
    fn on_suspected_ciphertext(
        &self,
        token: &Token,
        mut queued: Queued,
        now: Instant,
        answered: &mut Vec<Completion>,
    ) -> Option<Queued> {
        queued.suspicions += 1;
        queued.suspecting |= bit(token.index);
        queued.tried |= bit(token.index);
        let is_doubtful = |token: &Token| {
            queued.suspecting & bit(token.index) != 0 && token.circuit_breaker.has_recent_fault(now)
        };
        let needed = if self.tokens.iter().any(is_doubtful) { MAX_SUSPICIONS } else { SUSPICIONS };
        if queued.suspicions >= needed {
            token.circuit_breaker.record_success(now);
            self.on_bad_ciphertext(token, queued, answered);
            return None;
        }
        let queued = match self.reassign(token, queued) {
            Ok(()) => return None,
            Err(back) => back,
        };
        if token.circuit_breaker.is_usable() && !self.is_stopping() {
            return Some(queued);
        }
        answered.extend(complete(queued, Err(Failure::NoToken), Some(token.index), 0));
        None
    }

    /// The request was done by `by`: those who held its ciphertext to be bad were in trouble, but
    /// where that one's key is another.
    pub fn record_wrong_suspicions(&self, by: &Token, queued: &Queued, now: Instant) {
        if queued.suspicions == 0 {
            return;
        }
        let key = queued.job.request.key;
        let is_alone = self.tokens.len() == 1;
        if !is_alone && by.backend.key_status(key, None) != KeyStatus::Proven {
            return;
        }
        for token in &self.tokens {
            // One that may hold another key was right.
            let is_same = || is_alone || token.backend.key_status(key, None) == KeyStatus::Proven;
            if queued.suspecting & bit(token.index) != 0 && is_same() {
                token.counters.faults.fetch_add(1, Ordering::Relaxed);
                token.circuit_breaker.record_fault(now);
            }
        }
    }

    /// The answer to a request that nobody could do. With no token left it is that, whatever
    /// failed before: who was tried in the moment before and who came in the one after hear the
    /// same. Else the first failure; or no token in use has the key, while one that is not in use
    /// may have it.
    fn final_failure(&self, queued: &Queued) -> Failure {
        let mut usable = self.tokens.iter().map(|token| token.circuit_breaker.is_usable());
        match queued.failure {
            _ if !usable.clone().any(|is_usable| is_usable) => Failure::NoToken,
            // One that is out of use may hold the right key.
            Some(Failure::KeysDiffer) if !usable.all(|is_usable| is_usable) => Failure::NoToken,
            Some(failure) => failure,
            None if usable.all(|is_usable| is_usable) => Failure::KeyNotFound,
            None => Failure::NoToken,
        }
    }

    /// Queues the job at another token than `from`: one that has not tried it yet, or, when all
    /// have, one that may do better now.
    ///
    /// # Errors
    /// There is none; the job comes back.
    fn reassign(&self, from: &Token, mut queued: Queued) -> Result<(), Queued> {
        let not_these = queued.tried | queued.lacking;
        let mut other = self.best_for(&queued.job.request, not_these);
        if other.is_none() {
            queued.tried = bit(from.index);
            other = self.best_for(&queued.job.request, queued.tried | queued.lacking);
        }
        match other {
            Some(token) => self.push_first(token, queued),
            None => Err(queued),
        }
    }

    /// Queues the job at that token, before all others.
    ///
    /// # Errors
    /// There is no room; the job comes back.
    pub fn push_first(&self, token: &Token, queued: Queued) -> Result<(), Queued> {
        token.queue.push_front(queued)?;
        if token.pool.wake(1) {
            self.monitor_signal.notify();
        } else {
            self.monitor_signal.notify_if_waiting();
        }
        // It may have been given up in the meantime, and its queue emptied before this.
        if !token.circuit_breaker.is_usable() {
            self.evacuate(token);
        }
        Ok(())
    }

    /// The token is of no use at present: what waits for it goes to others, or is answered.
    pub fn evacuate(&self, token: &Token) {
        for mut queued in token.drain_unexpired(Instant::now()) {
            queued.tried |= bit(token.index);
            if let Err(queued) = self.reassign(token, queued) {
                self.answer(complete(queued, Err(Failure::NoToken), Some(token.index), 0));
            }
        }
    }

    /// A worker of the token can't do the job that it holds: it goes back to where it came from.
    pub fn requeue(&self, token: &Token, queued: Queued) {
        match token.queue.push_front(queued) {
            Ok(()) => {
                token.pool.wake(1);
                // If the token was given up, nobody else empties its queue.
                if !token.circuit_breaker.is_usable() {
                    self.evacuate(token);
                }
            }
            Err(queued) => {
                let failure = Err(queued.failure.unwrap_or(Failure::Overloaded));
                self.answer(complete(queued, failure, Some(token.index), 0));
            }
        }
    }

    /// Opens the token's circuit, with all that follows.
    pub fn take_out_of_service(&self, token: &Token, reason: String) {
        if token.circuit_breaker.open(reason) {
            self.on_circuit_opened(token);
        }
    }

    /// The token's circuit has just been opened.
    pub fn on_circuit_opened(&self, token: &Token) {
        let reason = token.circuit_breaker.reason().unwrap_or_default();
        let label = token.backend.identity().label;
        tracing::error!(token = label, reason, "HSM token out of use");
        self.evacuate(token);
        // Those who sleep close their sessions.
        token.pool.wake_all();
        token.checker_signal.notify();
        self.monitor_signal.notify();
    }

    /// Sends one answer, if there is one to send.
    pub fn answer(&self, completion: Option<Completion>) {
        let Some(completion) = completion else { return };
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
}

/// A token's place in [`Queued::tried`].
pub const fn bit(index: TokenIndex) -> TokenSet {
    1 << (index.0 % 16)
}

/// The answer to a job, or nothing if another attempt at the request has answered it or may do
/// better; then what this one gave is wiped. The request is let go of before the answer is sent,
/// so that the loop can use its memory again.
#[must_use]
pub fn complete(
    queued: Queued,
    outcome: Result<Success, Failure>,
    token: Option<TokenIndex>,
    queue_micros: u32,
) -> Option<Completion> {
    if queued.race.is_some_and(|race| !race.finish(&outcome)) {
        return None;
    }
    let Job { output, reply_to, .. } = queued.job;
    Some(Completion {
        reply_to,
        outcome,
        output,
        token,
        queue_micros,
        hsm_micros: queued.hsm_micros,
    })
}

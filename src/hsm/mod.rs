//! The HSM side: jobs in, completions out.
//!
//! ```text
//!  event loop ──submit──► fleet ──► queue (per token) ──► worker = session ──► event loop's inbox
//!                                     health checker: connects, health checks, lists keys, recovers
//!                                     monitor: writes off calls that hang, starts threads, health
//! ```
//!
//! [`pkcs11`] alone knows PKCS#11; all else sees a token as [`backend`] draws it.

mod attribution;
pub mod backend;
mod backoff;
pub mod circuit_breaker;
pub mod config;
mod deferred;
mod evidence_keys;
mod faults;
pub mod fleet;
pub mod health;
mod health_checker;
mod hedge;
mod hedge_budget;
pub mod in_flight_call;
pub mod inventory;
pub mod key_breaker;
pub mod key_hangs;
pub mod latency;
mod monitor;
mod outbox;
pub mod pkcs11;
pub mod proofs;
mod prover;
pub mod queue;
pub mod queued;
pub mod race;
mod retry;
mod selection;
pub mod service_time;
pub mod signal;
pub mod token;
pub mod token_set;
pub mod witness;
mod worker;
pub mod worker_pool;

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::job::{CompletionQueue, Failure, FleetHealth, Job, TokenIndex};
use crate::limits::{HSM_STOP_TIMEOUT, MAX_START_WAIT, MAX_TOKENS, MIN_CLOSE_WAIT};
use backend::Backend;
use config::{Config, Hedging};
use fleet::Fleet;
use inventory::TokenInventory;
use pkcs11::labels::Labels;
use pkcs11::token::Pkcs11Token;
use token::{Share, Token};
use witness::{Member, Witnesses};

/// The tokens, their queues and their session workers.
pub struct Hsm {
    fleet: Arc<Fleet>,
}

/// Why the HSM side cannot start at all. A token that does not answer, or refuses its PIN, is not
/// among the reasons: the fleet starts without it and keeps trying.
#[derive(Debug)]
pub struct StartError {
    /// For the operator: what, where, and what would be right.
    pub message: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// How one token does, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenStats {
    /// `CK_TOKEN_INFO.label`
    pub label: String,
    /// Whether it gets jobs.
    pub is_usable: bool,
    /// Why it does not, or what is wrong with it by the latest health check or the latest calls.
    pub trouble: Option<String>,
    /// Jobs that wait.
    pub queued: usize,
    /// Sessions at work or ready for it.
    pub running: usize,
    /// Sessions at rest.
    pub idle: usize,
    /// Threads stuck in a call.
    pub hung: usize,
    /// Sessions that may be at work at once.
    pub active_limit: usize,
    /// Average duration of a call, in microseconds.
    pub service_micros: u64,
    /// Since the start.
    pub answered_total: u64,
    /// Failures of the token or a session since the start.
    pub faults_total: u64,
    /// Retries since the start.
    pub retried_total: u64,
    /// Slow calls that were made a second time elsewhere, since the start.
    pub hedged_total: u64,
    /// Such second calls here that answered first, since the start.
    pub hedges_won_total: u64,
    /// Jobs that were not answered by their deadline since the start.
    pub expired_total: u64,
    /// Calls that hung since the start.
    pub hung_total: u64,
    /// Sessions opened since the start.
    pub sessions_opened_total: u64,
    /// Times that the token's module was initialised anew for its sake since the start.
    pub reinitialized_total: u64,
    /// Times that it was put in use since the start, the first time included.
    pub put_in_use_total: u64,
    /// Keys that it does not serve, and what requests with them are answered.
    pub keys_out_of_use: Vec<KeyOutOfUse>,
    /// Keys that it has and that are not proven to be the same as the other tokens'.
    pub keys_unproven: usize,
    /// `CKA_LABEL`s of keys that are others than the other tokens', or than their witnesses.
    pub keys_disagreeing: Vec<Box<str>>,
    /// Times that a key was taken out of use since the start.
    pub key_breaker_openings_total: u64,
    /// Encryptions that did not verify since the start.
    pub cdiv_mismatches_total: u64,
    /// Codes of failure that the module gave since the start, by name.
    pub failure_codes: Vec<(&'static str, u64)>,
}

/// A key that a token does not serve, though it serves others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOutOfUse {
    /// `CKA_LABEL`
    pub label: String,
    /// `encrypt` or `decrypt`
    pub direction: &'static str,
    /// Why.
    pub reason: String,
    /// For how long, if it is not that its calls hang.
    pub since: Option<Duration>,
}

impl Hsm {
    /// Loads the modules, logs in, lists keys, and starts each token's first session.
    /// `completions` are the event loops' inboxes, by [`crate::job::ReplyTo::event_loop`].
    /// Waits until each token has answered or failed once, [`MAX_START_WAIT`] at the most.
    ///
    /// # Errors
    /// [`StartError`]: a module is not a PKCS#11 module, or a token has no AES-GCM.
    pub fn start(
        config: Config,
        completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        let labels = Labels::new(
            config.labels,
            config.allow_ambiguous_labels,
            config.health_key,
            config.storeless_keys,
        );
        let labels = Arc::new(labels.private_if(config.require_private_keys));
        let mut backends: Vec<(Box<dyn Backend>, Share)> = Vec::new();
        let fleet = config.witnesses.begin_fleet();
        for (index, token) in (0..).map(TokenIndex).zip(config.tokens) {
            let share = Share {
                max_sessions: token.max_sessions,
                weight: token.weight,
                priority: token.priority,
                max_operation_bytes: token.rules.max_operation_bytes.unwrap_or(usize::MAX),
            };
            let witnesses = Arc::clone(&config.witnesses);
            let member = Member { fleet, index };
            let backend = Pkcs11Token::new(token, member, Arc::clone(&labels), witnesses)
                .map_err(|message| StartError { message })?;
            backends.push((Box::new(backend), share));
        }
        Self::start_proven(backends, config.hedging, (config.witnesses, fleet), completions)
    }

    /// As [`Self::start`], with tokens of any kind and how many sessions each may have.
    ///
    /// # Errors
    /// There are no tokens, too many, or no threads to be had.
    pub fn start_with(
        backends: Vec<(Box<dyn Backend>, usize)>,
        completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        let of_sessions = |(backend, sessions)| (backend, Share::of_sessions(sessions));
        let backends = backends.into_iter().map(of_sessions).collect();
        Self::start_fleet(backends, Hedging::default(), completions)
    }

    /// As [`Self::start`], with tokens of any kind and the part of each.
    ///
    /// # Errors
    /// There are no tokens, too many, or no threads to be had.
    pub fn start_fleet(
        backends: Vec<(Box<dyn Backend>, Share)>,
        hedging: Hedging,
        completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        Self::start_proven(backends, hedging, (Arc::default(), 0), completions)
    }

    fn start_proven(
        backends: Vec<(Box<dyn Backend>, Share)>,
        hedging: Hedging,
        witnesses: (Arc<Witnesses>, u32),
        completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        if backends.is_empty() || backends.len() > MAX_TOKENS {
            let message = format!("1 to {MAX_TOKENS} HSM tokens are possible");
            return Err(StartError { message });
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let event_loops = completions.iter().filter(|inbox| inbox.is_event_loops()).count();
        let spare_cores = cores.saturating_sub(event_loops).max(1);
        let start = Instant::now();
        let tokens = (0..).zip(backends).map(|(index, (backend, share))| {
            Token::new(TokenIndex(index), backend, share, spare_cores, start)
        });
        let fleet = Arc::new(Fleet::new(tokens.collect(), hedging, witnesses, completions));
        monitor::start(&fleet)
            .map_err(|error| StartError { message: format!("no thread for the HSM: {error}") })?;
        let end = start + MAX_START_WAIT;
        let is_ready_for_first_job =
            |token: &Token| token.checker.lock().has_tried && token.is_ready_for_first_job();
        while Instant::now() < end && !fleet.tokens.iter().all(is_ready_for_first_job) {
            fleet.progress.wait_until(end);
        }
        health::publish(&fleet, Instant::now());
        let hsm = Self { fleet };
        let unfit = |token: &Token| {
            let state = token.checker.lock();
            state.is_unfit.then(|| state.trouble.clone().unwrap_or_default())
        };
        match hsm.fleet.tokens.iter().find_map(unfit) {
            Some(message) => Err(StartError { message }),
            None => Ok(Arc::new(hsm)),
        }
    }

    /// Has jobs name more keys from now on: `labels` are all that there are, in the order of
    /// [`crate::job::KeyIndex`]; those that were known keep their places. Waits until the tokens
    /// in use have been looked through for the new ones, `timeout` at the most, and says whether
    /// they have. Where they have not, a new key is looked up when it is first asked for.
    pub fn extend_labels(&self, labels: &[Box<str>], timeout: Duration) -> bool {
        let fleet = &self.fleet;
        for token in &fleet.tokens {
            token.backend.extend_labels(labels);
            if token.backend.has_new_labels() {
                token.checker_signal.notify();
            }
        }
        let is_known =
            |token: &Token| !token.circuit_breaker.is_usable() || !token.backend.has_new_labels();
        let end = Instant::now() + timeout;
        while !fleet.tokens.iter().all(is_known) {
            if Instant::now() >= end {
                return false;
            }
            fleet.progress.wait_until(end);
        }
        true
    }

    /// Its number among the fleets of the same witnesses: see [`Witnesses::begin_fleet`].
    #[must_use]
    pub fn fleet_number(&self) -> u32 {
        self.fleet.number
    }

    /// Wakes the health checkers to prove the keys that are not proven: witnesses may have changed.
    pub fn prove_again(&self) {
        self.fleet.tokens.iter().for_each(|token| token.checker_signal.notify());
    }

    /// Why no token is usable, if none is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let tokens = self.stats();
        if tokens.iter().any(|token| token.is_usable) {
            return None;
        }
        let tell = |token: &TokenStats| {
            format!("{}: {}", token.label, token.trouble.as_deref().unwrap_or("unknown"))
        };
        Some(tokens.iter().map(tell).collect::<Vec<_>>().join("; "))
    }

    /// Whether no token is usable and calls do not return, so that the module that they are in
    /// cannot be initialised anew: a new process may help. It does not where a PIN was refused,
    /// and would try that again.
    #[must_use]
    pub fn is_wedged(&self) -> bool {
        let tokens = &self.fleet.tokens;
        let is_stuck = |token: &Token| token.pool.counts().abandoned > 0;
        tokens.iter().all(|token| !token.circuit_breaker.is_usable())
            && tokens.iter().any(is_stuck)
            && !tokens.iter().any(|token| token.checker.lock().has_stopped_trying)
    }

    /// Queues the jobs of one turn of an event loop, emptying `jobs`; what cannot be taken goes
    /// into `refused`. Never blocks on an HSM.
    pub fn submit(&self, jobs: &mut Vec<Job>, refused: &mut Vec<(Job, Failure)>) {
        self.fleet.submit(jobs, refused);
    }

    /// What the last health checks found.
    #[must_use]
    pub fn health(&self) -> Arc<FleetHealth> {
        self.fleet.health.load_full()
    }

    /// Slots, tokens and keys, for people. Opens a session with each token, and takes as long as
    /// the HSM does.
    #[must_use]
    pub fn inventory(&self) -> Vec<TokenInventory> {
        self.fleet.tokens.iter().map(|token| token.backend.inventory()).collect()
    }

    /// How the tokens do, in the order of [`TokenIndex`].
    #[must_use]
    pub fn stats(&self) -> Vec<TokenStats> {
        self.fleet.tokens.iter().map(stats).collect()
    }

    /// Takes no more jobs, finishes those that wait, closes the sessions, and finalises the
    /// modules that no call is outstanding in. Takes `timeout` at the most, and says whether all
    /// was done by then; what still waits is answered with [`Failure::NoToken`].
    pub fn stop(&self, timeout: Duration) -> bool {
        let fleet = &self.fleet;
        if fleet.is_stopping.swap(true, Ordering::AcqRel) {
            return true;
        }
        for token in &fleet.tokens {
            token.pool.close();
            token.checker_signal.notify();
        }
        fleet.monitor_signal.notify();
        let end = Instant::now() + timeout;
        while fleet.threads.load(Ordering::Acquire) > 0 && Instant::now() < end {
            fleet.progress.wait_until(end);
        }
        for token in &fleet.tokens {
            for queued in token.drain() {
                fleet.inboxes.send(queued.complete(Err(Failure::NoToken), None, 0));
            }
        }
        let is_done = fleet.threads.load(Ordering::Acquire) == 0;
        self.close_backends(end) && is_done
    }

    /// Has the modules finalised, those that a thread is still in a call of left as they are. In a
    /// thread of its own, since C_Finalize may wait for the HSM too. Whether it was done by `end`.
    fn close_backends(&self, end: Instant) -> bool {
        let (done, is_done) = mpsc::channel();
        let fleet = Arc::clone(&self.fleet);
        let close = move || {
            for token in &fleet.tokens {
                token.backend.close();
            }
            // Nobody listens if it took too long.
            let _ = done.send(());
        };
        let started = thread::Builder::new().name("hsm-close".to_owned()).spawn(close);
        let patience = end.saturating_duration_since(Instant::now()).max(MIN_CLOSE_WAIT);
        started.is_ok() && is_done.recv_timeout(patience).is_ok()
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        self.stop(HSM_STOP_TIMEOUT);
    }
}

/// By circuit breakers, and by calls that hang.
fn keys_out_of_use(token: &Token) -> Vec<KeyOutOfUse> {
    let now = Instant::now();
    let broken = token.breakers.all_open().into_iter().map(|open| KeyOutOfUse {
        label: token.backend.label_of(open.key),
        direction: open.direction.name(),
        reason: format!("{} ({} times in a row)", open.failure, open.faults),
        since: Some(now.saturating_duration_since(open.since)),
    });
    let hanging = token.hangs.blocked().into_iter().map(|(key, direction)| KeyOutOfUse {
        label: token.backend.label_of(key),
        direction: direction.name(),
        reason: "calls do not return".to_owned(),
        since: None,
    });
    broken.chain(hanging).collect()
}

fn stats(token: &Token) -> TokenStats {
    let counts = token.pool.counts();
    let counters = &token.counters;
    let is_usable = token.circuit_breaker.is_usable();
    let trouble = token.checker.lock().trouble.clone();
    let not_proven = token.backend.not_proven();
    let recent = || {
        let faults = token.circuit_breaker.recent_faults(Instant::now())?;
        Some(format!("{faults} of the latest 64 calls failed"))
    };
    TokenStats {
        label: token.backend.identity().label,
        is_usable,
        trouble: if is_usable {
            trouble.or_else(recent)
        } else {
            token.circuit_breaker.reason().or(trouble)
        },
        queued: token.queue.len() + token.deferred.len(),
        running: counts.running,
        idle: counts.idle,
        hung: counts.abandoned,
        active_limit: counts.limit,
        service_micros: u64::try_from(token.service_time.mean().as_micros()).unwrap_or(u64::MAX),
        answered_total: counters.answered.load(Ordering::Relaxed),
        faults_total: counters.faults.load(Ordering::Relaxed),
        retried_total: counters.retried.load(Ordering::Relaxed),
        hedged_total: counters.hedged.load(Ordering::Relaxed),
        hedges_won_total: counters.hedges_won.load(Ordering::Relaxed),
        expired_total: counters.expired.load(Ordering::Relaxed),
        hung_total: counters.hung.load(Ordering::Relaxed),
        sessions_opened_total: counters.sessions_opened.load(Ordering::Relaxed),
        reinitialized_total: counters.reinitialized.load(Ordering::Relaxed),
        put_in_use_total: counters.put_in_use.load(Ordering::Relaxed),
        keys_out_of_use: keys_out_of_use(token),
        keys_unproven: not_proven.unproven,
        keys_disagreeing: not_proven.disagreeing,
        key_breaker_openings_total: token.breakers.opened_total(),
        cdiv_mismatches_total: token.backend.cdiv_mismatches(),
        failure_codes: token.backend.failure_codes(),
    }
}

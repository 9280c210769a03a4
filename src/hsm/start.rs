//! The start of the HSM side: creates the tokens' backends and connects them to the fleet.

use std::sync::Arc;

use super::backend::Backend;
use super::config::{Config, Hedging};
use super::fleet::Fleet;
use super::handle::Hsm;
use super::pkcs11::labels::Labels;
use super::pkcs11::token::Pkcs11Token;
use super::pkcs11::tokens_in_use::TokensInUse;
use super::token::{Share, Token};
use super::witness::{Member, Witnesses};
use super::{health, monitor};
use crate::job::{CompletionQueue, TokenIndex};
use crate::limits::{MAX_START_WAIT, MAX_TOKENS};
use crate::sync::{clock, cores};

/// The reason why the HSM side cannot start at all. A token that does not answer or refuses its PIN
/// does not prevent the start: the fleet starts without it and keeps trying.
#[derive(Debug)]
pub struct StartError {
    /// Message for the operator, which names the mistake, its place and the remedy.
    pub message: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl Hsm {
    /// Loads the modules, logs in, lists keys, and opens each token's first session. `completions`
    /// are the event loops' inboxes, by [`crate::job::ReplyTo::event_loop`]. Waits up to
    /// [`MAX_START_WAIT`] until each token has answered or failed once.
    ///
    /// # Errors
    /// Returns [`StartError`] if a module is not a PKCS#11 module, or a token lacks AES-GCM, or
    /// two entries of the settings lead to one token.
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
        let labels = labels.private_if(config.require_private_keys).counted_in(config.usage);
        let labels = Arc::new(labels);
        let mut backends: Vec<(Box<dyn Backend>, Share)> = Vec::new();
        let fleet = config.witnesses.begin_fleet();
        let in_use = Arc::<TokensInUse>::default();
        for (index, token) in (0..).map(TokenIndex).zip(config.tokens) {
            let share = Share {
                max_sessions: token.max_sessions,
                weight: token.weight,
                priority: token.priority,
                max_operation_bytes: token.rules.max_operation_bytes.unwrap_or(usize::MAX),
            };
            let witnesses = Arc::clone(&config.witnesses);
            let member = Member { fleet, index };
            let (labels, in_use) = (Arc::clone(&labels), Arc::clone(&in_use));
            let backend = Pkcs11Token::new(token, member, labels, witnesses, in_use)
                .map_err(|error| StartError { message: error.to_string() })?;
            backends.push((Box::new(backend), share));
        }
        Self::start_proven(backends, config.hedging, (config.witnesses, fleet), completions)
    }

    /// Starts a fleet like [`Self::start`], with tokens of any kind and their numbers of sessions.
    ///
    /// # Errors
    /// Returns [`StartError`] if there are no tokens or too many, or threads cannot be created.
    pub fn start_with(
        backends: Vec<(Box<dyn Backend>, usize)>,
        completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        let of_sessions = |(backend, sessions)| (backend, Share::of_sessions(sessions));
        let backends = backends.into_iter().map(of_sessions).collect();
        Self::start_fleet(backends, Hedging::default(), completions)
    }

    /// Starts a fleet like [`Self::start`], with tokens of any kind and their shares.
    ///
    /// # Errors
    /// Returns [`StartError`] if there are no tokens or too many, or threads cannot be created.
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
            let message = format!("the number of HSM tokens must be 1 to {MAX_TOKENS}");
            return Err(StartError { message });
        }
        let event_loops = completions.iter().filter(|inbox| inbox.is_event_loops()).count();
        let spare_cores = cores().saturating_sub(event_loops).max(1);
        let start = clock::now();
        let tokens = (0..).zip(backends).map(|(index, (backend, share))| {
            Token::new(TokenIndex(index), backend, share, spare_cores, start)
        });
        let fleet = Arc::new(Fleet::new(tokens.collect(), hedging, witnesses, completions));
        monitor::start(&fleet).map_err(|error| StartError {
            message: format!("cannot start a thread for the HSM: {error}"),
        })?;
        let end = start + MAX_START_WAIT;
        let is_ready_for_first_job =
            |token: &Token| token.checker.lock().has_tried && token.is_ready_for_first_job();
        while clock::now() < end && !fleet.tokens.iter().all(is_ready_for_first_job) {
            fleet.progress.wait_until(end);
        }
        health::publish(&fleet, clock::now());
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
}

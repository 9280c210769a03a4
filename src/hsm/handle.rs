//! The handle through which the rest of the program uses the HSM side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::inventory::TokenInventory;
use super::key_date::Date;
use super::stats::{TokenStats, stats};
use super::token::Token;
use crate::job::{Failure, FleetHealth, Job};
use crate::limits::{HSM_STOP_TIMEOUT, MIN_CLOSE_WAIT};
use crate::sync::atomic::Ordering;
use crate::sync::{clock, mpsc, thread};

/// The HSM side: the tokens, with their queues and session workers.
pub struct Hsm {
    pub(super) fleet: Arc<Fleet>,
}

impl Hsm {
    /// Replaces the list of key labels by a longer one. `labels` are all labels, in the order of
    /// [`crate::job::KeyIndex`]; existing ones keep their index. Waits up to `timeout` for the
    /// tokens in use to search for the new keys, and returns whether all have done so. If not, a
    /// new key is looked up on its first request.
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
        let end = clock::now() + timeout;
        while !fleet.tokens.iter().all(is_known) {
            if clock::now() >= end {
                return false;
            }
            fleet.progress.wait_until(end);
        }
        true
    }

    /// Returns the number that distinguishes this fleet from others that share the witnesses: see
    /// [`super::witness::Witnesses::begin_fleet`].
    #[must_use]
    pub fn fleet_number(&self) -> u32 {
        self.fleet.number
    }

    /// Wakes the health checkers to prove unproven keys, since witnesses may have changed.
    pub fn prove_again(&self) {
        self.fleet.tokens.iter().for_each(|token| token.checker_signal.notify());
    }

    /// Returns the reason why no token is usable, or `None` if one is.
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

    /// Returns whether no token is usable and calls hang, so that their module cannot be
    /// initialized again and only a new process may help. False if a PIN was refused, since a new
    /// process would try the same PIN again.
    #[must_use]
    pub fn is_wedged(&self) -> bool {
        let tokens = &self.fleet.tokens;
        let is_stuck = |token: &Token| token.pool.counts().abandoned > 0;
        tokens.iter().all(|token| !token.circuit_breaker.is_usable())
            && tokens.iter().any(is_stuck)
            && !tokens.iter().any(|token| token.checker.lock().has_stopped_trying)
    }

    /// Queues a batch of jobs from an event loop, emptying `jobs`. Rejected jobs are added to
    /// `refused`. Never blocks on an HSM.
    pub fn submit(&self, jobs: &mut Vec<Job>, refused: &mut Vec<(Job, Failure)>) {
        self.fleet.submit(jobs, refused);
    }

    /// Returns whether every token in use computes in this process and has more waiting jobs than its
    /// sessions do in `wait`: CPU time that an event loop leaves to them is well spent.
    #[must_use]
    pub fn lacks_cpu(&self, wait: Duration) -> bool {
        self.fleet.lacks_cpu(wait)
    }

    /// Returns the fleet's health according to the latest checks.
    #[must_use]
    pub fn health(&self) -> Arc<FleetHealth> {
        self.fleet.health.load_full()
    }

    /// Lists slots, tokens and keys for an operator. Opens a session with each token, and blocks
    /// for as long as the HSM does.
    #[must_use]
    pub fn inventory(&self) -> Vec<TokenInventory> {
        self.fleet.tokens.iter().map(|token| token.backend.inventory()).collect()
    }

    /// Takes the same inventory with the details of each key, which takes at least one more call
    /// for each.
    #[must_use]
    pub fn detailed_inventory(&self) -> Vec<TokenInventory> {
        self.fleet.tokens.iter().map(|token| token.backend.detailed_inventory()).collect()
    }

    /// Returns for each token the names and end dates of up to `max` keys that have one, the
    /// earliest first, as of its last listing.
    #[must_use]
    pub fn end_dates(&self, max: usize) -> Vec<Vec<(Box<str>, Date)>> {
        self.fleet.tokens.iter().map(|token| token.backend.end_dates(max)).collect()
    }

    /// Returns the tokens' figures, in the order of [`crate::job::TokenIndex`].
    #[must_use]
    pub fn stats(&self) -> Vec<TokenStats> {
        self.fleet.tokens.iter().map(stats).collect()
    }

    /// Rejects new jobs, finishes waiting jobs, closes the sessions, and finalizes the modules that
    /// have no outstanding call. Waits up to `timeout`, and returns whether all of this was done by
    /// then. Jobs that still wait are answered with [`Failure::NoToken`].
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
        let end = clock::now() + timeout;
        while fleet.threads.load(Ordering::Acquire) > 0 && clock::now() < end {
            fleet.progress.wait_until(end);
        }
        fleet.stop_serving();
        let is_done = fleet.threads.load(Ordering::Acquire) == 0;
        self.close_backends(end) && is_done
    }

    /// Finalizes the modules that have no outstanding call. Returns whether that was done by `end`.
    /// Uses another thread, since C_Finalize may also block.
    fn close_backends(&self, end: Instant) -> bool {
        let (done, is_done) = mpsc::channel();
        let fleet = Arc::clone(&self.fleet);
        let close = move || {
            for token in &fleet.tokens {
                token.backend.close();
            }
            // The receiver is gone if this took too long.
            let _ = done.send(());
        };
        let started = thread::Builder::new().name("hsm-close".to_owned()).spawn(close);
        let patience = end.saturating_duration_since(clock::now()).max(MIN_CLOSE_WAIT);
        started.is_ok() && is_done.recv_timeout(patience).is_ok()
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        self.stop(HSM_STOP_TIMEOUT);
    }
}

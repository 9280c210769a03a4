//! The HSM side: jobs in, completions out.

pub mod config;

use std::sync::Arc;

use crate::job::{CompletionQueue, Failure, FleetHealth, Job};
use config::Config;

/// The tokens, their queues and their session workers.
pub struct Hsm {
    health: Arc<FleetHealth>,
}

/// Why the HSM side cannot start at all. A token that does not answer, or refuses its PIN, is not
/// among the reasons: the fleet starts without it and keeps trying.
#[derive(Debug)]
pub struct StartError {
    /// For the operator: what, where, and what would be right.
    pub message: String,
}

impl Hsm {
    /// Loads the modules, logs in, lists keys, and starts each token's first session.
    /// `completions` are the event loops' inboxes, by [`crate::job::ReplyTo::event_loop`].
    ///
    /// # Errors
    /// [`StartError`]: a module is not a PKCS#11 module.
    pub fn start(
        _config: Config,
        _completions: Vec<Arc<CompletionQueue>>,
    ) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self { health: Arc::default() }))
    }

    /// Queues the jobs of one turn of an event loop, emptying `jobs`; what cannot be taken goes
    /// into `refused`. Never blocks on an HSM.
    pub fn submit(&self, jobs: &mut Vec<Job>, refused: &mut Vec<(Job, Failure)>) {
        refused.extend(jobs.drain(..).map(|job| (job, Failure::NoToken)));
    }

    /// What the last probes found.
    #[must_use]
    pub fn health(&self) -> Arc<FleetHealth> {
        Arc::clone(&self.health)
    }
}

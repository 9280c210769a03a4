//! What became of the settings: when they were last taken up, and what came of the last try.

use std::time::SystemTime;

use parking_lot::Mutex;

use crate::observe::timestamp::unix_secs;

/// The settings' history since the start.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<ReloadState>);

/// The same, as it is at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// Tries that ended.
    pub attempts: u64,
    /// Of these, those that were taken up.
    pub applied: u64,
    /// When the settings in use were taken up, in seconds since 1970; the start counts.
    pub loaded_unix_secs: u64,
    /// When the last try ended, in seconds since 1970; 0 if there was none.
    pub attempted_unix_secs: u64,
    /// Why it was refused, a line each; empty if it was taken up. No secrets in them.
    pub refused: Vec<String>,
    /// Members of the file whose values have no effect until a restart.
    pub needs_restart: Vec<String>,
}

impl Reloads {
    /// The process has started with its settings.
    pub fn started(&self) {
        self.0.lock().loaded_unix_secs = unix_secs(SystemTime::now());
    }

    /// New settings are in use, but for these members.
    pub fn applied(&self, needs_restart: Vec<String>) {
        let now = unix_secs(SystemTime::now());
        let mut state = self.0.lock();
        state.attempts += 1;
        state.applied += 1;
        state.loaded_unix_secs = now;
        state.attempted_unix_secs = now;
        state.refused = Vec::new();
        state.needs_restart = needs_restart;
    }

    /// New settings were refused, and the old ones stay.
    pub fn refused(&self, reasons: Vec<String>) {
        let mut state = self.0.lock();
        state.attempts += 1;
        state.attempted_unix_secs = unix_secs(SystemTime::now());
        state.refused = reasons;
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> ReloadState {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal leaves the time of the settings in use as it was, and ends with the next success.
    #[test]
    fn what_the_last_try_came_to() {
        let reloads = Reloads::default();
        reloads.started();
        let start = reloads.state();
        assert!(start.loaded_unix_secs > 0 && start.attempts == 0);
        reloads.refused(vec!["why".to_owned()]);
        let refused = reloads.state();
        assert_eq!((refused.attempts, refused.applied), (1, 0));
        assert_eq!(refused.loaded_unix_secs, start.loaded_unix_secs);
        assert_eq!(refused.refused, ["why"]);
        reloads.applied(vec!["server.port".to_owned()]);
        let state = reloads.state();
        assert!(state.refused.is_empty() && state.needs_restart == ["server.port"]);
        assert_eq!((state.attempts, state.applied), (2, 1));
    }
}

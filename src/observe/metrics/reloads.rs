//! The reloads of the settings: when the last one was applied, and why it was refused.

use std::time::SystemTime;

use parking_lot::Mutex;

use crate::observe::timestamp::unix_secs;

/// The reloads since the start.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<ReloadState>);

/// The state of the reloads at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// Number of attempts that ended.
    pub attempts: u64,
    /// Number of attempts whose settings were applied.
    pub applied: u64,
    /// Time at which the settings in use were applied, at a reload or at the start, in seconds
    /// since 1970.
    pub loaded_unix_secs: u64,
    /// Time at which the last attempt ended, in seconds since 1970; 0 if there was none.
    pub attempted_unix_secs: u64,
    /// Reasons why the last attempt was refused, without secrets; empty if it was applied.
    pub refused: Vec<String>,
    /// Members of the settings file whose values have no effect until a restart.
    pub needs_restart: Vec<String>,
}

impl Reloads {
    /// Records the start of the process.
    pub fn started(&self) {
        self.0.lock().loaded_unix_secs = unix_secs(SystemTime::now());
    }

    /// Records that new settings are in use, except for these members.
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

    /// Records that new settings were refused, so that the old ones stay in use.
    pub fn refused(&self, reasons: Vec<String>) {
        let mut state = self.0.lock();
        state.attempts += 1;
        state.attempted_unix_secs = unix_secs(SystemTime::now());
        state.refused = reasons;
    }

    /// Returns the present state.
    #[must_use]
    pub fn state(&self) -> ReloadState {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal does not change when settings were applied, and lasts until the next success.
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

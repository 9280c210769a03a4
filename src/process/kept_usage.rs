//! The count of the keys' uses, and its record in the state directory.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::SystemTime;

use crate::hsm::usage::Usage;
use crate::limits::{MAX_USAGE_CLOSE, MAX_USAGE_RECORD_WAIT};
use crate::observe::timestamp::unix_secs;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::usage::keeper::{self, Keeper};

/// The count of a process.
#[derive(Clone)]
pub(crate) struct KeptUsage {
    usage: Arc<Usage>,
    /// `None` without a state directory.
    keeper: Option<Arc<Keeper>>,
}

impl KeptUsage {
    /// Reads the record of the keys with these names, and reserves numbers for them. A directory
    /// that cannot be read or written is logged, and counts are then in memory only.
    pub(crate) fn open(settings: &Settings, names: &[Box<str>]) -> Self {
        let usage = Arc::new(Usage::new(unix_secs(SystemTime::now())));
        usage.extend_to(names);
        usage.set_limit(settings.encryption_limit);
        let directory = settings.state_directory.as_deref().map(Directory::new);
        let keeper = directory.map(|it| Arc::new(Keeper::open(it, Arc::clone(&usage))));
        Self { usage, keeper }
    }

    /// Returns the counters.
    pub(crate) fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }

    /// Starts the thread that writes the counts.
    ///
    /// # Errors
    /// The system refuses to start a thread.
    pub(crate) fn start(&self) -> io::Result<()> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| Arc::clone(keeper).start())
    }

    /// Adds the keys of new settings, if those can be used with what is known about the keys.
    ///
    /// # Errors
    /// [`Self::refusal`]
    pub(super) fn extend(&self, settings: &Settings, names: &[Box<str>]) -> Result<(), String> {
        self.usage.extend_to(names);
        if let Some(keeper) = &self.keeper
            && !keeper.refresh(MAX_USAGE_RECORD_WAIT)
        {
            tracing::warn!("the count of uses of keys could not be written in time");
        }
        self.refusal(settings, names).map_or(Ok(()), Err)
    }

    /// Applies the limit of new settings.
    pub(super) fn limit(&self, settings: &Settings, names: &[Box<str>]) {
        self.usage.set_limit(settings.encryption_limit);
        self.warn(names);
    }

    /// Logs which counts are incomplete.
    pub(super) fn warn(&self, names: &[Box<str>]) {
        if self.keeper.is_none() {
            tracing::info!(
                "encryptions are counted since the start only: the settings have no [state]"
            );
        } else if let Some((names, keys)) = keeper::incomplete(&self.usage, names) {
            tracing::warn!(
                keys,
                names,
                "the counts of these keys' encryptions are incomplete: see `xks-proxy keys usage`, \
                 and state the numbers with --set"
            );
        }
    }

    /// Returns the reason why the settings cannot be used: they refuse encryptions at the limit,
    /// and a count is not known.
    pub(super) fn refusal(&self, settings: &Settings, names: &[Box<str>]) -> Option<String> {
        if !settings.encryption_limit.refuses {
            return None;
        }
        let member = "[encryption_count] at_limit = \"refuse\"";
        if self.keeper.is_none() {
            return Some(format!(
                "{member}: counts are lost at each restart without a state directory: add [state] \
                 directory, or write at_limit = \"warn\""
            ));
        }
        if self.usage.record().is_failing {
            return Some(format!(
                "{member}: the count cannot be written to [state] directory: make the directory \
                 writable, or write at_limit = \"warn\""
            ));
        }
        keeper::incomplete(&self.usage, names).map(|(names, keys)| {
            format!(
                "{member}: the counts of {keys} keys are incomplete: {names}. For each, find out \
                 how many encryptions it may have made (0 for a new key), and run `xks-proxy keys \
                 usage --set KEY COUNT`; or write at_limit = \"warn\""
            )
        })
    }

    /// Writes exact numbers, once no more keys are used. A disk that hangs does not keep the
    /// process from ending: what was reserved then counts as used.
    pub(crate) fn close(&self) {
        let Some(keeper) = self.keeper.clone() else { return };
        let (done, is_done) = mpsc::channel();
        let close = move || {
            keeper.close();
            // The receiver is gone if this took too long.
            let _ = done.send(());
        };
        if thread::Builder::new().name("usage-close".to_owned()).spawn(close).is_ok() {
            let _ = is_done.recv_timeout(MAX_USAGE_CLOSE);
        }
    }
}

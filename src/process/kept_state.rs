//! The state directory, and the state read from it.

use std::io;
use std::sync::Arc;
use std::thread;

use super::kept_usage::KeptUsage;
use super::listed_versions;
use crate::hsm::config::Config;
use crate::hsm::witness::Witnesses;
use crate::proto::ServiceConfig;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::{saver, witness_file};

/// State that survives a restart of the process.
pub(super) struct KeptState {
    directory: Option<Directory>,
    witnesses: Arc<Witnesses>,
    pub(super) usage: KeptUsage,
}

impl KeptState {
    /// Reads the state directory if the settings name one, and reserves numbers for the keys' uses.
    /// Unreadable files are logged.
    pub(super) fn read(settings: &Settings, service: &ServiceConfig) -> Self {
        let directory = settings.state_directory.as_deref().map(Directory::new);
        let known = directory.as_ref().map_or_else(witness_file::Witnesses::new, saver::load);
        let witnesses = Arc::new(Witnesses::new(known, settings.pkcs11.trust_token.clone()));
        let usage = KeptUsage::open(settings, service.labels());
        Self { directory, witnesses, usage }
    }

    /// Starts the threads that write changes to the state directory.
    ///
    /// # Errors
    /// The system refuses to start a thread.
    pub(super) fn save_changes(&self) -> io::Result<()> {
        self.usage.start()?;
        match &self.directory {
            Some(directory) => saver::start(directory.clone(), Arc::clone(&self.witnesses)),
            None => Ok(()),
        }
    }

    /// Records the versions of keys that the settings list, in a thread of its own, since another
    /// process may hold the directory's lock.
    pub(super) fn record_versions(&self, settings: &Arc<Settings>) {
        let Some(directory) = self.directory.clone() else { return };
        let settings = Arc::clone(settings);
        let record = move || listed_versions::record(&directory, &settings);
        if let Err(error) = thread::Builder::new().name("versions".to_owned()).spawn(record) {
            tracing::warn!(%error, "the listed versions of keys are not recorded");
        }
    }

    /// Returns the configuration with which the HSM side is started.
    pub(super) fn hsm_config(&self, settings: &Settings, service: &ServiceConfig) -> Config {
        let mut config = settings.hsm_config(service);
        config.witnesses = Arc::clone(&self.witnesses);
        config.usage = self.usage.usage();
        config
    }

    /// Reads the state directory again, since other processes may have changed it, and applies the
    /// trusted token from the new settings.
    pub(super) fn read_again(&self, settings: &Settings) {
        if let Some(directory) = &self.directory {
            self.witnesses.adopt(saver::load(directory));
        }
        self.witnesses.trust(settings.pkcs11.trust_token.clone());
    }

    /// Records that the fleet with this number stays in use although another one was started.
    pub(super) fn stays_with(&self, fleet: u32) {
        self.witnesses.resume_fleet(fleet);
    }
}

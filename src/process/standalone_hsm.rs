//! The HSM side without a server, for commands that make one request at a time: `check`, `keys` and
//! `audit verify`.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::hsm_caller::HsmCaller;
use super::kept_state::KeptState;
use super::kept_usage::KeptUsage;
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::hsm::Hsm;
use crate::hsm::config::Config;
use crate::hsm::pkcs11::ffi::set_environment;
use crate::job::{Failure, Request, Success};
use crate::limits::{CHECK_TIMEOUT, HSM_STOP_TIMEOUT};
use crate::proto::ServiceConfig;
use crate::settings::Settings;

/// A started HSM side, and its only caller.
pub(crate) struct StandaloneHsm {
    hsm: Arc<Hsm>,
    caller: HsmCaller,
    usage: KeptUsage,
}

impl StandaloneHsm {
    /// Loads the module and logs in, using the witnesses in the state directory.
    pub(crate) fn start(settings: &Settings, service: &ServiceConfig) -> Result<Self, Failed> {
        let state = KeptState::read(settings, service);
        Self::start_counted(settings, state.hsm_config(settings, service), state.usage)
    }

    /// Loads the module and logs in, using the witnesses in `config`.
    pub(crate) fn start_with(settings: &Settings, mut config: Config) -> Result<Self, Failed> {
        let usage = KeptUsage::open(settings, &config.labels);
        config.usage = usage.usage();
        Self::start_counted(settings, config, usage)
    }

    fn start_counted(
        settings: &Settings,
        config: Config,
        usage: KeptUsage,
    ) -> Result<Self, Failed> {
        // No thread has been started yet.
        set_environment(&settings.pkcs11.environment);
        usage.start().map_err(|error| Failed::unavailable(format!("no thread: {error}")))?;
        let caller = HsmCaller::new(0);
        let hsm = Hsm::start(config, vec![caller.inbox()])
            .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[pkcs11]: {error}")))?;
        Ok(Self { hsm, caller, usage })
    }

    pub(crate) fn hsm(&self) -> &Hsm {
        &self.hsm
    }

    /// Performs one request within [`CHECK_TIMEOUT`].
    pub(crate) fn perform(
        &self,
        request: Request,
    ) -> Result<(Success, Zeroizing<Vec<u8>>), Failure> {
        self.caller.perform(&self.hsm, request, CHECK_TIMEOUT)
    }
}

impl Drop for StandaloneHsm {
    fn drop(&mut self) {
        if self.hsm.stop(HSM_STOP_TIMEOUT) {
            self.usage.close();
        }
    }
}

//! The HSM side without a server: one request at a time, for `check`, `keys` and `audit verify`.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::hsm_caller::HsmCaller;
use super::kept_state::KeptState;
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::hsm::Hsm;
use crate::hsm::config::Config;
use crate::hsm::pkcs11::ffi::set_environment;
use crate::job::{Failure, Request, Success};
use crate::limits::{CHECK_TIMEOUT, HSM_STOP_TIMEOUT};
use crate::proto::ServiceConfig;
use crate::settings::Settings;

/// A started HSM side and its only caller.
pub(crate) struct StandaloneHsm {
    hsm: Arc<Hsm>,
    caller: HsmCaller,
}

impl StandaloneHsm {
    /// Loads the module and logs in, with the witnesses of the state directory.
    pub(crate) fn start(settings: &Settings, service: &ServiceConfig) -> Result<Self, Failed> {
        let state = KeptState::read(settings);
        Self::start_with(settings, state.hsm_config(settings, service))
    }

    /// Loads the module and logs in, with the witnesses in `config`.
    pub(crate) fn start_with(settings: &Settings, config: Config) -> Result<Self, Failed> {
        // No thread has been started yet.
        set_environment(&settings.pkcs11.environment);
        let caller = HsmCaller::new(0);
        let hsm = Hsm::start(config, vec![caller.inbox()])
            .map_err(|error| Failed::new(EXIT_SETTINGS, format!("[pkcs11]: {error}")))?;
        Ok(Self { hsm, caller })
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
        self.hsm.stop(HSM_STOP_TIMEOUT);
    }
}

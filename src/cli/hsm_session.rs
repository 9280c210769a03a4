//! The HSM side without a server: one request at a time, for `check` and `keys`.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{EXIT_SETTINGS, Failed};
use crate::hsm::Hsm;
use crate::hsm::pkcs11::ffi::set_environment;
use crate::job::{CompletionQueue, Failure, Job, ReplyTo, Request, Success};
use crate::limits::{CHECK_TIMEOUT, HSM_STOP_TIMEOUT};
use crate::proto::Service;
use crate::settings::Settings;

/// A started HSM side and the inbox that it answers to.
pub(super) struct HsmSession {
    hsm: Arc<Hsm>,
    inbox: Arc<CompletionQueue>,
    bell: Receiver<()>,
}

impl HsmSession {
    /// Loads the module and logs in.
    pub(super) fn start(settings: &Settings, service: &Service) -> Result<Self, Failed> {
        // No thread has been started yet.
        set_environment(&settings.pkcs11.environment);
        let (ring, bell) = mpsc::channel();
        let inbox = Arc::new(CompletionQueue::new(move || {
            // Nobody listens any more once this session ends.
            let _ = ring.send(());
        }));
        let hsm = Hsm::start(settings.hsm_config(service), vec![Arc::clone(&inbox)])
            .map_err(|error| Failed::new(EXIT_SETTINGS, error.message))?;
        Ok(Self { hsm, inbox, bell })
    }

    pub(super) fn hsm(&self) -> &Hsm {
        &self.hsm
    }

    /// Has one request done, within [`CHECK_TIMEOUT`].
    pub(super) fn perform(
        &self,
        request: Request,
    ) -> Result<(Success, Zeroizing<Vec<u8>>), Failure> {
        let now = Instant::now();
        let job = Job {
            request: Arc::new(request),
            output: Zeroizing::default(),
            reply_to: ReplyTo { event_loop: 0, slot: 0, serial: 0 },
            queued_at: now,
            deadline: now + CHECK_TIMEOUT,
        };
        let mut refused = Vec::new();
        self.hsm.submit(&mut vec![job], &mut refused);
        if let Some((_, failure)) = refused.pop() {
            return Err(failure);
        }
        // A job past its deadline is dropped without an answer.
        let patience = CHECK_TIMEOUT + Duration::from_secs(1);
        self.bell.recv_timeout(patience).map_err(|_| Failure::TimedOut)?;
        let mut answers = Vec::new();
        self.inbox.take(&mut answers);
        let answer = answers.pop().ok_or(Failure::TimedOut)?;
        answer.outcome.map(|success| (success, answer.output))
    }
}

impl Drop for HsmSession {
    fn drop(&mut self) {
        self.hsm.stop(HSM_STOP_TIMEOUT);
    }
}

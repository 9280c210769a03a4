//! A blocking caller of the HSM side, one request at a time: for commands, and for the audit log's
//! writer.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::hsm::Hsm;
use crate::job::{CompletionQueue, Failure, Job, ReplyTo, Request, Success};
use crate::limits::HSM_CALLER_GRACE;
use crate::proto::xks::error::ApiError;

/// Error text for an answer that does not match the request, which is a defect.
pub(crate) const OTHER_ANSWER: &str = "the HSM side gave another answer than was asked for";

/// Returns the text of a failure, the same that callers of the API get.
pub(crate) fn told(failure: Failure) -> String {
    ApiError::from(failure).message.into_owned()
}

/// A caller's inbox, and its number among the inboxes of the HSM side.
pub(super) struct HsmCaller {
    place: u16,
    inbox: Arc<CompletionQueue>,
    bell: Receiver<()>,
    serial: Cell<u64>,
}

impl HsmCaller {
    /// Returns a caller for the inbox with that number in [`Hsm::start`].
    pub(super) fn new(place: u16) -> Self {
        let (ring, bell) = mpsc::channel();
        let inbox = CompletionQueue::of_caller(move || {
            // The receiver is gone once the caller is.
            let _ = ring.send(());
        });
        Self { place, inbox: Arc::new(inbox), bell, serial: Cell::new(0) }
    }

    /// Returns the inbox, for [`Hsm::start`].
    pub(super) fn inbox(&self) -> Arc<CompletionQueue> {
        Arc::clone(&self.inbox)
    }

    /// Performs one request within `timeout`.
    ///
    /// # Errors
    /// The failure that the HSM side reports, or [`Failure::TimedOut`].
    pub(super) fn perform(
        &self,
        hsm: &Hsm,
        request: Request,
        timeout: Duration,
    ) -> Result<(Success, Zeroizing<Vec<u8>>), Failure> {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let now = Instant::now();
        let job = Job {
            request: Arc::new(request),
            output: Zeroizing::default(),
            reply_to: ReplyTo { event_loop: self.place, slot: 0, serial },
            queued_at: now,
            deadline: now + timeout,
        };
        let mut refused = Vec::new();
        hsm.submit(&mut vec![job], &mut refused);
        if let Some((_, failure)) = refused.pop() {
            return Err(failure);
        }
        // A job past its deadline may be dropped without an answer.
        let end = now + timeout + HSM_CALLER_GRACE;
        let mut answers = Vec::new();
        loop {
            let patience = end.saturating_duration_since(Instant::now());
            self.bell.recv_timeout(patience).map_err(|_| Failure::TimedOut)?;
            self.inbox.take(&mut answers);
            // Any other answer is a late one, to an earlier request.
            let of_this = answers.drain(..).find(|answer| answer.reply_to.serial == serial);
            if let Some(answer) = of_this {
                return answer.outcome.map(|success| (success, answer.output));
            }
        }
    }
}

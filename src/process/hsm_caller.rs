//! One who asks the HSM side for one thing at a time and waits for the answer: commands, and the
//! audit log's writer.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::hsm::Hsm;
use crate::job::{CompletionQueue, Failure, Job, ReplyTo, Request, Success};
use crate::limits::HSM_CALLER_GRACE;
use crate::proto::xks::error::ApiError;

/// What it says of an answer that does not fit the request: a defect.
pub(crate) const OTHER_ANSWER: &str = "the HSM side gave another answer than was asked for";

/// Why the HSM side did not do it, for people: as callers of the API hear it.
pub(crate) fn told(failure: Failure) -> String {
    ApiError::from(failure).message.into_owned()
}

/// The inbox of one caller, and where it stands among the HSM side's inboxes.
pub(super) struct HsmCaller {
    place: u16,
    inbox: Arc<CompletionQueue>,
    bell: Receiver<()>,
    serial: Cell<u64>,
}

impl HsmCaller {
    /// A caller whose inbox the HSM side is to be started with as number `place`.
    pub(super) fn new(place: u16) -> Self {
        let (ring, bell) = mpsc::channel();
        let inbox = CompletionQueue::of_caller(move || {
            // Nobody listens any more once the caller has gone.
            let _ = ring.send(());
        });
        Self { place, inbox: Arc::new(inbox), bell, serial: Cell::new(0) }
    }

    /// For [`Hsm::start`].
    pub(super) fn inbox(&self) -> Arc<CompletionQueue> {
        Arc::clone(&self.inbox)
    }

    /// Has one request done within `timeout`.
    ///
    /// # Errors
    /// What the HSM side says, or [`Failure::TimedOut`].
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
            // Another one's is of a former request, and late.
            let of_this = answers.drain(..).find(|answer| answer.reply_to.serial == serial);
            if let Some(answer) = of_this {
                return answer.outcome.map(|success| (success, answer.output));
            }
        }
    }
}

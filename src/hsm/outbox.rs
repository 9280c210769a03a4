//! Answers on their way to the event loops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::job::{Completion, CompletionQueue};
use crate::limits::MAX_COMPLETION_HOLD;

/// The event loops' inboxes, by [`crate::job::ReplyTo::event_loop`].
pub struct Inboxes(Vec<Arc<CompletionQueue>>);

impl Inboxes {
    /// Creates the access to those inboxes.
    #[must_use]
    pub fn new(inboxes: Vec<Arc<CompletionQueue>>) -> Self {
        Self(inboxes)
    }

    /// Sends one answer at once, if there is one.
    pub fn send(&self, completion: Option<Completion>) {
        let Some(completion) = completion else { return };
        let event_loop = usize::from(completion.reply_to.event_loop);
        self.send_batch(event_loop, &mut vec![completion]);
    }

    /// Sends answers that all belong to one event loop.
    fn send_batch(&self, event_loop: usize, completions: &mut Vec<Completion>) {
        match self.0.get(event_loop) {
            Some(inbox) => inbox.push(completions),
            None => completions.clear(),
        }
    }
}

/// Answers that one worker holds briefly, so that those finished together are sent together. The
/// monitor sends them if the worker's next call unexpectedly takes long.
#[derive(Default)]
pub struct Outbox {
    by_loop: Vec<Vec<Completion>>,
    oldest: Option<Instant>,
}

impl Outbox {
    /// Holds an answer that was finished at `now`.
    pub fn add(&mut self, completion: Completion, now: Instant) {
        let event_loop = usize::from(completion.reply_to.event_loop);
        if self.by_loop.len() <= event_loop {
            self.by_loop.resize_with(event_loop + 1, Vec::new);
        }
        self.by_loop[event_loop].push(completion);
        self.oldest.get_or_insert(now);
    }

    /// Returns whether the oldest answer would wait too long if the next call took that long.
    #[must_use]
    pub fn is_due(&self, now: Instant, next_call: Duration) -> bool {
        self.oldest.is_some_and(|oldest| now - oldest + next_call > MAX_COMPLETION_HOLD)
    }

    /// Sends all answers.
    pub fn send_all(&mut self, inboxes: &Inboxes) {
        if self.oldest.take().is_some() {
            for (event_loop, completions) in self.by_loop.iter_mut().enumerate() {
                inboxes.send_batch(event_loop, completions);
            }
        }
    }
}

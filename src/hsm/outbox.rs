//! Answers that a worker holds for a moment, so that those finished together leave together.

use std::time::{Duration, Instant};

use super::fleet::Fleet;
use crate::job::Completion;
use crate::limits::MAX_COMPLETION_HOLD;

/// One worker's. The monitor sends what is in it if the worker's next call takes long after all.
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

    /// Whether the oldest would have waited too long once the next call, of that length, is over.
    #[must_use]
    pub fn is_due(&self, now: Instant, next_call: Duration) -> bool {
        self.oldest.is_some_and(|oldest| now - oldest + next_call > MAX_COMPLETION_HOLD)
    }

    /// Sends all.
    pub fn send_all(&mut self, fleet: &Fleet) {
        if self.oldest.take().is_some() {
            for (event_loop, completions) in self.by_loop.iter_mut().enumerate() {
                fleet.send(event_loop, completions);
            }
        }
    }
}

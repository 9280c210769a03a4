//! Concurrent attempts at one request: the first answer wins.

use crate::job::{Failure, Success};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// State shared by the attempts at one request, once there are several.
#[derive(Debug)]
pub struct Race {
    /// Number of attempts that may still answer the request.
    running: AtomicU32,
    is_over: AtomicBool,
}

impl Race {
    /// Creates the race between the first attempt, which is under way, and a second one.
    #[must_use]
    pub fn of_two() -> Self {
        Self { running: AtomicU32::new(2), is_over: AtomicBool::new(false) }
    }

    /// Adds an attempt.
    pub fn join(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes an attempt that was not made after all.
    pub fn leave(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns whether the request has been answered, so that further work on it is useless.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Ends an attempt with that outcome. Returns whether the outcome is the request's answer. A
    /// result or an invalid ciphertext is, if it is the first; any other failure is, if no other
    /// attempt can do better.
    pub fn finish(&self, outcome: &Result<Success, Failure>) -> bool {
        let is_final = matches!(outcome, Ok(_) | Err(Failure::InvalidCiphertext));
        // First of all, or an attempt that fails now could be the last one and give its failure as
        // the answer.
        let is_answer = is_final && !self.is_over.swap(true, Ordering::AcqRel);
        let is_last = self.running.fetch_sub(1, Ordering::AcqRel) <= 1;
        is_answer || (is_last && !self.is_over.swap(true, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Result<Success, Failure> = Ok(Success::Decrypted);
    const FAILED: Result<Success, Failure> = Err(Failure::NoToken);

    /// There is one answer, whichever attempt is first.
    #[test]
    fn the_first_answer_wins() {
        let race = Race::of_two();
        assert!(!race.is_over());
        assert!(race.finish(&DONE) && race.is_over() && !race.finish(&DONE));
        let race = Race::of_two();
        assert!(race.finish(&Err(Failure::InvalidCiphertext)) && !race.finish(&FAILED));
    }

    /// A failure waits for the attempts that may do better, and is the answer if none does.
    #[test]
    fn a_failure_is_answered_last() {
        let race = Race::of_two();
        assert!(!race.finish(&FAILED) && race.finish(&DONE));
        let race = Race::of_two();
        race.join();
        assert!(!race.finish(&FAILED) && !race.finish(&FAILED) && race.finish(&FAILED));
    }
}

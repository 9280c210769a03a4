//! Several attempts at one request, at the same time: the first answer wins.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::job::{Failure, Success};

/// What the attempts at one request share, once there is more than one.
#[derive(Debug)]
pub struct Race {
    /// Attempts that may still answer.
    running: AtomicU32,
    is_over: AtomicBool,
}

impl Race {
    /// With the first attempt, which is under way, and one more.
    #[must_use]
    pub fn of_two() -> Self {
        Self { running: AtomicU32::new(2), is_over: AtomicBool::new(false) }
    }

    /// One attempt more.
    pub fn join(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// One attempt less, which was never made.
    pub fn leave(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the request is answered: further work on it is of no use.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// An attempt ends with that outcome. Says whether it is the request's answer: a result and
    /// a verdict on the ciphertext are, if they are the first; another failure is, if no other
    /// attempt may do better.
    pub fn finish(&self, outcome: &Result<Success, Failure>) -> bool {
        let is_last = self.running.fetch_sub(1, Ordering::AcqRel) <= 1;
        let is_final = matches!(outcome, Ok(_) | Err(Failure::InvalidCiphertext));
        (is_final || is_last) && !self.is_over.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Result<Success, Failure> = Ok(Success::Decrypted);
    const FAILED: Result<Success, Failure> = Err(Failure::NoToken);

    /// One answer, whoever is first.
    #[test]
    fn the_first_answer_wins() {
        let race = Race::of_two();
        assert!(!race.is_over());
        assert!(race.finish(&DONE) && race.is_over() && !race.finish(&DONE));
        let race = Race::of_two();
        assert!(race.finish(&Err(Failure::InvalidCiphertext)) && !race.finish(&FAILED));
    }

    /// A failure waits for those who may do better, and is the answer if none does.
    #[test]
    fn a_failure_is_answered_last() {
        let race = Race::of_two();
        assert!(!race.finish(&FAILED) && race.finish(&DONE));
        let race = Race::of_two();
        race.join();
        assert!(!race.finish(&FAILED) && !race.finish(&FAILED) && race.finish(&FAILED));
    }
}

//! The HSM side with tokens whose behaviour the test sets.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/caller.rs"]
mod caller;
mod token;

mod engine;
mod fleet;
mod panics;

//! `xks-proxy probe` against our own proxy, which has to pass, and against stand-ins that each do
//! one thing wrong, which have to fail the check that is about it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod broken;
mod ours;
mod output;
mod run;
mod stand_in;
mod tls;
mod wire;

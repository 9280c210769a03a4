//! `xks-proxy probe` against our own proxy, which must pass, and against stand-ins with one fault
//! each, which must fail the check for that fault.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod broken;
mod earlier;
mod hostile;
mod kms;
mod metadata;
mod ours;
mod output;
mod reports;
mod run;
mod stand_in;
mod tls;
mod watch;
mod wire;

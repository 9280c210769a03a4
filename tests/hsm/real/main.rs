//! The HSM side with tokens of real PKCS#11 modules.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/caller.rs"]
mod caller;
mod interposed;
#[path = "../support/tokens.rs"]
mod tokens;
#[path = "../../common/tools.rs"]
mod tools;

mod faults;
mod fleet_faults;
mod key_names;
mod logins;
mod modules;
mod oddities;
mod proofs;
mod proofs_random;

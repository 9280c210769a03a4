//! The protocol core without a socket: input split anywhere, time passed as an argument,
//! completions from an HSM in memory, signatures by AWS's own signer.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod audit;
mod aws_suite;
mod calls;
mod changes;
mod connection;
mod errors;
mod fixed_ciphertexts;
mod json;
mod json_model;
mod rig;
mod seeds;
mod sigv4;
mod versions;

//! The HSM side: takes jobs and returns completions.
//!
//! ```text
//!  event loop ──submit──► fleet ──► queue (per token) ──► worker = session ──► event loop's inbox
//!                                     health checker: connects, checks health, lists keys, recovers
//!                                     monitor: abandons hanging calls, starts threads
//! ```
//!
//! Only [`pkcs11`] depends on PKCS#11; everything else uses a token through the traits of
//! [`backend`].

mod attribution;
pub mod backend;
pub mod circuit_breaker;
pub mod config;
mod deferred;
mod evidence_keys;
mod faults;
pub mod fleet;
mod handle;
pub mod health;
mod health_checker;
mod hedge;
mod hedge_budget;
pub mod in_flight_call;
pub mod inventory;
pub mod key_breaker;
pub mod key_date;
pub mod key_hangs;
pub mod key_search;
pub mod latency;
#[cfg(all(test, feature = "models"))]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod models;
mod monitor;
mod monitored_session;
mod outbox;
pub mod pkcs11;
pub mod proofs;
mod prover;
pub mod queue;
pub mod queued;
pub mod race;
mod retry;
mod selection;
pub mod service_time;
pub mod signal;
mod start;
mod stats;
pub mod token;
pub mod token_set;
pub mod usage;
pub mod witness;
mod worker;
pub mod worker_pool;

pub use handle::Hsm;
pub use start::StartError;
pub use stats::{KeyOutOfUse, TokenStats};

//! An AWS KMS external key store (XKS) proxy for PKCS#11 HSMs.
//!
//! The path of one request; the numbers are the order of events:
//!
//! ```text
//!  server::event_loop   1 accept, readiness            proto: bytes, the time and completions
//!  server::tls          2 rustls, bytes <-> plaintext         go in; bytes and jobs come out
//!  proto::http          3 request head, body framing
//!  proto::route         4 method and path -> call
//!  proto::sigv4         5 canonical request, verification
//!  proto::xks::decode   6 JSON -> typed call
//!  proto::xks::authorize 7 the store's keys, its policy (`policy`), its quota
//!  hsm::queue           8 bounded shards of jobs, per token
//!  hsm::worker          9 one thread = one PKCS#11 session
//!  hsm::pkcs11         10 C_EncryptInit, C_Encrypt / C_DecryptInit, C_Decrypt
//!  proto::xks::encode  11 the answer, or the one map from error to HTTP
//!  server::peer::sending 12 write
//! ```
//!
//! `proto` and `hsm` do not depend on each other; they share only the types of [`job`].
//!
//! In addition, [`cli`] has a file for each command, `process` contains the life of the daemon, and
//! [`probe`] and `demo` call a proxy through [`client`].

pub mod admin;
mod backoff;
pub mod certificate;
pub mod cli;
pub mod client;
mod decimal;
#[cfg(feature = "demo")]
pub mod demo;
pub mod exit;
pub mod hsm;
pub mod job;
pub mod key_name;
pub mod limits;
mod new_file;
pub mod observe;
mod output;
pub mod partition;
pub mod policy;
pub mod probe;
mod process;
pub mod proto;
mod random;
pub mod rate;
pub mod server;
pub mod settings;
pub mod state;
pub mod sync;

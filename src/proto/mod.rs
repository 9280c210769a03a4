//! The protocol core, without I/O: bytes, the time and completions go in; bytes and jobs come out.
//!
//! Nothing here names a socket, a thread or a clock. A [`Connection`] is the state of one peer. A
//! [`LoopState`] is what all connections of an event loop share: the service's configuration,
//! pools, signing keys and scratch buffers.

pub mod buffer;
pub mod connection;
mod exchange;
pub mod http;
pub mod loop_state;
pub mod proxy_header;
pub mod quota;
pub mod route;
pub mod service_config;
pub mod sigv4;
pub mod span;
pub mod store;
pub mod xks;

pub use connection::{Connection, Step, Wait};
pub use loop_state::{LoopState, Snapshot};
pub use route::Listener;
pub use service_config::{ServiceConfig, ServiceOptions};
pub use sigv4::credential::CredentialConfig;
pub use store::{Store, StoreConfig, Version, VersionedKey};

//! Shared code of the end-to-end tests: a token, certificates, settings, the proxy as a process,
//! and a client independent of the proxy's own code.
//!
//! The program under test is the one that cargo built; `XKS_TEST_PROXY_BINARY` names another one to
//! run the tests against (the reference proxy, or an installed one).

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unused_imports, reason = "each test program uses a part")]

pub mod certificates;
pub mod client;
pub mod http;
pub mod interposed;
pub mod proxy;
pub mod settings;
pub mod signing;
pub mod template;
pub mod token;
pub mod tools;
pub mod xks;

pub use client::Client;
pub use http::{Connection, Response};
pub use interposed::Interposed;
pub use proxy::{Prepared, Proxy, Setup};
pub use settings::Store;
pub use token::Token;

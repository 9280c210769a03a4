//! Copies of the log and of the audit log for syslog collectors (RFC 5424).
//!
//! ```text
//!  log::outputs    the log's lines, at each turn of an event loop ----+
//!  audit::writer   the audit log's lines, once they are in the file --+
//!                                                                     v
//!  forwarder       line_queue: bounded; adding never waits for it
//!                  message: severity, time, sequence number
//!                  connection: Unix socket, TCP, TLS
//! ```
//!
//! There is a forwarder, with its own thread and connection, for each collector and each of the two
//! logs, so that neither delays the other, nor takes its space.

pub mod config;
mod connection;
pub mod copies;
mod forwarder;
mod message;
mod start;
mod stats;
pub mod tls;

pub use self::config::{Address, Facility, SyslogConfig};
pub use self::start::Syslog;
pub use self::stats::{LostAtStop, SyslogStats};

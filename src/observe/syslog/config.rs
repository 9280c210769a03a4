//! The configuration of the forwarding to one collector.

use std::path::PathBuf;

pub use syslog_fmt::Facility;

use super::tls::ClientTls;

/// `[[syslog]]`
#[derive(Clone, Debug)]
pub struct SyslogConfig {
    /// `server` and `transport`
    pub address: Address,
    /// `tag`: the APP-NAME of messages (RFC 5424, 6.2.5).
    pub tag: String,
    /// Facility of the log's lines; `None` if `send` leaves them out.
    pub log: Option<Facility>,
    /// Facility of the audit log's lines; `None` if `send` leaves them out.
    pub audit: Option<Facility>,
    /// Bytes of each log's lines that may wait for the collector.
    pub backlog_bytes: usize,
}

/// Address and transport of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Path of a socket that takes each message as a datagram.
    UnixDatagram(PathBuf),
    /// Path of a socket that takes a stream of messages.
    UnixStream(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
    /// `host:port`, and the configuration of TLS.
    Tls(String, ClientTls),
}

impl SyslogConfig {
    /// Returns the number of forwarders: one for each log that is sent.
    #[must_use]
    pub fn forwarders(&self) -> u64 {
        u64::from(self.log.is_some()) + u64::from(self.audit.is_some())
    }

    /// Returns whether a forwarder for `other` can go on with this configuration. Certificates, keys
    /// and the memory that there is may differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let code = |facility: &Option<Facility>| facility.map(|facility| facility as u8);
        self.address == other.address
            && self.tag == other.tag
            && code(&self.log) == code(&other.log)
            && code(&self.audit) == code(&other.audit)
    }
}

impl Address {
    /// Returns the collector as it is shown in log, metrics and status.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::UnixDatagram(path) | Self::UnixStream(path) => format!("unix:{}", path.display()),
            Self::Tcp(host_port) | Self::Tls(host_port, _) => host_port.clone(),
        }
    }
}

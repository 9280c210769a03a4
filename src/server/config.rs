//! What the event loops are started with.

use std::net::IpAddr;
use std::time::Duration;

use super::tls::Acceptor;

/// Listeners and their connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on.
    pub ip: IpAddr,
    /// Port of the XKS API. 0 lets the system choose.
    pub port: u16,
    /// Port of the plain-HTTP `/ping` and `/readyz`. If it equals `port`, there is one listener,
    /// and it is the API's.
    pub port_http_ping: u16,
    /// TLS on the API's port.
    pub tls: Option<Acceptor>,
    /// Probes of quiet connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Event loops; 0 chooses by the number of cores.
    pub event_loops: usize,
    /// Connections in all, over all event loops.
    pub max_connections: usize,
}

/// `[server.tcp_keepalive]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is dead.
    pub retries: Option<u32>,
}

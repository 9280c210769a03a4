//! What the event loops are started with.

use std::net::IpAddr;
use std::time::Duration;

use super::network::Network;
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
    /// Connections of one client, by its address.
    pub max_connections_per_address: Option<u32>,
    /// Memory that all connections together may hold, in bytes.
    pub max_buffered_bytes: usize,
    /// TLS handshakes begun in a second; 0 is no bound.
    pub max_tls_handshakes_per_sec: u32,
    /// Peers that have to begin each connection with a PROXY protocol header. Others must not.
    pub proxy_protocol_from: Vec<Network>,
}

#[cfg(test)]
impl Config {
    /// Any port of the loopback address, and no bounds that a test would meet.
    pub(super) fn local() -> Self {
        Self {
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 0,
            port_http_ping: 0,
            tls: None,
            tcp_keepalive: None,
            event_loops: 1,
            max_connections: 1000,
            max_connections_per_address: None,
            max_buffered_bytes: usize::MAX,
            max_tls_handshakes_per_sec: 0,
            proxy_protocol_from: Vec::new(),
        }
    }
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

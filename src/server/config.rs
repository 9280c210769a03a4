//! Configuration of the event loops.

use std::net::IpAddr;
use std::time::Duration;

use super::network::Network;
use super::tls::Acceptor;

/// Listeners and limits on their connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on.
    pub ip: IpAddr,
    /// Port of the XKS API. 0 lets the system choose.
    pub port: u16,
    /// Port of the plain-HTTP `/ping` and `/readyz`. If it equals `port`, the API's listener serves
    /// them.
    pub port_http_ping: u16,
    /// TLS on the API's port.
    pub tls: Option<Acceptor>,
    /// TCP keepalive of quiet connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Number of event loops; 0 means a number that depends on the cores.
    pub event_loops: usize,
    /// Limit on connections over all event loops.
    pub max_connections: usize,
    /// Limit on connections of one client, by its address.
    pub max_connections_per_address: Option<u32>,
    /// Limit on the memory that all connections together hold, in bytes.
    pub max_buffered_bytes: usize,
    /// Limit on TLS handshakes begun per second; 0 means none.
    pub max_tls_handshakes_per_sec: u32,
    /// Networks of peers that begin connections with a PROXY protocol header. Other peers must not
    /// send one.
    pub proxy_protocol_from: Vec<Network>,
    /// Whether those peers must do so.
    pub proxy_protocol: ProxyProtocol,
}

/// The rule for PROXY protocol headers from the networks that may send them
/// (`[server] proxy_protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Each connection must begin with a header, whose address counts as the client's.
    #[default]
    Require,
    /// A header may be missing, for the time in which the load balancer is switched over. Since a
    /// client behind the load balancer could then send a header of its own, the addresses in
    /// headers are ignored.
    Accept,
}

#[cfg(test)]
impl Config {
    /// A configuration with any port of the loopback address, and no limits that a test would
    /// reach.
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
            proxy_protocol: ProxyProtocol::default(),
        }
    }
}

/// Settings of TCP keepalive (`[server.tcp_keepalive]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Idle time before the first keepalive probe.
    pub idle: Duration,
    /// Time between keepalive probes.
    pub interval: Option<Duration>,
    /// Number of unanswered keepalive probes after which the connection is dead.
    pub retries: Option<u32>,
}

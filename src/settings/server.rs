//! `[server]` and `[server.tcp_keepalive]`

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::load_balancer;
use super::section::{Member, Section, shown};
use crate::limits::{
    DEFAULT_DRAIN_DELAY_MILLI, DEFAULT_DRAIN_TIMEOUT_MILLI, DEFAULT_PING_PORT,
    DEFAULT_UNREADY_AT_CLOCK_SKEW_SECS, MAX_CIPHERTEXT_METADATA_BYTES, MAX_CLOCK_SKEW,
    MAX_EVENT_LOOPS, MAX_PROXY_NETWORKS, MAX_TCP_KEEPALIVE_PROBES, MAX_TCP_KEEPALIVE_SECS,
    MAX_TIMEOUT_MILLI,
};
use crate::partition;
use crate::proto::xks::version_tag;
use crate::server::config::{ProxyProtocol, TcpKeepalive};
use crate::server::network::Network;

const IP_REMEDY: &str = "write an IPv4 or IPv6 address, such as \"0.0.0.0\" for all interfaces";
const NETWORKS_REMEDY: &str = "write a list of networks, each as its first address and its prefix \
                               length, such as [\"10.0.0.0/8\"]";
const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 2] =
    [("require", ProxyProtocol::Require), ("accept", ProxyProtocol::Accept)];
const PROXY_PROTOCOL_REMEDY: &str = "add proxy_protocol_from with the networks of the load \
                                     balancer, or remove it";
const REGION_REMEDY: &str = "write the AWS Region of the key store, such as \"us-east-1\"";
const SERVICE_REMEDY: &str = "write \"kms-xks-proxy\"";

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Address to listen on.
    pub ip: IpAddr,
    /// Port of the XKS API. If it is 0, the system chooses one (for tests).
    pub port: u16,
    /// Port of `/ping` and `/readyz` over plain HTTP; may equal `port`. If it is 0, the system
    /// chooses one.
    pub port_http_ping: u16,
    /// The Region that a SigV4 scope must contain.
    pub region: String,
    /// The service that a SigV4 scope must contain.
    pub service: String,
    /// Decoded `ciphertext_metadata_b64`, at most 20 bytes; `None` if it is missing.
    pub ciphertext_metadata: Option<Vec<u8>>,
    /// `[server.tcp_keepalive]`, if `tcp_keepalive_secs` is present.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Number of event loops; 0 derives it from the number of cores.
    pub event_loops: usize,
    /// Time after SIGTERM during which the proxy is not ready but still accepts.
    pub drain_delay: Duration,
    /// Additional time for requests in flight.
    pub drain_timeout: Duration,
    /// Networks of peers that begin each connection with a PROXY protocol header (version 2).
    pub proxy_protocol_from: Vec<Network>,
    /// Whether those peers must do so.
    pub proxy_protocol: ProxyProtocol,
    /// Number of proxies that serve these stores, at least 1; reported as `xksProxyFleetSize` in
    /// health answers.
    pub fleet_size: u32,
    /// Difference between this machine's clock and that of the signed requests from which on
    /// `/readyz` is 503; 0 means never.
    pub unready_at_clock_skew: Duration,
    /// File that holds the process id while the proxy serves.
    pub pid_file: Option<PathBuf>,
}

pub(super) fn read(root: &Section<'_>, environment: Environment<'_>) -> Option<Server> {
    let section = root.require_section("server", "add it with ip, port, region and service")?;
    let ip = section.require("ip", IP_REMEDY).and_then(|member| ip(&member));
    let port_remedy = "write the port that KMS connects to, such as 443";
    let port = section.require("port", port_remedy).and_then(|member| port(&member));
    let port_http_ping = section.value_or("port_http_ping", DEFAULT_PING_PORT, self::port);
    let region = section.require("region", REGION_REMEDY).and_then(|member| region(&member));
    let service = section
        .require("service", SERVICE_REMEDY)
        .and_then(|member| scope(&member, SERVICE_REMEDY));
    let ciphertext_metadata = section.optional("ciphertext_metadata_b64", metadata);
    let tcp_keepalive = tcp_keepalive(&section);
    let event_loops = section.integer_or(
        "event_loops",
        0..=MAX_EVENT_LOOPS as u64,
        "a number of threads (0: by cores)",
        0,
    );
    let drain_delay = drain(&section, "drain_delay_milli", DEFAULT_DRAIN_DELAY_MILLI);
    let drain_timeout = drain(&section, "drain_timeout_milli", DEFAULT_DRAIN_TIMEOUT_MILLI);
    let fleet_size =
        section.integer_or("fleet_size", 1..=u64::from(u32::MAX), "a number of proxies", 1);
    let unready_at_clock_skew = section.integer_or(
        "unready_at_clock_skew_secs",
        0..=MAX_CLOCK_SKEW.as_secs(),
        "a number of seconds (0: never)",
        DEFAULT_UNREADY_AT_CLOCK_SKEW_SECS,
    );
    let proxy_protocol_from = section.value_or("proxy_protocol_from", Vec::new(), networks);
    let proxy_protocol = proxy_protocol(&section, proxy_protocol_from.as_deref());
    let sends_headers = proxy_protocol_from.as_ref().is_some_and(|networks| !networks.is_empty());
    let is_checked = load_balancer::check(&section, drain_delay, sends_headers, environment);
    let pid_file = section.optional("pid_file", pid_file);
    is_checked?;
    Some(Server {
        ip: ip?,
        port: port?,
        port_http_ping: port_http_ping?,
        region: region?,
        service: service?,
        ciphertext_metadata: ciphertext_metadata?,
        tcp_keepalive: tcp_keepalive?,
        event_loops: event_loops?,
        drain_delay: drain_delay?,
        drain_timeout: drain_timeout?,
        fleet_size: fleet_size?,
        unready_at_clock_skew: Duration::from_secs(unready_at_clock_skew?),
        proxy_protocol_from: proxy_protocol_from?,
        proxy_protocol: proxy_protocol?,
        pid_file: pid_file?,
    })
}

pub(super) fn ip(member: &Member<'_>) -> Option<IpAddr> {
    let text = member.string(IP_REMEDY)?;
    let ip = text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    if ip.is_none() {
        member.mistake(format!("\"{}\" is not an IP address", shown(text)), IP_REMEDY);
    }
    ip
}

fn pid_file(member: &Member<'_>) -> Option<PathBuf> {
    let remedy =
        "write the path of a file that the proxy may create, such as \"/run/xks-proxy.pid\"";
    let text = member.string(remedy)?;
    if text.is_empty() || text.contains('\0') {
        member.mistake("it is not a valid file name", remedy);
        return None;
    }
    Some(PathBuf::from(text))
}

fn networks(member: &Member<'_>) -> Option<Vec<Network>> {
    let items = member.strings(NETWORKS_REMEDY)?;
    if items.len() > MAX_PROXY_NETWORKS {
        let problem = format!("it has {} networks", items.len());
        member.mistake(problem, format!("write no more than {MAX_PROXY_NETWORKS}"));
        return None;
    }
    let networks: Vec<Option<Network>> = items
        .into_iter()
        .map(|(location, text)| {
            let network = text.parse().ok();
            if network.is_none() {
                let problem = format!("\"{}\" is not a network", shown(text));
                member.report().mistake(&location, problem, NETWORKS_REMEDY);
            }
            network
        })
        .collect();
    networks.into_iter().collect()
}

/// Reads the rule for headers from `networks`, if those could be read.
fn proxy_protocol(section: &Section<'_>, networks: Option<&[Network]>) -> Option<ProxyProtocol> {
    let default = ProxyProtocol::default();
    let rule = section.choice("proxy_protocol", &PROXY_PROTOCOLS, default)?;
    let Some(member) = section.get("proxy_protocol") else { return Some(rule) };
    if networks.is_some_and(<[Network]>::is_empty) {
        member.warning("it has no effect: no network may send headers", PROXY_PROTOCOL_REMEDY);
    } else if rule == ProxyProtocol::Accept {
        let problem = "this is for the time of a change-over: headers may be missing, and a client \
                       behind the load balancer could send one of its own, so the addresses in \
                       them are ignored";
        let remedy = "set it to \"require\" once the load balancer sends headers";
        member.warning(problem, remedy);
    }
    Some(rule)
}

pub(super) fn port(member: &Member<'_>) -> Option<u16> {
    member.integer(0..=u64::from(u16::MAX), "a port")
}

/// Reads a part of the SigV4 scope, in which slashes separate the parts. KMS sends no other
/// characters than those allowed here.
fn region(member: &Member<'_>) -> Option<String> {
    let region = scope(member, REGION_REMEDY)?;
    if partition::known(&region).is_none() {
        let problem = format!(
            "\"{}\" is a Region of no partition that this version knows: names in messages are \
             those of commercial Regions",
            shown(&region)
        );
        member.warning(problem, REGION_REMEDY);
    }
    Some(region)
}

fn scope(member: &Member<'_>, remedy: &str) -> Option<String> {
    let text = member.string(remedy)?;
    if text.is_empty() {
        member.mistake("it is empty", remedy);
        return None;
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !text.bytes().all(is_allowed) {
        let problem = format!("\"{}\" has characters other than a-z, 0-9 and '-'", shown(text));
        member.mistake(problem, remedy);
        return None;
    }
    Some(text.to_owned())
}

fn metadata(member: &Member<'_>) -> Option<Vec<u8>> {
    let remedy = "write base64, for example what `printf v1 | base64` prints for the text \"v1\"";
    let text = member.string(remedy)?;
    // The decoder rejects white space, missing padding, and non-zero bits after the last byte.
    let Ok(bytes) = base64_simd::STANDARD.decode_to_vec(text) else {
        member.mistake("it is not canonical base64 (RFC 4648, 4)", remedy);
        return None;
    };
    if bytes.len() > MAX_CIPHERTEXT_METADATA_BYTES {
        let problem = format!("it has {} bytes once decoded", bytes.len());
        let remedy = format!("shorten it to {MAX_CIPHERTEXT_METADATA_BYTES} bytes");
        member.mistake(problem, remedy);
        return None;
    }
    if bytes.starts_with(&version_tag::PREFIX) {
        let problem = "its first two bytes, 00 6b, mark the tag of a key's version";
        member.mistake(problem, "let it begin with other bytes");
        return None;
    }
    Some(bytes)
}

fn tcp_keepalive(server: &Section<'_>) -> Option<Option<TcpKeepalive>> {
    let Some(section) = server.section("server.tcp_keepalive") else {
        return Some(None);
    };
    let seconds_of =
        |member: &Member<'_>| member.integer(1..=MAX_TCP_KEEPALIVE_SECS, "a number of seconds");
    let idle = section.optional("tcp_keepalive_secs", seconds_of);
    let interval = section.optional("tcp_keepalive_interval_secs", seconds_of);
    let retries = section.optional("tcp_keepalive_retries", |member| {
        member.integer(1..=MAX_TCP_KEEPALIVE_PROBES, "a number of probes")
    });
    let (idle, interval, retries) = (idle?, interval?, retries?);
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    if idle.is_none() && (interval.is_some() || retries.is_some()) {
        section.report().warning(
            &section.location(),
            "keepalive probes are sent only with tcp_keepalive_secs",
            "add tcp_keepalive_secs = 60",
        );
    }
    Some(idle.map(|idle| TcpKeepalive {
        idle: seconds(idle),
        interval: interval.map(seconds),
        retries,
    }))
}

fn drain(section: &Section<'_>, name: &str, default: u64) -> Option<Duration> {
    let range = 0..=MAX_TIMEOUT_MILLI;
    let milli = section.integer_or(name, range, "a number of milliseconds", default);
    milli.map(Duration::from_millis)
}

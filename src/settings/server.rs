//! `[server]` and `[server.tcp_keepalive]`

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Server;
use super::section::{Member, Section, shown};
use crate::limits::{
    DEFAULT_DRAIN_DELAY_MILLI, DEFAULT_DRAIN_TIMEOUT_MILLI, MAX_CIPHERTEXT_METADATA_BYTES,
    MAX_EVENT_LOOPS, MAX_PROXY_NETWORKS, MAX_TIMEOUT_MILLI,
};
use crate::server::config::TcpKeepalive;
use crate::server::network::Network;

/// The port of `/ping` where `port_http_ping` is absent, as in the reference proxy.
const DEFAULT_PORT_HTTP_PING: u16 = 80;
/// Linux: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` (include/net/tcp.h).
const MAX_KEEPALIVE_SECS: u64 = 32_767;
/// Linux: `MAX_TCP_KEEPCNT` (include/net/tcp.h).
const MAX_KEEPALIVE_PROBES: u64 = 127;

const IP_REMEDY: &str = "write an IPv4 or IPv6 address, such as \"0.0.0.0\" for all interfaces";
const NETWORKS_REMEDY: &str = "write a list of networks, each its first address and the number of \
                               bits that are the same in all, such as [\"10.0.0.0/8\"]";
const REGION_REMEDY: &str = "write the AWS Region of the key store, such as \"us-east-1\"";
const SERVICE_REMEDY: &str = "write \"kms-xks-proxy\"";

pub(super) fn read(root: &Section<'_>) -> Option<Server> {
    let section = root.require_section("server", "add it with ip, port, region and service")?;
    let ip = section.require("ip", IP_REMEDY).and_then(|member| ip(&member));
    let port_remedy = "write the port that KMS connects to, such as 443";
    let port = section.require("port", port_remedy).and_then(|member| port(&member));
    let port_http_ping = match section.get("port_http_ping") {
        Some(member) => self::port(&member),
        None => Some(DEFAULT_PORT_HTTP_PING),
    };
    let region =
        section.require("region", REGION_REMEDY).and_then(|member| scope(&member, REGION_REMEDY));
    let service = section
        .require("service", SERVICE_REMEDY)
        .and_then(|member| scope(&member, SERVICE_REMEDY));
    let ciphertext_metadata = match section.get("ciphertext_metadata_b64") {
        Some(member) => metadata(&member).map(Some),
        None => Some(None),
    };
    let tcp_keepalive = tcp_keepalive(&section);
    let event_loops = match section.get("event_loops") {
        Some(member) => {
            member.integer(0..=MAX_EVENT_LOOPS as u64, "a number of threads (0: by cores)")
        }
        None => Some(0),
    };
    let drain_delay = drain(&section, "drain_delay_milli", DEFAULT_DRAIN_DELAY_MILLI);
    let drain_timeout = drain(&section, "drain_timeout_milli", DEFAULT_DRAIN_TIMEOUT_MILLI);
    let fleet_size = match section.get("fleet_size") {
        Some(member) => member.integer(1..=u64::from(u32::MAX), "a number of proxies"),
        None => Some(1),
    };
    let proxy_protocol_from = match section.get("proxy_protocol_from") {
        Some(member) => networks(&member),
        None => Some(Vec::new()),
    };
    let pid_file = match section.get("pid_file") {
        Some(member) => pid_file(&member).map(Some),
        None => Some(None),
    };
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
        proxy_protocol_from: proxy_protocol_from?,
        pid_file: pid_file?,
    })
}

pub(super) fn ip(member: &Member<'_>) -> Option<IpAddr> {
    let text = member.string(IP_REMEDY)?;
    let ip = text.parse().ok();
    if ip.is_none() {
        member.mistake(format!("\"{}\" is not an IP address", shown(text)), IP_REMEDY);
    }
    ip
}

fn pid_file(member: &Member<'_>) -> Option<PathBuf> {
    let remedy = "write the path of a file that the proxy may make, such as \"/run/xks-proxy.pid\"";
    let text = member.string(remedy)?;
    if text.is_empty() || text.contains('\0') {
        member.mistake("it cannot be a file's name", remedy);
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

pub(super) fn port(member: &Member<'_>) -> Option<u16> {
    member.integer(0..=u64::from(u16::MAX), "a port")
}

/// A part of the SigV4 scope. It is separated by slashes, and KMS sends no other characters.
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
    let remedy = "write what `printf v1 | base64` prints for the text \"v1\", for instance";
    let text = member.string(remedy)?;
    // The decoder refuses white space, missing padding and bits beyond the last byte.
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
    Some(bytes)
}

fn tcp_keepalive(server: &Section<'_>) -> Option<Option<TcpKeepalive>> {
    let Some(section) = server.section("server.tcp_keepalive") else {
        return Some(None);
    };
    let read = |name, range: std::ops::RangeInclusive<u64>, unit| match section.get(name) {
        Some(member) => member.integer::<u32>(range, unit).map(Some),
        None => Some(None),
    };
    let idle = read("tcp_keepalive_secs", 1..=MAX_KEEPALIVE_SECS, "a number of seconds");
    let interval =
        read("tcp_keepalive_interval_secs", 1..=MAX_KEEPALIVE_SECS, "a number of seconds");
    let retries = read("tcp_keepalive_retries", 1..=MAX_KEEPALIVE_PROBES, "a number of probes");
    let (idle, interval, retries) = (idle?, interval?, retries?);
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    if idle.is_none() && (interval.is_some() || retries.is_some()) {
        section.report().warning(
            &section.location(),
            "without tcp_keepalive_secs no probes are sent",
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
    let milli = match section.get(name) {
        Some(member) => member.integer(0..=MAX_TIMEOUT_MILLI, "a number of milliseconds"),
        None => Some(default),
    };
    milli.map(Duration::from_millis)
}

//! `[admin]`: the listener for metrics and the status page, which is optional.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::section::Section;
use super::server::{self, Server};
use super::tls::{self, Tls};

const PORT_REMEDY: &str = "write the port that Prometheus and browsers connect to, such as 9443";
const TLS_REMEDY: &str = "write both tls_cert_pem and tls_key_pem, or neither";

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address to listen on. Without TLS it is a loopback address, unless `allow_plain_remote` is
    /// set.
    pub address: SocketAddr,
    /// `tls_cert_pem`, `tls_key_pem` and `client_ca_pem`, if present.
    pub tls: Option<Tls>,
}

/// Reads the section; returns `Some(None)` if it is missing.
pub(super) fn read(root: &Section<'_>, server: Option<&Server>) -> Option<Option<Admin>> {
    if root.get("admin").is_none() {
        return Some(None);
    }
    let section = root.section("admin")?;
    let ip = section.value_or("ip", IpAddr::V4(Ipv4Addr::LOCALHOST), server::ip);
    let port = section.require("port", PORT_REMEDY).and_then(|member| server::port(&member));
    let allow_plain_remote = section.switch("allow_plain_remote");
    let tls = read_tls(&section);
    let (ip, port, allow_plain_remote) = (ip?, port?, allow_plain_remote?);
    let tls = tls?;
    // Any address other than a loopback one can be reached from other machines.
    if !ip.is_loopback() {
        let location = section.location_of("ip");
        match &tls {
            None if !allow_plain_remote => {
                let problem = format!("{ip} can be reached from other machines, without TLS");
                let remedy = "set ip to \"127.0.0.1\", or add tls_cert_pem, tls_key_pem and \
                              client_ca_pem, or set allow_plain_remote to true if the network \
                              keeps others away";
                section.report().mistake(&location, problem, remedy);
                return None;
            }
            Some(tls) if !tls.is_client_certificate_required => {
                let problem = "anyone who can reach the port can read metrics and status";
                let remedy = "add client_ca_pem, so that only those with a certificate can";
                section.report().warning(&location, problem, remedy);
            }
            _ => {}
        }
    }
    let address = SocketAddr::new(ip, port);
    if let Some(server) = server
        && let Some(taken) = taken_by(address, server)
    {
        let problem = format!("{taken} already uses this port");
        section.report().mistake(&section.location_of("port"), problem, PORT_REMEDY);
        return None;
    }
    Some(Some(Admin { address, tls }))
}

fn read_tls(section: &Section<'_>) -> Option<Option<Tls>> {
    let has = |name| section.get(name).is_some();
    let has_ca = has("client_ca_pem");
    match (has("tls_cert_pem"), has("tls_key_pem")) {
        (true, true) => tls::read_admin(section, has_ca.then_some("client_ca_pem")).map(Some),
        (false, false) if !has_ca => Some(None),
        (false, false) => {
            let problem = "client certificates are required, but TLS is off";
            let location = section.location_of("client_ca_pem");
            section.report().mistake(&location, problem, "add tls_cert_pem and tls_key_pem");
            None
        }
        (has_cert, _) => {
            let missing = if has_cert { "tls_key_pem" } else { "tls_cert_pem" };
            section.report().mistake(&section.location_of(missing), "it is missing", TLS_REMEDY);
            None
        }
    }
}

/// Returns the member of `[server]` that has the same port. Port 0 conflicts with none, because the
/// system chooses the port.
fn taken_by(address: SocketAddr, server: &Server) -> Option<&'static str> {
    let overlaps =
        server.ip == address.ip() || server.ip.is_unspecified() || address.ip().is_unspecified();
    if address.port() == 0 || !overlaps {
        None
    } else if address.port() == server.port {
        Some("server.port")
    } else if address.port() == server.port_http_ping {
        Some("server.port_http_ping")
    } else {
        None
    }
}

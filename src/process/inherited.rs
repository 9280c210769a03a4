//! Listening sockets handed over at the start, by systemd (sd_listen_fds(3)) or by the process that
//! this one replaces ([`super::takeover`]).

use std::env;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::sockopt;

use crate::limits::MAX_INHERITED_SOCKETS;
use crate::server::sockets::Inherited;
use crate::settings::Settings;

/// The environment variables of socket activation. They are hidden from child processes, which do
/// not inherit the sockets.
pub(super) const VARIABLES: [&str; 4] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD"];

/// Socket name of the API listener (systemd.socket(5), FileDescriptorName=).
pub(super) const API: &str = "api";
/// Socket name of the ping listener.
pub(super) const PING: &str = "ping";
/// Socket name of the admin listener.
pub(super) const ADMIN: &str = "admin";

/// A socket that was handed over.
pub(super) struct Given {
    /// The socket's name: any text, but only the three names above have a meaning.
    pub(super) name: String,
    /// The socket, or the reason it cannot be used.
    pub(super) socket: Result<TcpListener, String>,
}

/// All sockets by listener.
#[derive(Default)]
pub(super) struct Assigned {
    pub(super) server: Inherited,
    pub(super) admin: Option<TcpListener>,
}

/// Returns the sockets that systemd passed. Must be called before any file is opened: the file
/// could get the number of a descriptor that the environment wrongly lists.
pub(super) fn from_systemd() -> Vec<Given> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    // This removes LISTEN_FDS and LISTEN_PID, and checks that LISTEN_PID is this process.
    let mut sockets = ListenFd::from_env();
    (0..sockets.len().min(MAX_INHERITED_SOCKETS))
        .map(|index| {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = match sockets.take_tcp_listener(index) {
                Ok(Some(socket)) => listening(socket),
                Ok(None) => Err("it is not there".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            Given { name, socket }
        })
        .collect()
}

/// Refuses a socket that is a connection, which systemd passes with `Accept=yes`.
pub(super) fn listening(socket: TcpListener) -> Result<TcpListener, String> {
    match sockopt::socket_acceptconn(&socket) {
        Ok(true) => Ok(socket),
        Ok(false) => Err("it does not listen; a socket unit needs Accept=no".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Assigns each socket to a listener in the settings: by its name, or else by its address.
///
/// # Errors
/// All sockets that fit no listener, one per line.
pub(super) fn assign(given: Vec<Given>, settings: &Settings) -> Result<Assigned, Vec<String>> {
    let mut assigned = Assigned::default();
    let mut findings = Vec::new();
    let wanted = wanted(settings);
    for Given { name, socket } in given {
        let shown = match name.as_str() {
            "" => "a socket that was handed over".to_owned(),
            name => format!("the socket that was handed over as {name:?}"),
        };
        let socket = socket.and_then(|socket| {
            let address = socket.local_addr().map_err(|error| error.to_string())?;
            let is_v6_only = address.is_ipv6() && sockopt::ipv6_v6only(&socket).unwrap_or(false);
            Ok((socket, address, is_v6_only))
        });
        let (socket, address, is_v6_only) = match socket {
            Ok(socket) => socket,
            Err(problem) => {
                findings.push(format!("{shown}: {problem}"));
                continue;
            }
        };
        match role(&name, address, is_v6_only, &wanted) {
            Ok(API) => assigned.server.api.push(socket),
            Ok(PING) => assigned.server.ping.push(socket),
            Ok(_) if assigned.admin.is_some() => {
                findings.push(format!("{shown}: the admin listener has one socket already"));
            }
            Ok(_) => assigned.admin = Some(socket),
            Err(problem) => findings.push(format!("{shown} listens on {address}: {problem}")),
        }
    }
    if findings.is_empty() { Ok(assigned) } else { Err(findings) }
}

/// Returns the name and address of each listener in the settings.
fn wanted(settings: &Settings) -> Vec<(&'static str, SocketAddr)> {
    let server = &settings.server;
    let mut wanted = vec![(API, SocketAddr::new(server.ip, server.port))];
    if server.port_http_ping != server.port || server.port == 0 {
        wanted.push((PING, SocketAddr::new(server.ip, server.port_http_ping)));
    }
    if let Some(admin) = &settings.admin {
        wanted.push((ADMIN, admin.address));
    }
    wanted
}

fn role(
    name: &str,
    address: SocketAddr,
    is_v6_only: bool,
    wanted: &[(&'static str, SocketAddr)],
) -> Result<&'static str, String> {
    let all = || {
        let each = wanted.iter().map(|(name, address)| format!("{name} on {address}"));
        each.collect::<Vec<_>>().join(", ")
    };
    if [API, PING, ADMIN].contains(&name) {
        let Some((name, configured)) = wanted.iter().find(|(wanted, _)| *wanted == name) else {
            return Err(format!("the settings have no such listener; they have {}", all()));
        };
        if !fits(address, is_v6_only, *configured) {
            return Err(format!("the settings have {configured}; make the two match"));
        }
        return Ok(name);
    }
    // Port 0 would match any socket.
    let by_address = |(_, configured): &&(&str, SocketAddr)| {
        configured.port() != 0 && fits(address, is_v6_only, *configured)
    };
    match wanted.iter().find(by_address) {
        Some((name, _)) => Ok(name),
        None => Err(format!(
            "no listener of the settings does; they have {}, and a FileDescriptorName= of api, \
             ping or admin says which is meant",
            all()
        )),
    }
}

/// Returns whether a socket at `address` is the one that the settings require. systemd's
/// `ListenStream=443` is `[::]:443`, which also accepts IPv4, as `0.0.0.0` in the settings
/// requires.
fn fits(address: SocketAddr, is_v6_only: bool, configured: SocketAddr) -> bool {
    let is_all = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && !is_v6_only;
    let fits_ip = address.ip().to_canonical() == configured.ip()
        || is_all && configured.ip().is_unspecified();
    fits_ip && (configured.port() == 0 || address.port() == configured.port())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const WANTED: [(&str, &str); 3] =
        [(API, "0.0.0.0:443"), (PING, "0.0.0.0:80"), (ADMIN, "127.0.0.1:9464")];

    fn role_of(name: &str, address: &str) -> Result<&'static str, String> {
        let wanted = WANTED.map(|(name, address)| (name, address.parse().unwrap()));
        role(name, address.parse().unwrap(), false, &wanted)
    }

    /// A known name decides, and its address must match the settings; for other names the address
    /// decides.
    #[test]
    fn names_and_addresses() {
        for (name, address, expected) in [
            ("api", "0.0.0.0:443", API),
            ("ping", "[::]:80", PING),
            ("xks-proxy.socket", "[::]:443", API),
            ("", "0.0.0.0:80", PING),
            ("unknown", "127.0.0.1:9464", ADMIN),
            ("", "[::ffff:127.0.0.1]:9464", ADMIN),
        ] {
            assert_eq!(role_of(name, address), Ok(expected), "{name} {address}");
        }
        for (name, address, expected) in [
            ("api", "0.0.0.0:444", "0.0.0.0:443"),
            ("api", "0.0.0.0:80", "0.0.0.0:443"),
            ("api", "127.0.0.1:443", "0.0.0.0:443"),
            ("", "0.0.0.0:8443", "api on 0.0.0.0:443, ping on 0.0.0.0:80"),
            ("admin", "[::]:9464", "127.0.0.1:9464"),
        ] {
            let problem = role_of(name, address).unwrap_err();
            assert!(problem.contains(expected), "{name} {address}: {problem}");
        }
    }

    /// An IPv6-only socket does not cover IPv4 interfaces.
    #[test]
    fn all_interfaces() {
        let all = "[::]:443".parse().unwrap();
        let v4 = "0.0.0.0:443".parse().unwrap();
        assert!(fits(all, false, v4));
        assert!(!fits(all, true, v4));
        assert!(fits(all, true, all));
        assert!(!fits(v4, false, all));
    }

    /// A name requires a listener in the settings; with port 0, the name alone decides.
    #[test]
    fn listeners_missing_from_the_settings() {
        let wanted = [(API, "127.0.0.1:0".parse().unwrap())];
        let address = "127.0.0.1:443".parse().unwrap();
        assert_eq!(role("api", address, false, &wanted), Ok(API));
        assert!(role("", address, false, &wanted).is_err());
        assert!(role("ping", address, false, &wanted).unwrap_err().contains("no such listener"));
    }
}

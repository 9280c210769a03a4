//! Asking a running proxy, over its admin listener, what came of a reload.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use serde::Deserialize;

use crate::limits::{ADMIN_REQUEST_TIMEOUT, MAX_STATUS_BYTES};

/// The part of `/status.json` that is about the settings.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SettingsStatus {
    pub(super) reload_tries: u64,
    pub(super) refused: Vec<String>,
    pub(super) needs_restart: Vec<String>,
}

#[derive(Deserialize)]
struct Status {
    settings: SettingsStatus,
}

/// What the admin listener at `address` says of the settings in use.
///
/// # Errors
/// It does not answer, or with something else.
pub(super) fn ask(address: SocketAddr) -> io::Result<SettingsStatus> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let mut stream = TcpStream::connect_timeout(&address, ADMIN_REQUEST_TIMEOUT)?;
    stream.set_read_timeout(Some(ADMIN_REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(ADMIN_REQUEST_TIMEOUT))?;
    stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    // The connection ends with the answer.
    let mut answer = Vec::new();
    stream.take(MAX_STATUS_BYTES).read_to_end(&mut answer)?;
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").map(|at| at + 4);
    match end {
        Some(end) if answer.starts_with(b"HTTP/1.1 200 ") => {
            let status: Status = serde_json::from_slice(&answer[end..])?;
            Ok(status.settings)
        }
        _ => Err(io::Error::other("what answers is not the admin listener")),
    }
}

/// One that listens on all addresses does so on the loopback one.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

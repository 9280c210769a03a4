//! The client of a running proxy's admin listener: `/status.json`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::DeserializeOwned;

use crate::client::{Client, Endpoint, Trust};
use crate::limits::{ADMIN_CLIENT_TIMEOUT, MAX_STATUS_BYTES};
use crate::settings::Admin;

/// Requests `/status.json`, and returns those of its members that `T` has.
///
/// # Errors
/// The listener gives no such answer; the error is a text for the operator.
pub(super) fn status<T: DeserializeOwned>(endpoint: &Endpoint, trust: &Trust) -> Result<T, String> {
    let no_answer = |error| format!("the proxy's admin listener does not answer ({error})");
    let mut client = Client::connect(endpoint, trust, ADMIN_CLIENT_TIMEOUT).map_err(no_answer)?;
    client.max_answer_bytes = MAX_STATUS_BYTES;
    let answer = client.get("/status.json").map_err(no_answer)?;
    if answer.status != 200 {
        return Err(format!(
            "the proxy's admin listener answered with HTTP status {}",
            answer.status
        ));
    }
    parse(&answer.body)
}

/// Parses a body of `/status.json`.
///
/// # Errors
/// The body is not a status.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json)
        .map_err(|error| format!("the answer is not from an xks-proxy's admin listener: {error}"))
}

/// Returns the address of the admin listener in the settings.
///
/// # Errors
/// There is none, or connecting to it requires more than the settings specify.
pub(super) fn of_settings(admin: Option<&Admin>) -> Result<Endpoint, String> {
    let Some(admin) = admin else {
        return Err("the settings have no [admin] section".to_owned());
    };
    if admin.tls.is_some() {
        // The settings contain neither its name nor the CAs to trust.
        return Err("the admin listener speaks TLS: name it with --admin https://HOST:PORT and \
                    --ca FILE, with client_ca_pem also --cert and --key"
            .to_owned());
    }
    let host = match admin.address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let (port, prefix) = (admin.address.port(), String::new());
    Ok(Endpoint { is_https: false, host, port, prefix })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A listener on all addresses is contacted at the loopback address.
    #[test]
    fn the_settings_address() {
        for (address, host) in [
            ("127.0.0.1:9443", "127.0.0.1:9443"),
            ("0.0.0.0:9443", "127.0.0.1:9443"),
            ("[::]:9443", "[::1]:9443"),
            ("[fd00::1]:9443", "[fd00::1]:9443"),
        ] {
            let admin = Admin { address: address.parse().unwrap(), tls: None };
            assert_eq!(of_settings(Some(&admin)).unwrap().host_header(), host);
        }
        assert!(of_settings(None).unwrap_err().contains("[admin]"));
    }
}

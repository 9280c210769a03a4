//! What running proxies say of their credentials: `/status.json` of their admin listeners.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::super::client::{Client, Endpoint, Trust};
use crate::limits::ADMIN_CLIENT_TIMEOUT;
use crate::settings::Admin;

/// What is read of `/status.json`; it has more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    stores: Vec<Store>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    uri_path_prefix: String,
    credentials: Vec<Credential>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    access_key_id: String,
    loaded_unix_secs: u64,
    last_used_unix_secs: u64,
}

/// A credential's times, in seconds since 1970, over all proxies that were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// When the last of them loaded it.
    pub(super) loaded_unix_secs: u64,
    /// 0 if none has used it since.
    pub(super) last_used_unix_secs: u64,
    /// How many of them have it.
    pub(super) proxies: usize,
}

/// What the proxies that answered know, by prefix and access key id.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) credentials: HashMap<(String, String), Times>,
    /// How many answered.
    pub(super) proxies: usize,
}

impl Seen {
    /// Asks one more proxy.
    ///
    /// # Errors
    /// Why it is not known what it has seen.
    pub(super) fn ask(&mut self, endpoint: &Endpoint, trust: &Trust) -> Result<(), String> {
        let no_answer = |error| format!("the proxy's admin listener does not answer ({error})");
        let mut client =
            Client::connect(endpoint, trust, ADMIN_CLIENT_TIMEOUT).map_err(no_answer)?;
        let host = endpoint.host_header();
        let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = client.exchange(request.as_bytes()).map_err(no_answer)?;
        if answer.status != 200 {
            return Err(format!("the proxy's admin listener answers {}", answer.status));
        }
        self.add(&answer.body)
    }

    fn add(&mut self, json: &[u8]) -> Result<(), String> {
        let status: Status = serde_json::from_slice(json)
            .map_err(|error| format!("what answers is no xks-proxy's admin listener: {error}"))?;
        self.proxies += 1;
        for store in status.stores {
            for credential in store.credentials {
                let key = (store.uri_path_prefix.clone(), credential.access_key_id);
                let times = self.credentials.entry(key).or_default();
                times.proxies += 1;
                times.loaded_unix_secs = times.loaded_unix_secs.max(credential.loaded_unix_secs);
                times.last_used_unix_secs =
                    times.last_used_unix_secs.max(credential.last_used_unix_secs);
            }
        }
        Ok(())
    }
}

/// The admin listener that the settings have.
///
/// # Errors
/// Why it cannot be asked.
pub(super) fn of_settings(admin: Option<&Admin>) -> Result<Endpoint, String> {
    let Some(admin) = admin else {
        return Err("the settings have no [admin] section".to_owned());
    };
    if admin.tls.is_some() {
        // By which name, and whom to trust, the settings do not say.
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

    fn status(id: &str, loaded: u64, last_used: u64) -> String {
        let credential = serde_json::json!({
            "accessKeyId": id, "createdUnixSecs": null,
            "loadedUnixSecs": loaded, "lastUsedUnixSecs": last_used,
        });
        let store = serde_json::json!({ "uriPathPrefix": "/a", "credentials": [credential] });
        serde_json::json!({ "version": "1", "stores": [store] }).to_string()
    }

    /// A credential that one proxy of several has used is in use.
    #[test]
    fn the_latest_of_all_proxies_counts() {
        let mut seen = Seen::default();
        for json in [status("X", 10, 0), status("X", 30, 77), status("X", 20, 55)] {
            seen.add(json.as_bytes()).unwrap();
        }
        seen.add(status("Y", 1, 0).as_bytes()).unwrap();
        let times = seen.credentials[&("/a".to_owned(), "X".to_owned())];
        assert_eq!(times, Times { loaded_unix_secs: 30, last_used_unix_secs: 77, proxies: 3 });
        assert_eq!(seen.proxies, 4);
        assert!(seen.add(b"pong").unwrap_err().contains("no xks-proxy"));
        assert_eq!(seen.proxies, 4);
    }

    /// What is listened on at all addresses is asked at the loopback address.
    #[test]
    fn the_settings_address() {
        for (address, host) in [
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("[fd00::1]:9464", "[fd00::1]:9464"),
        ] {
            let admin = Admin { address: address.parse().unwrap(), tls: None };
            assert_eq!(of_settings(Some(&admin)).unwrap().host_header(), host);
        }
        assert!(of_settings(None).unwrap_err().contains("[admin]"));
    }
}

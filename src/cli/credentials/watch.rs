//! Use of credentials, as reported by running proxies in `/status.json` of their admin listeners.

use std::collections::HashMap;

use serde::Deserialize;

use super::super::admin_client;
use crate::client::{Endpoint, Trust};

/// The members of `/status.json` that are read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    stores: Vec<Store>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    uri_path_prefix: String,
    credentials: Vec<CredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialStatus {
    access_key_id: String,
    loaded_unix_secs: u64,
    last_used_unix_secs: u64,
}

/// Times of a credential, in seconds since 1970, over all proxies that were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Time at which a proxy last loaded it.
    pub(super) loaded_unix_secs: u64,
    /// Time of the last use since then; 0 if there was none.
    pub(super) last_used_unix_secs: u64,
    /// Number of proxies that have the credential.
    pub(super) proxies: usize,
}

/// The times of all proxies that answered, by prefix and access key id.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) credentials: HashMap<(String, String), Times>,
    /// Number of proxies that answered.
    pub(super) proxies: usize,
}

impl Seen {
    /// Asks another proxy, and adds its answer.
    ///
    /// # Errors
    /// The proxy gives no usable answer; the error is the reason.
    pub(super) fn ask(&mut self, endpoint: &Endpoint, trust: &Trust) -> Result<(), String> {
        self.add(admin_client::status(endpoint, trust)?);
        Ok(())
    }

    fn add(&mut self, status: Status) {
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
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn status(id: &str, loaded: u64, last_used: u64) -> Status {
        let credential = serde_json::json!({
            "accessKeyId": id, "createdUnixSecs": null,
            "loadedUnixSecs": loaded, "lastUsedUnixSecs": last_used,
        });
        let store = serde_json::json!({ "uriPathPrefix": "/a", "credentials": [credential] });
        let json = serde_json::json!({ "version": "1", "stores": [store] }).to_string();
        admin_client::parse(json.as_bytes()).unwrap()
    }

    /// A credential that one of several proxies has used is in use.
    #[test]
    fn the_latest_of_all_proxies_counts() {
        let mut seen = Seen::default();
        for status in [status("X", 10, 0), status("X", 30, 77), status("X", 20, 55)] {
            seen.add(status);
        }
        seen.add(status("Y", 1, 0));
        let times = seen.credentials[&("/a".to_owned(), "X".to_owned())];
        assert_eq!(times, Times { loaded_unix_secs: 30, last_used_unix_secs: 77, proxies: 3 });
        assert_eq!(seen.proxies, 4);
        assert!(
            admin_client::parse::<Status>(b"pong")
                .is_err_and(|why| why.contains("not from an xks-proxy"))
        );
    }
}

//! The settings file: which files load, which are refused, and the messages about it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod admin;
mod audit;
mod configuration;
mod credentials;
mod environment;
mod files;
mod fleet;
mod fuzz;
mod handshakes;
mod mistakes;
#[cfg(feature = "otlp")]
mod otlp;
mod policy;
mod reference;
mod schema;
mod secrets;
mod sources;
mod syslog;
mod tls_files;
mod versions;
mod warnings;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use xks_proxy::server::config::ProxyProtocol;
use xks_proxy::settings::{Finding, Settings, Severity, load};

const PIN: &str = "hush-4711";
const SECRET: &str = "HushHushHushHushHushHushHushHushHushHushHushHush";

/// A valid file. `MODULE` is a placeholder for the path of an existing module.
const RIGHT: &str = r#"[server]
ip = "0.0.0.0"
port = 443
port_http_ping = 8080
region = "us-east-1"
service = "kms-xks-proxy"
ciphertext_metadata_b64 = "djEuMC4w"
event_loops = 0
proxy_protocol_from = ["10.0.0.0/8", "2001:db8::/32"]
drain_delay_milli = 5000
drain_timeout_milli = 5000
load_balancer = "other"
fleet_size = 1
unready_at_clock_skew_secs = 270

[server.tcp_keepalive]
tcp_keepalive_secs = 60
tcp_keepalive_interval_secs = 1
tcp_keepalive_retries = 3

[tracing]
is_stdout_writer_enabled = true
is_file_writer_enabled = true
level = "INFO"
format = "text"
directory = "/var/local/xks-proxy/logs"
file_prefix = "xks-proxy.log"
rotation_kind = "HOURLY"

[security]
is_sigv4_auth_enabled = true
is_tls_enabled = false
is_mtls_enabled = false

[[external_key_stores]]
uri_path_prefix = ""
sigv4_access_key_id = "ABCDEFGHIJKLMNOPQRSTUVWX"
sigv4_secret_access_key = "HushHushHushHushHushHushHushHushHushHushHushHush"
xks_key_id_set = ["foo", "cat"]
max_requests_per_sec = 1800
max_in_flight = 100

[[external_key_stores]]
uri_path_prefix = "/example/prefix"
sigv4_access_key_id = "ABCDEFGHIJKLMNOPQRSTUVWX"
sigv4_secret_access_key = "HushHushHushHushHushHushHushHushHushHushHushHush"
xks_key_id_set = ["bar"]

[pkcs11]
session_pool_max_size = 30
user_pin = "hush-4711"
PKCS11_HSM_MODULE = "MODULE"
allow_ambiguous_labels = false

[pkcs11_logger]
PKCS11_LOGGER_LIBRARY_PATH = "/lib/a.so"
PKCS11_LOGGER_FLAGS = "0"

[limits]
max_plaintext_in_base64 = 8192
max_aad_in_base64 = 16384
max_connections = 20000
max_connections_per_address = 0
max_requests_per_connection = 1000000
max_buffered_bytes = 268435456
max_tls_handshakes_per_sec = 2000
request_deadline_milli = 180
head_timeout_milli = 10000

[hsm_capabilities]
can_generate_iv = false
is_zero_iv_required = false
"#;

/// A directory with a file that passes for a PKCS#11 module.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("module.so"), b"not really").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        // With the permissions that files with secrets should have; `files` tests other ones.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn module(&self) -> String {
        self.path("module.so").to_str().unwrap().to_owned()
    }

    /// Loads `text` with `MODULE` replaced by the module's path.
    fn load(&self, text: &str) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
        self.load_with(text, false, &|_| None)
    }

    fn load_with(
        &self,
        text: &str,
        is_strict: bool,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
        let path = self.write("settings.toml", text.replace("\"MODULE\"", &quoted(&self.module())));
        load(Path::new(&path), is_strict, environment)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// [`RIGHT`] with its first occurrence of `from` replaced.
fn edited(from: &str, to: &str) -> String {
    assert!(RIGHT.contains(from), "the right file has no {from:?}");
    RIGHT.replacen(from, to, 1)
}

/// The number of the first line that contains `at`.
fn line_of(text: &str, at: &str) -> usize {
    1 + text.lines().position(|line| line.contains(at)).unwrap_or_else(|| panic!("no {at:?}"))
}

fn mistakes(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Mistake).collect()
}

/// The other tests rely on this: the file that they edit is valid.
#[test]
fn the_right_file_loads_without_a_warning() {
    let (settings, findings) = Place::new().load(RIGHT).unwrap();
    let severe: Vec<_> = findings.iter().filter(|it| it.severity != Severity::Notice).collect();
    assert!(severe.is_empty(), "{severe:?}");
    assert_eq!(settings.server.port, 443);
    assert_eq!(settings.server.port_http_ping, 8080);
    assert_eq!(settings.server.ciphertext_metadata.as_deref(), Some(&b"v1.0.0"[..]));
    assert_eq!(settings.stores.len(), 2);
    assert_eq!(settings.stores[0].key_ids().collect::<Vec<_>>(), ["cat", "foo"]);
    assert_eq!(settings.pkcs11.tokens[0].user_pin.expose(), PIN);
    let credential = &settings.stores[1].credentials[0];
    assert_eq!(credential.secret_access_key.expose(), SECRET);
}

/// The configurations passed to other parts match the file.
#[test]
fn the_service_has_the_stores_and_labels() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    let service = settings.service();
    assert_eq!(service.stores().len(), 2);
    assert!(service.store("").unwrap().key("foo").is_some());
    assert!(service.store("").unwrap().key("bar").is_none());
    assert_eq!(service.store("/example/prefix").unwrap().credentials().len(), 1);
    assert_eq!(
        (service.options.region.as_str(), service.options.service.as_str()),
        ("us-east-1", "kms-xks-proxy")
    );
    assert_eq!(service.options.timeouts.request.as_millis(), 180);
    let hsm = settings.hsm_config(&service);
    let bar = service.store("/example/prefix").unwrap().key("bar").unwrap();
    assert_eq!(&*hsm.labels[usize::try_from(bar.encrypts.key.0).unwrap()], "bar");
    assert_eq!((hsm.tokens.len(), hsm.tokens[0].max_sessions), (1, 30));
    let server = settings.server_config();
    assert_eq!((server.port, server.max_connections, server.tls.is_some()), (443, 20_000, false));
    assert_eq!(server.tcp_keepalive.unwrap().idle.as_secs(), 60);
    assert_eq!((server.max_connections_per_address, server.max_buffered_bytes), (None, 1 << 28));
    assert_eq!(server.max_tls_handshakes_per_sec, 2000);
    let contains = |address: &str| {
        server.proxy_protocol_from.iter().any(|it| it.contains(address.parse().unwrap()))
    };
    assert!(contains("10.1.2.3") && contains("2001:db8::1") && !contains("11.1.2.3"));
    assert_eq!(server.proxy_protocol, ProxyProtocol::Require);
}

/// An IPv4 address mapped into IPv6 is that IPv4 address, for a listener and for a network.
#[test]
fn mapped_addresses() {
    let text = edited("ip = \"0.0.0.0\"", "ip = \"::ffff:127.0.0.1\"")
        .replace("\"10.0.0.0/8\"", "\"::ffff:10.0.0.0/104\"")
        + "[admin]\nip = \"::ffff:127.0.0.1\"\nport = 9443\n";
    let (settings, _) = Place::new().load(&text).unwrap();
    let server = settings.server_config();
    assert_eq!(server.ip, std::net::Ipv4Addr::LOCALHOST);
    assert_eq!(settings.admin.unwrap().address.to_string(), "127.0.0.1:9443");
    let is_listed = |address: &str| {
        server.proxy_protocol_from.iter().any(|it| it.contains(address.parse().unwrap()))
    };
    assert!(is_listed("10.1.2.3") && is_listed("::ffff:10.1.2.3") && !is_listed("11.1.2.3"));
}

/// Each store has its own limits, and they are enforced.
#[test]
fn the_service_has_the_quotas() {
    let text = edited("max_in_flight = 100", "max_in_flight = 1");
    let (settings, _) = Place::new().load(&text).unwrap();
    let service = settings.service();
    let now = std::time::Instant::now();
    let first = service.store("").unwrap().quota();
    let taken = first.admit(now);
    assert!(taken.is_ok() && first.admit(now).is_err());
    drop(taken);
    assert!((0..1799).all(|_| first.admit(now).is_ok()) && first.admit(now).is_err());
    let second = service.store("/example/prefix").unwrap().quota();
    let all: Vec<_> = (0..3000).map(|_| second.admit(now)).collect();
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(service.options.max_requests_per_connection, 1_000_000);
}

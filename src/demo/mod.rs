//! `xks-proxy demo`: the first contact. A token, a key, a certificate and a proxy of its own, then
//! the four calls as KMS makes them.
//!
//! The proxy runs as a process of its own, from the settings file that the demo writes, just as it
//! would in production: what is shown is what is used.

mod calls;
mod softhsm;

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use zeroize::Zeroizing;

pub use self::softhsm::make_token_here;
use self::softhsm::{KEY_ID, USER_PIN};
use crate::client::bodies::Caller;
use crate::client::{Client, Endpoint, Handshake, Signer, Trust};
use crate::observe::redaction::Secret;
use crate::random;

/// The store that the demo serves.
const PREFIX: &str = "/xks-demo";
const REGION: &str = "us-east-1";
const SERVICE: &str = "kms-xks-proxy";
/// For the proxy to become ready, and for each call.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo; with `once` it ends by itself after the calls.
///
/// # Errors
/// What went wrong, for the terminal.
pub fn run(once: bool) -> Result<(), String> {
    println!("An AWS KMS external key store (XKS) proxy, end to end on this machine.\n");
    let module = softhsm::find_or_install()?;
    let directory = Directory::make()?;
    println!("1. SoftHSM2, standing in for your HSM: {}", module.display());
    softhsm::make_token(&directory.0, &module)?;
    println!("2. A token with an AES-256 key labelled {KEY_ID} in {}", directory.0.display());
    let (api, ping) = (free_port()?, free_port()?);
    let signer = credential()?;
    write_certificate(&directory.0).map_err(|error| format!("no certificate: {error}"))?;
    let settings = write_settings(&directory.0, &module, api, ping, &signer)
        .map_err(|error| format!("no settings file: {error}"))?;
    println!("3. A certificate and the settings file {}", settings.display());
    let mut proxy = Proxy::start(&directory.0, &settings)?;
    proxy.wait_until_ready(ping)?;
    println!(
        "4. The proxy, ready on https://localhost:{api}{PREFIX} (log: {})\n",
        proxy.log.display()
    );

    let endpoint = Endpoint {
        is_https: true,
        host: "localhost".to_owned(),
        port: api,
        prefix: PREFIX.to_owned(),
    };
    let mut trust = Trust::default();
    let told = |error: io::Error| format!("the proxy cannot be reached: {error}");
    trust.trust_file(&directory.0.join("server_cert.pem")).map_err(told)?;
    let mut client = Client::connect(&endpoint, &trust, PATIENCE).map_err(told)?;
    println!(
        "Connected in {:.2} ms: {}",
        client.connect_time.as_secs_f64() * 1e3,
        client.handshake.as_ref().map(Handshake::summary).unwrap_or_default()
    );
    let caller =
        Caller::new(REGION).map_err(|error| format!("the system's random bytes: {error}"))?;
    calls::show(&mut client, &signer, &caller, KEY_ID)?;
    print_curl(&directory.0, &endpoint, &signer, &caller);
    if once {
        return proxy.stop();
    }
    println!("\nThe proxy stays up until Ctrl-C; then all of this is removed.");
    proxy.wait()
}

/// A directory that only we can read, removed with all that is in it in the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("xks-proxy-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left behind is a key that has protected nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The proxy's process. It ends with the demo.
struct Proxy {
    child: Child,
    log: PathBuf,
}

impl Proxy {
    fn start(directory: &Path, settings: &Path) -> Result<Self, String> {
        let log = directory.join("proxy.log");
        let told = |error: io::Error| format!("the proxy cannot be started: {error}");
        let output = fs::File::create(&log).map_err(told)?;
        let child = Command::new(std::env::current_exe().map_err(told)?)
            .env("XKS_PROXY_SETTINGS_TOML", settings)
            .env("SOFTHSM2_CONF", softhsm::configuration(directory))
            .env_remove("PKCS11_HSM_MODULE")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(told)?)
            .stderr(output)
            .spawn()
            .map_err(told)?;
        Ok(Self { child, log })
    }

    fn wait_until_ready(&mut self, port: u16) -> Result<(), String> {
        let endpoint =
            Endpoint { is_https: false, host: "127.0.0.1".to_owned(), port, prefix: String::new() };
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the proxy ended ({status}):\n{}", self.tail()));
            }
            let answer = Client::connect(&endpoint, &Trust::default(), PATIENCE)
                .and_then(|mut client| client.exchange(request));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the proxy does not become ready:\n{}", self.tail()))
    }

    fn tail(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ctrl-C reaches the proxy too, which then drains.
    fn wait(mut self) -> Result<(), String> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGCHLD])
            .map_err(|error| error.to_string())?;
        loop {
            for signal in signals.wait() {
                if signal != SIGCHLD {
                    return self.stop();
                }
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(format!("the proxy ended ({status}):\n{}", self.tail()));
                }
            }
        }
    }

    /// Drains and ends it.
    fn stop(mut self) -> Result<(), String> {
        // SIGTERM by kill(1)'s means: the standard library can only send SIGKILL.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("the proxy ended with {status}:\n{}", self.tail()))
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("the proxy does not end on SIGTERM:\n{}", self.tail()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It has ended already, unless the demo failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now.
fn free_port() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}

/// A new SigV4 credential (XKS specification, XKS proxy configuration).
fn credential() -> Result<Signer, String> {
    let text = |alphabet: &[u8], length: usize| -> Result<String, String> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        random::fill(&mut bytes).map_err(|error| format!("the system's random bytes: {error}"))?;
        // Both alphabets' lengths divide 256, so each character is as likely as the others.
        Ok(bytes
            .iter()
            .map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()]))
            .collect())
    };
    Ok(Signer {
        access_key_id: text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 20)?,
        secret_access_key: Secret::new(text(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
            43,
        )?),
        region: REGION.to_owned(),
        service: SERVICE.to_owned(),
    })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn write_certificate(directory: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(io::Error::other)?;
    fs::write(directory.join("server_cert.pem"), made.cert.pem())?;
    let key = Zeroizing::new(made.signing_key.serialize_pem());
    write_private(&directory.join("server_key.pem"), &key)
}

fn write_settings(
    directory: &Path,
    module: &Path,
    api: u16,
    ping: u16,
    signer: &Signer,
) -> io::Result<PathBuf> {
    let path = directory.join("settings.toml");
    let text = Zeroizing::new(format!(
        r#"[server]
ip = "127.0.0.1"
port = {api}
port_http_ping = {ping}
region = "{REGION}"
service = "{SERVICE}"
drain_delay_milli = 100
[server.tcp_keepalive]
tcp_keepalive_secs = 60

[tracing]
is_stdout_writer_enabled = true
is_file_writer_enabled = false
level = "INFO"

[security]
is_sigv4_auth_enabled = true
is_tls_enabled = true
is_mtls_enabled = false

[tls]
tls_cert_pem = "{directory}/server_cert.pem"
tls_key_pem = "{directory}/server_key.pem"

[[external_key_stores]]
uri_path_prefix = "{PREFIX}"
sigv4_access_key_id = "{access_key_id}"
sigv4_secret_access_key = "{secret}"
xks_key_id_set = ["{KEY_ID}"]

[pkcs11]
session_pool_max_size = 30
session_pool_timeout_milli = 0
session_eager_close = false
user_pin = "{USER_PIN}"
PKCS11_HSM_MODULE = "{module}"
context_read_timeout_milli = 10

[state]
directory = "{directory}/state"

[limits]
max_plaintext_in_base64 = 8192
max_aad_in_base64 = 16384

[hsm_capabilities]
can_generate_iv = false
is_zero_iv_required = false
"#,
        directory = directory.display(),
        access_key_id = signer.access_key_id,
        secret = signer.secret_access_key.expose(),
        module = module.display(),
    ));
    write_private(&path, &text)?;
    Ok(path)
}

fn print_curl(directory: &Path, endpoint: &Endpoint, signer: &Signer, caller: &Caller) {
    println!(
        "\nTry it yourself:\n\n\
         curl --cacert {directory}/server_cert.pem --aws-sigv4 aws:amz:{REGION}:{SERVICE} \\\n  \
         --user '{access_key_id}:{secret}' -H 'Content-Type: application/json' \\\n  \
         -d '{body}' \\\n  \
         https://localhost:{port}{PREFIX}/kms/xks/v1/keys/{KEY_ID}/metadata",
        directory = directory.display(),
        access_key_id = signer.access_key_id,
        secret = signer.secret_access_key.expose(),
        body = caller.key_metadata(),
        port = endpoint.port,
    );
}

//! `xks-proxy demo`: creates a token, a key, a certificate and a proxy, and makes the four calls as
//! KMS does.
//!
//! The proxy runs as a separate process, from the settings file that the demo writes, just as it
//! would in production.

mod calls;
mod error;
mod files;
mod proxy;
mod softhsm;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

pub use self::error::DemoError;
use self::error::say;
use self::files::{PREFIX, REGION, SERVICE};
use self::proxy::{PATIENCE, Proxy};
use self::softhsm::KEY_ID;
pub use self::softhsm::make_token_here;
use crate::client::bodies::Caller;
use crate::client::{Client, Endpoint, Handshake, Signer, Trust};

/// Runs the demo, which with `once` ends after the calls.
///
/// # Errors
/// A step failed, with a text for the terminal.
pub fn run(once: bool) -> Result<(), DemoError> {
    say(format_args!("An AWS KMS external key store (XKS) proxy, end to end on this machine.\n"))?;
    let module = softhsm::find_or_install()?;
    let directory = Directory::make()?;
    say(format_args!("1. SoftHSM2, standing in for your HSM: {}", module.display()))?;
    softhsm::make_token(&directory.0, &module)?;
    say(format_args!(
        "2. A token with an AES-256 key labelled {KEY_ID} in {}",
        directory.0.display()
    ))?;
    let (api, ping) = (free_port()?, free_port()?);
    let signer = files::credential()?;
    files::write_certificate(&directory.0).map_err(|error| format!("no certificate: {error}"))?;
    let settings = files::write_settings(&directory.0, &module, api, ping, &signer)
        .map_err(|error| format!("no settings file: {error}"))?;
    say(format_args!("3. A certificate and the settings file {}", settings.display()))?;
    let mut proxy = Proxy::start(&directory.0, &settings)?;
    proxy.wait_until_ready(ping)?;
    say(format_args!(
        "4. The proxy, ready on https://localhost:{api}{PREFIX} (log: {})\n",
        proxy.log.display()
    ))?;

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
    say(format_args!(
        "Connected in {:.2} ms: {}",
        client.connect_time.as_secs_f64() * 1e3,
        client.handshake.as_ref().map(Handshake::summary).unwrap_or_default()
    ))?;
    let caller =
        Caller::new(REGION).map_err(|error| format!("the system's random bytes: {error}"))?;
    calls::show(&mut client, &signer, &caller, KEY_ID)?;
    say_curl(&directory.0, &endpoint, &signer, &caller)?;
    if once {
        return Ok(proxy.stop()?);
    }
    say(format_args!("\nThe proxy stays up until Ctrl-C; then all of this is removed."))?;
    Ok(proxy.wait()?)
}

/// A directory that only this user can read, removed with its content in the end.
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
        // If this fails, the key that is left behind has protected nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a port that is free at the moment.
fn free_port() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}

fn say_curl(
    directory: &Path,
    endpoint: &Endpoint,
    signer: &Signer,
    caller: &Caller,
) -> Result<(), DemoError> {
    say(format_args!(
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
    ))
}

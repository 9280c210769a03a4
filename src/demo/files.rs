//! The files that the demo's proxy is started with, and the credential in them.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::softhsm::{KEY_ID, USER_PIN};
use crate::client::Signer;
use crate::observe::redaction::Secret;
use crate::random;

/// Path prefix of the demo's store.
pub(super) const PREFIX: &str = "/xks-demo";
pub(super) const REGION: &str = "us-east-1";
pub(super) const SERVICE: &str = "kms-xks-proxy";

/// Returns a new SigV4 credential (XKS specification, XKS proxy configuration).
pub(super) fn credential() -> Result<Signer, String> {
    let text = |alphabet: &[u8], length: usize| -> Result<String, String> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        random::fill(&mut bytes).map_err(|error| format!("the system's random bytes: {error}"))?;
        // The length of both alphabets divides 256, so each character is equally likely.
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

pub(super) fn write_certificate(directory: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(io::Error::other)?;
    fs::write(directory.join("server_cert.pem"), made.cert.pem())?;
    let key = Zeroizing::new(made.signing_key.serialize_pem());
    write_private(&directory.join("server_key.pem"), &key)
}

pub(super) fn write_settings(
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

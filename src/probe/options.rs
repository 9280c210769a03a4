//! Options of the probe, from the command line and the environment.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::ciphertext_file::{self, Earlier};
use super::report::shown;
use crate::certificate::Authorities;
use crate::client::bodies::Caller;
use crate::client::{Endpoint, Signer, Trust};
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::limits::{
    MAX_ACCESS_KEY_ID_BYTES, MAX_ARN_BYTES, MAX_KEY_ID_BYTES, MAX_PEM_BYTES, MAX_PROBE_CONNECTIONS,
    MAX_PROBE_COUNT, MAX_PROBE_INTERVAL_SECS, MAX_PROBE_RATE_PER_SEC, MAX_SECRET_ACCESS_KEY_BYTES,
    MAX_SECRET_FILE_BYTES, MAX_URI_PATH_PREFIX_BYTES, MIN_ACCESS_KEY_ID_BYTES,
    MIN_SECRET_ACCESS_KEY_BYTES,
};
use crate::observe::redaction::Secret;

/// Service in signatures (XKS specification, Appendix A).
const SERVICE: &str = "kms-xks-proxy";
const ACCESS_KEY_ID_VARIABLE: &str = "SIGV4_ACCESS_KEY_ID";
const SECRET_VARIABLE: &str = "SIGV4_SECRET_ACCESS_KEY";

/// The command line of `xks-proxy probe`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// https://host[:port]/prefix, with or without /kms/xks/v1
    #[arg(required_unless_present = "list", default_value = "")]
    pub url: String,
    /// External key id, repeatable; the first must encrypt and decrypt
    #[arg(long = "key-id", value_name = "ID")]
    pub key_ids: Vec<String>,
    /// Access key id; by default the environment variable SIGV4_ACCESS_KEY_ID
    #[arg(long, value_name = "ID")]
    pub access_key_id: Option<String>,
    /// File with the secret access key; by default the environment variable SIGV4_SECRET_ACCESS_KEY
    #[arg(long, value_name = "FILE")]
    pub secret_access_key_file: Option<PathBuf>,
    /// Region of the signatures
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Trust these certificates (PEM) as well as the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// File with the authorities that KMS trusts, as AWS publishes it (TrustedCertificateAuthorities),
    /// instead of the list that this version has
    #[arg(long, value_name = "FILE")]
    pub authorities: Option<PathBuf>,
    /// Connect here, not to the URL's host: a private DNS name that does not resolve here, or one
    /// target of a load balancer
    #[arg(long, value_name = "HOST[:PORT]")]
    pub connect_to: Option<String>,
    /// Client certificate chain (PEM), for mTLS
    #[arg(long, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// The client certificate's private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// awsPrincipalArn of the calls, if a policy of the proxy requires one
    #[arg(long, value_name = "ARN")]
    pub principal_arn: Option<String>,
    /// kmsKeyArn of the calls, likewise
    #[arg(long, value_name = "ARN")]
    pub kms_key_arn: Option<String>,
    /// Calls in each part of the latency measurement; 0 for none
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=MAX_PROBE_COUNT))]
    pub count: u32,
    /// Concurrent connections in the second part
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=MAX_PROBE_CONNECTIONS))]
    pub connections: u32,
    /// Calls per second in the second part, over all connections
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=MAX_PROBE_RATE_PER_SEC))]
    pub rate: u32,
    /// Allow http://, which KMS never uses
    #[arg(long)]
    pub insecure_http: bool,
    /// Write the findings to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the findings to this file as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Keep a ciphertext of each key in this file, and decrypt those of earlier probes
    #[arg(long, value_name = "FILE")]
    pub ciphertexts: Option<PathBuf>,
    /// Repeat a part of the probe at an interval until it is stopped, and serve Prometheus metrics at
    /// this address
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["json", "junit", "ciphertexts", "list"])]
    pub watch: Option<SocketAddr>,
    /// Seconds from the beginning of a round to that of the next
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "watch", value_parser = clap::value_parser!(u32).range(1..=MAX_PROBE_INTERVAL_SECS))]
    pub interval: u32,
    /// List the checks and what the specification requires, without any call
    #[arg(long)]
    pub list: bool,
    /// Show requirement and observation for passed checks too
    #[arg(long, short)]
    pub verbose: bool,
}

/// Checked options, with all files loaded.
#[derive(Debug)]
pub struct Options {
    /// Address of the proxy.
    pub endpoint: Endpoint,
    /// Address to connect to, if it is not that of the endpoint.
    pub connect_to: Option<Endpoint>,
    /// Authorities that KMS trusts.
    pub authorities: Authorities,
    /// External key ids, at least one.
    pub key_ids: Vec<String>,
    /// Credential of the calls.
    pub signer: Signer,
    /// Caller of KMS in the calls.
    pub caller: Caller,
    /// Trusted authorities and the client certificate.
    pub trust: Trust,
    /// True if there is a client certificate.
    pub has_identity: bool,
    /// Number of calls in each part of the latency measurement.
    pub count: u32,
    /// Number of concurrent connections.
    pub connections: u32,
    /// Calls per second over all connections.
    pub rate: u32,
    /// File for ciphertexts.
    pub ciphertexts: Option<PathBuf>,
    /// Ciphertexts of earlier probes in that file.
    pub earlier: Vec<Earlier>,
}

impl Options {
    /// # Errors
    /// [`Failed`] with [`EXIT_SETTINGS`]: an argument or a file is wrong.
    pub fn resolve(arguments: &Arguments) -> Result<Self, Failed> {
        Self::try_resolve(arguments).map_err(|why| Failed::new(EXIT_SETTINGS, why))
    }

    fn try_resolve(arguments: &Arguments) -> Result<Self, String> {
        let endpoint = endpoint(arguments)?;
        if arguments.key_ids.is_empty() {
            return Err("--key-id is missing: name an external key that may be used".to_owned());
        }
        for id in &arguments.key_ids {
            let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            held("--key-id", id, 1..=MAX_KEY_ID_BYTES, is_right, "a-zA-Z0-9-._")?;
        }
        let is_right =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        held("--region", &arguments.region, 1..=32, is_right, "a-z0-9-")?;
        let mut caller = Caller::new(&arguments.region)
            .map_err(|error| format!("the system's random bytes: {error}"))?;
        for (option, value, member) in [
            ("--principal-arn", &arguments.principal_arn, &mut caller.principal_arn),
            ("--kms-key-arn", &arguments.kms_key_arn, &mut caller.key_arn),
        ] {
            if let Some(arn) = value {
                let is_right = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
                held(option, arn, 1..=MAX_ARN_BYTES, is_right, "printable ASCII")?;
                arn.clone_into(member);
            }
        }
        let authorities = authorities(arguments)?;
        Ok(Self {
            connect_to: connect_to(arguments, &endpoint)?,
            endpoint,
            key_ids: arguments.key_ids.clone(),
            signer: signer(arguments)?,
            caller,
            trust: trust(arguments, &authorities)?,
            authorities,
            has_identity: arguments.client_cert.is_some(),
            count: arguments.count,
            connections: arguments.connections,
            rate: arguments.rate,
            earlier: match &arguments.ciphertexts {
                Some(file) => ciphertext_file::read(file)?,
                None => Vec::new(),
            },
            ciphertexts: arguments.ciphertexts.clone(),
        })
    }
}

fn endpoint(arguments: &Arguments) -> Result<Endpoint, String> {
    let endpoint = Endpoint::parse(&arguments.url)?;
    if !endpoint.is_https && !arguments.insecure_http {
        return Err(format!("{}: KMS uses HTTPS only; --insecure-http allows this", arguments.url));
    }
    if endpoint.is_https && arguments.insecure_http {
        return Err(format!("{}: --insecure-http is for http:// only", arguments.url));
    }
    // XKS specification, API operations.
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte);
    let what = "the path prefix";
    held(what, &endpoint.prefix, 0..=MAX_URI_PATH_PREFIX_BYTES, is_right, "a-zA-Z0-9/-_")?;
    Ok(endpoint)
}

/// Returns the address of `--connect-to`, by default with the URL's port.
fn connect_to(arguments: &Arguments, endpoint: &Endpoint) -> Result<Option<Endpoint>, String> {
    let Some(text) = &arguments.connect_to else { return Ok(None) };
    let url = format!("http://{text}");
    let wrong = || format!("--connect-to {}: not of the form HOST[:PORT]", shown(text));
    let mut found = Endpoint::parse(&url).map_err(|_| wrong())?;
    if text.contains('/') {
        return Err(wrong());
    }
    if !text.ends_with(&format!(":{}", found.port)) {
        found.port = endpoint.port;
    }
    Ok(Some(found))
}

fn authorities(arguments: &Arguments) -> Result<Authorities, String> {
    let Some(file) = &arguments.authorities else { return Ok(Authorities::shipped().clone()) };
    let told = |why: &dyn std::fmt::Display| format!("--authorities {}: {why}", file.display());
    let length = fs::metadata(file).map_err(|error| told(&error))?.len();
    if length > MAX_PEM_BYTES {
        return Err(told(&format!("larger than {MAX_PEM_BYTES} bytes")));
    }
    let text = fs::read_to_string(file).map_err(|error| told(&error))?;
    Authorities::parse(&text).map_err(|why| told(&why))
}

fn signer(arguments: &Arguments) -> Result<Signer, String> {
    let access_key_id = match &arguments.access_key_id {
        Some(id) => id.clone(),
        None => std::env::var(ACCESS_KEY_ID_VARIABLE).map_err(|_| {
            format!("no access key id: give --access-key-id, or set {ACCESS_KEY_ID_VARIABLE}")
        })?,
    };
    let is_right = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    let lengths = MIN_ACCESS_KEY_ID_BYTES..=MAX_ACCESS_KEY_ID_BYTES;
    held("the access key id", &access_key_id, lengths, is_right, "A-Z2-7")?;
    let secret = match &arguments.secret_access_key_file {
        Some(file) => secret_of_file(file)?,
        None => Zeroizing::new(std::env::var(SECRET_VARIABLE).map_err(|_| {
            format!("no secret access key: give --secret-access-key-file, or set {SECRET_VARIABLE}")
        })?),
    };
    let lengths = MIN_SECRET_ACCESS_KEY_BYTES..=MAX_SECRET_ACCESS_KEY_BYTES;
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"/+=".contains(&byte);
    if !lengths.contains(&secret.len()) || !secret.bytes().all(is_right) {
        return Err("the secret access key: KMS takes 43 to 64 of a-zA-Z0-9/+=".to_owned());
    }
    Ok(Signer {
        access_key_id,
        secret_access_key: Secret::new(secret.to_string()),
        region: arguments.region.clone(),
        service: SERVICE.to_owned(),
    })
}

/// Returns the only line of the file.
fn secret_of_file(file: &Path) -> Result<Zeroizing<String>, String> {
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let length = fs::metadata(file).map_err(|error| told(&error))?.len();
    if length > MAX_SECRET_FILE_BYTES {
        return Err(told(&format!("larger than {MAX_SECRET_FILE_BYTES} bytes")));
    }
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| told(&error))?);
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

fn trust(arguments: &Arguments, authorities: &Authorities) -> Result<Trust, String> {
    let mut trust = Trust::default();
    trust.list(authorities.clone());
    trust.is_spec_suites_only = true;
    trust.trust_system();
    for file in &arguments.ca {
        trust.trust_file(file).map_err(|error| format!("--ca {error}"))?;
    }
    match (&arguments.client_cert, &arguments.client_key) {
        (None, None) => {}
        (Some(chain), Some(key)) => {
            trust
                .identify(chain, key)
                .map_err(|error| format!("the client certificate: {error}"))?;
        }
        _ => return Err("--client-cert and --client-key belong together".to_owned()),
    }
    Ok(trust)
}

fn held(
    what: &str,
    value: &str,
    lengths: std::ops::RangeInclusive<usize>,
    is_right: impl Fn(u8) -> bool,
    alphabet: &str,
) -> Result<(), String> {
    if lengths.contains(&value.len()) && value.bytes().all(is_right) {
        return Ok(());
    }
    let value = shown(value);
    let (least, most) = (lengths.start(), lengths.end());
    Err(format!("{what} \"{value}\": KMS takes {least} to {most} of {alphabet}"))
}

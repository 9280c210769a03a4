//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rustls::pki_types::ServerName;

use crate::request::Operation;
use crate::schedule::{Pace, Phase};
use crate::settings::{ProxySettings, Store};
use crate::sigv4::Credential;
use crate::target::{Target, Tls};
use crate::tls;

/// Puts load on an XKS proxy with signed requests and measures its answers.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// See [`Arguments`].
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load a proxy
    Run(Box<RunArguments>),
    /// Plot results of earlier runs into an SVG file
    Plot(PlotArguments),
    /// Make a CA, and certificates of a server on this machine and of a client
    MakeCert {
        /// Directory for ca.pem, server.pem, server.key, client.pem and client.key
        directory: PathBuf,
        /// The client's name; by default that of KMS in the Region
        #[arg(long)]
        client_name: Option<String>,
        /// The Region of the client's name
        #[arg(long, default_value = "us-east-1")]
        region: String,
    },
}

/// `xks-load run`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch")]
pub struct RunArguments {
    /// The proxy's settings.toml, for address, Region, TLS, prefix, credential and key ids
    #[arg(long, help_heading = "Target")]
    settings: Option<PathBuf>,
    /// IP:PORT of the proxy
    #[arg(long, help_heading = "Target", required_unless_present = "settings")]
    address: Option<SocketAddr>,
    /// The key store's prefix, without /kms/xks/v1 [default: the first store of the settings]
    #[arg(long, help_heading = "Target")]
    prefix: Option<String>,
    /// Use TLS 1.3 (if there are no settings)
    #[arg(long, help_heading = "Target")]
    tls: bool,
    /// PEM file of the CA that must have issued the proxy's certificate
    #[arg(long, help_heading = "Target")]
    ca: Option<PathBuf>,
    /// Do not check the proxy's certificate
    #[arg(long, help_heading = "Target", conflicts_with = "ca")]
    insecure: bool,
    /// The name in the proxy's certificate
    #[arg(long, help_heading = "Target", default_value = "localhost")]
    server_name: String,
    /// PEM file of the client's certificate chain, for mTLS
    #[arg(long, help_heading = "Target", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// PEM file of the client's key
    #[arg(long, help_heading = "Target", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// AWS Region in the signatures' scope [default: from the settings, or us-east-1]
    #[arg(long, help_heading = "Target")]
    region: Option<String>,
    /// Access key id [default: from the settings]
    #[arg(long, help_heading = "Target")]
    access_key_id: Option<String>,
    /// Secret access key [default: from the settings]
    #[arg(
        long,
        help_heading = "Target",
        env = "XKS_LOAD_SECRET_ACCESS_KEY",
        hide_env_values = true
    )]
    secret_access_key: Option<String>,
    /// External key id; may be given several times [default: the first of the store]
    #[arg(long = "key-id", help_heading = "Target")]
    key_ids: Vec<String>,
    /// Allow an address that is not loopback
    #[arg(long, help_heading = "Target")]
    allow_remote: bool,

    /// Operations by weight, for instance decrypt=8,encrypt=1,encrypt-cdiv=1
    #[arg(long, default_value = "decrypt", value_parser = parse_mix, help_heading = "Load")]
    pub mix: Mix,
    /// Bytes of plaintext
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(..=65536), help_heading = "Load")]
    pub plaintext_bytes: u32,
    /// Bytes of additional authenticated data; 0 for none
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=65535), help_heading = "Load")]
    pub aad_bytes: u32,
    /// Connections under load
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=60000), help_heading = "Load")]
    pub connections: u32,
    /// Additional connections, held open without load
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=60000), help_heading = "Load")]
    pub idle_connections: u32,
    /// Mean number of requests on a connection before it is closed and replaced; the actual number
    /// is random [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load")]
    pub requests_per_connection: Option<u32>,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Load")]
    pub threads: u32,
    /// Open loop: requests per second, regardless of the answers [default: closed loop]
    #[arg(long, value_parser = parse_rate, conflicts_with_all = ["steps", "ramp"], help_heading = "Load")]
    rate: Option<f64>,
    /// Open loop: consecutive steps of RATExSECONDS, for instance 4000x10,8000x30,1000x10
    #[arg(long, value_parser = parse_step, value_delimiter = ',', conflicts_with = "ramp", help_heading = "Load")]
    steps: Vec<(f64, Duration)>,
    /// Open loop: FROM:TO:STEP requests per second, for --seconds each
    #[arg(long, value_parser = parse_ramp, help_heading = "Load")]
    ramp: Option<Ramp>,
    /// End the ramp when the proxy no longer keeps within the limits below, and recommend sessions
    /// and replicas
    #[arg(
        long,
        help_heading = "Recommendation",
        requires = "ramp",
        conflicts_with_all = ["round_trips", "plots", "requests", "announce"]
    )]
    pub recommend: bool,
    /// Highest 99th percentile in milliseconds
    #[arg(long, default_value_t = 100.0, value_parser = parse_milli, help_heading = "Recommendation", requires = "recommend")]
    pub max_p99_milli: f64,
    /// Highest share of requests, in percent, that fail or take longer than KMS's 250 ms
    #[arg(long, default_value_t = 0.1, value_parser = parse_percent, help_heading = "Recommendation", requires = "recommend")]
    pub max_failed_percent: f64,
    /// Requests per second that the replicas together must handle while one is down; by default the
    /// quota of a key store
    #[arg(long, default_value = "1800", value_parser = parse_rate, help_heading = "Recommendation", requires = "recommend")]
    pub wanted_rate: f64,
    /// IP:PORT of the proxy's admin listener, for the time that calls spend in the HSM [default:
    /// from the settings, if it has no TLS]
    #[arg(long, help_heading = "Recommendation", requires = "recommend")]
    metrics: Option<SocketAddr>,
    /// Open loop: random arrivals (Poisson) instead of evenly spaced ones
    #[arg(long, help_heading = "Load")]
    pub poisson: bool,
    /// Seconds of measured load
    #[arg(long, default_value = "10", value_parser = parse_seconds, help_heading = "Load")]
    seconds: Duration,
    /// Seconds of unmeasured load before that, at the first rate
    #[arg(long, default_value = "1", value_parser = parse_seconds, help_heading = "Load")]
    warm_up: Duration,
    /// Maximum number of requests, warm-up included
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, help_heading = "Load")]
    pub requests: u64,
    /// Milliseconds after which a request counts as failed
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=60000), help_heading = "Load")]
    pub timeout_milli: u32,
    /// Open loop: of the requests that wait for a free connection, send the newest first. KMS's
    /// requests each have a timeout of their own and wait for no other, which a queue that sends the
    /// oldest first would be wrong about
    #[arg(long, help_heading = "Load")]
    pub newest_first: bool,
    /// Number of ciphertexts for decrypts, encrypted through the proxy beforehand
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Load")]
    pub ciphertexts: u32,
    /// Decrypt what the run itself encrypts: each ciphertext soon after, if there are enough
    /// decrypts (--mix encrypt=1,decrypt=3), and some of each ciphertextMetadata until the end
    #[arg(long, conflicts_with = "no_check", help_heading = "Load")]
    pub round_trips: bool,
    /// Number of encrypt answers to decrypt after the run
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=10_000), help_heading = "Load")]
    pub samples: u32,
    /// Check only the status of answers, for servers that give a constant answer
    #[arg(long, help_heading = "Load")]
    pub no_check: bool,

    /// Name of this run in results and plots
    #[arg(long, default_value = "xks-load", help_heading = "Results")]
    pub name: String,
    /// Write the results as JSON
    #[arg(long, help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Write a line of JSON for each failed request, with its time, into this file
    #[arg(long, help_heading = "Results")]
    pub failures: Option<PathBuf>,
    /// Write plots into this directory: latency.svg, over-time.svg and, with several rates,
    /// rate.svg
    #[arg(long, help_heading = "Results")]
    pub plots: Option<PathBuf>,
    /// Interval of the figures over time in milliseconds [default: 100, or 1000 in a run of more
    /// than a minute]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=60000), help_heading = "Results")]
    interval_milli: Option<u32>,
    /// Process id of the proxy, for its CPU time and memory; may be given several times
    #[arg(long = "pid", help_heading = "Results")]
    pub pids: Vec<u32>,
    /// Print the line "measuring" when the warm-up is over
    #[arg(long, help_heading = "Results")]
    pub announce: bool,
    /// Print neither progress nor summary
    #[arg(long, short, help_heading = "Results")]
    pub quiet: bool,
}

/// `xks-load plot`
#[derive(Debug, Args)]
pub struct PlotArguments {
    /// Kind of plot
    pub kind: PlotKind,
    /// JSON files of runs, one curve each
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// The SVG file
    #[arg(long, short)]
    pub output: PathBuf,
    /// Title above the plot
    #[arg(long)]
    pub title: Option<String>,
}

/// Kinds of plot; see [`PlotArguments`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PlotKind {
    /// Latency by percentile
    Latency,
    /// Latency over the time of the run
    OverTime,
    /// Requests offered, answered within 250 ms and refused, over the time of the run
    Goodput,
    /// 99th percentile by rate
    Rate,
}

/// Operations by weight.
#[derive(Clone, Debug)]
pub struct Mix(pub Vec<(Operation, u32)>);

/// First rate, last rate and step of a ramp.
#[derive(Clone, Copy, Debug)]
pub struct Ramp {
    from: f64,
    to: f64,
    step: f64,
}

/// Maximum duration of a phase in seconds.
const MAX_SECONDS: f64 = 86_400.0;
/// Maximum number of phases.
const MAX_PHASES: usize = 1000;

fn parse_mix(text: &str) -> Result<Mix, String> {
    let mut mix = Vec::new();
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let operation = Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
            .ok_or("the calls are encrypt, encrypt-cdiv, decrypt, metadata and health")?;
        let weight: u16 = weight.parse().map_err(|_| "a weight is 0 to 65535")?;
        mix.push((operation, u32::from(weight)));
    }
    let sum: u32 = mix.iter().map(|(_, weight)| weight).sum();
    if sum == 0 { Err("all weights are 0".into()) } else { Ok(Mix(mix)) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a rate is a number")?;
    if (0.1..=10_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate is 0.1 to 10,000,000 a second".into())
    }
}

fn parse_milli(text: &str) -> Result<f64, String> {
    let milli: f64 = text.parse().map_err(|_| "milliseconds are a number")?;
    let is_valid = (0.1..=60_000.0).contains(&milli);
    if is_valid { Ok(milli) } else { Err("milliseconds are 0.1 to 60,000".into()) }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "a percentage is a number")?;
    let is_valid = (0.0..=100.0).contains(&percent);
    if is_valid { Ok(percent) } else { Err("a percentage is 0 to 100".into()) }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "seconds are a number")?;
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("seconds are 0 to 86,400".into())
    }
}

fn parse_step(text: &str) -> Result<(f64, Duration), String> {
    let (rate, seconds) = text.split_once('x').ok_or("a step is RATExSECONDS")?;
    Ok((parse_rate(rate)?, parse_seconds(seconds)?))
}

fn parse_ramp(text: &str) -> Result<Ramp, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [from, to, step] = parts[..] else { return Err("a ramp is FROM:TO:STEP".into()) };
    let ramp = Ramp { from: parse_rate(from)?, to: parse_rate(to)?, step: parse_rate(step)? };
    if ramp.from > ramp.to {
        return Err("a ramp goes up".into());
    }
    Ok(ramp)
}

impl RunArguments {
    /// Address of the proxy's admin listener, if it is known and speaks plain HTTP.
    ///
    /// # Errors
    /// The settings file cannot be read.
    pub fn metrics(&self) -> Result<Option<SocketAddr>, String> {
        let of_settings = || match &self.settings {
            Some(file) => ProxySettings::read(file).map(|settings| settings.admin_address()),
            None => Ok(None),
        };
        self.metrics.map_or_else(of_settings, |address| Ok(Some(address)))
    }

    /// The run's phases.
    ///
    /// # Errors
    /// There are too many phases, or none is measured.
    pub fn phases(&self) -> Result<Vec<Phase>, String> {
        let measured = |pace, duration| Phase { pace, duration, is_measured: true };
        let mut phases: Vec<Phase> = if let Some(ramp) = self.ramp {
            (0..=MAX_PHASES)
                .scan(ramp.from, |rate, _| {
                    let current = *rate;
                    *rate += ramp.step;
                    (current <= ramp.to).then_some(current)
                })
                .map(|rate| measured(Pace::Open(rate), self.seconds))
                .collect()
        } else if self.steps.is_empty() {
            vec![measured(self.rate.map_or(Pace::Closed, Pace::Open), self.seconds)]
        } else {
            self.steps.iter().map(|(rate, time)| measured(Pace::Open(*rate), *time)).collect()
        };
        if phases.len() > MAX_PHASES {
            return Err(format!("more than {MAX_PHASES} rates"));
        }
        if phases.iter().any(|phase| phase.duration.is_zero()) {
            return Err("a load of 0 seconds".into());
        }
        if !self.warm_up.is_zero() {
            let (pace, duration) = (phases[0].pace, self.warm_up);
            phases.insert(0, Phase { pace, duration, is_measured: false });
        }
        Ok(phases)
    }

    /// Length of an interval of the figures over time.
    #[must_use]
    pub fn interval(&self, total: Duration) -> Duration {
        let default = if total > Duration::from_secs(60) { 1000 } else { 100 };
        Duration::from_millis(self.interval_milli.unwrap_or(default).into())
    }

    /// The proxy to put under load.
    ///
    /// # Errors
    /// Description of the missing or wrong argument.
    pub fn target(&self) -> Result<Target, String> {
        let settings = self.settings.as_deref().map(ProxySettings::read).transpose()?;
        let prefix = self.prefix.as_deref();
        let store = match &settings {
            Some(settings) => Some(settings.store(prefix).ok_or("no such key store")?),
            None => None,
        };
        let address = self.address.or(settings.as_ref().map(ProxySettings::address));
        let address = address.ok_or("--address or --settings is needed")?;
        if !address.ip().is_loopback() && !self.allow_remote {
            return Err(format!("{address} is not on this machine: see --allow-remote"));
        }
        let mut key_ids = self.key_ids.clone();
        if key_ids.is_empty() {
            let first = store.and_then(Store::first_key_id);
            key_ids.push(first.ok_or("--key-id or --settings is needed")?.to_owned());
        }
        let of_store = store.and_then(Store::credential);
        let or_store = |given: &Option<String>, of_store: Option<&String>| {
            given.clone().or_else(|| of_store.cloned())
        };
        let (id, secret) = (
            of_store.map(|credential| &credential.sigv4_access_key_id),
            of_store.map(|credential| &credential.sigv4_secret_access_key),
        );
        let credential = Credential {
            access_key_id: or_store(&self.access_key_id, id)
                .ok_or("--access-key-id is needed, or --settings with one")?,
            secret_access_key: or_store(&self.secret_access_key, secret)
                .ok_or("--secret-access-key is needed, or --settings with one")?,
            region: match (&self.region, &settings) {
                (Some(region), _) => region.clone(),
                (None, Some(settings)) => settings.region().to_owned(),
                (None, None) => "us-east-1".to_owned(),
            },
            service: settings.as_ref().map_or("kms-xks-proxy", ProxySettings::service).to_owned(),
        };
        let is_tls = self.tls || settings.as_ref().is_some_and(ProxySettings::is_tls_enabled);
        Ok(Target {
            address,
            host: format!("{}:{}", self.server_name, address.port()),
            tls: if is_tls { Some(self.tls_settings()?) } else { None },
            uri_path_prefix: prefix
                .or(store.map(|store| store.uri_path_prefix.as_str()))
                .unwrap_or_default()
                .to_owned(),
            credential,
            key_ids,
        })
    }

    fn tls_settings(&self) -> Result<Tls, String> {
        if self.ca.is_none() && !self.insecure {
            return Err("the proxy speaks TLS: --ca FILE or --insecure is needed".into());
        }
        let identity = self.client_cert.as_deref().zip(self.client_key.as_deref());
        Ok(Tls {
            config: tls::client_config(self.ca.as_deref(), identity)?,
            server_name: ServerName::try_from(self.server_name.clone())
                .map_err(|error| format!("--server-name: {error}"))?,
        })
    }

    /// Length of the unmeasured load before a measured one.
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.warm_up
    }

    /// Time after which a request counts as failed.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_milli.into())
    }
}

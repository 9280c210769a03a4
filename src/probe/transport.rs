//! Rules about the name, the network, TLS and the certificate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;

use super::no_answer::is_timeout;
use super::options::Options;
use super::report::{Outcome, Report, Rule};
use super::{certificate_checks, kms_codes};
use crate::certificate::Certificate;
use crate::client::bodies::base64;
use crate::client::{self, Client, Handshake, SpecSuite, TlsVersion, Trust};
use crate::limits::{
    MAX_NETWORK_ROUND_TRIP, MAX_PROBE_ADDRESSES, PROBE_CALL_TIMEOUT, PROBE_FRESH_CONNECTIONS,
};
use crate::partition;

const REACHABLE: Rule = Rule::must(
    "network.reachable",
    "API content type",
    "A connection is accepted and not ended at once.",
);
const ENDPOINT: Rule = Rule::should(
    "uri.endpoint",
    "API operations; Appendix E, 0.0.16",
    "The server is named by a fully qualified domain name, and KMS calls it on port 443.",
);
const NETWORK: Rule = Rule::should(
    "network.round-trip",
    "GetKeyMetadata, KMS considerations",
    "The ping latency between the AWS data center and yours should be 35 ms or less: run this \
     from a machine in the Region.",
);
const IPV4: Rule = Rule::must(
    "network.ipv4",
    "(AWS's guide, Create an external key store)",
    "The host has an IPv4 address: KMS does not reach external key stores over IPv6.",
);
const HTTPS: Rule =
    Rule::should("tls.https", "API content type", "KMS uses HTTPS only, so it cannot call this.");
const HANDSHAKE: Rule = Rule::must(
    "tls.handshake",
    "API content type",
    "TLS 1.2 or later, with AES-256-GCM-SHA384 (1.3, or ECDHE in 1.2) or ChaCha20-Poly1305 (1.3).",
);
const VERSIONS: Rule = Rule::should(
    "tls.versions",
    "API content type",
    "TLS 1.3 beside 1.2, or instead of it: its handshake takes one round trip less of the 250 ms.",
);
const SUITES: Rule = Rule::should(
    "tls.suites",
    "API content type; (KMS in AWS GovCloud)",
    "A suite with AES-256-GCM is accepted: KMS in GovCloud does not offer ChaCha20-Poly1305.",
);
const MTLS_ASKED: Rule = Rule::should(
    "mtls.required",
    "Authentication",
    "With mTLS, a client without a certificate does not get past the handshake.",
);
const MTLS_STRANGER: Rule = Rule::must(
    "mtls.stranger",
    "Authentication",
    "A client certificate of another authority must end the handshake.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &REACHABLE,
    &ENDPOINT,
    &IPV4,
    &NETWORK,
    &HTTPS,
    &HANDSHAKE,
    &VERSIONS,
    &SUITES,
    &MTLS_ASKED,
    &MTLS_STRANGER,
];

/// The extent of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All checks.
    Whole,
    /// Only those without handshakes that a right proxy refuses.
    Brief,
}

/// Checks name, network and TLS. Returns the addresses if calls are possible.
pub fn examine(options: &Options, extent: Extent, report: &mut Report) -> Option<Vec<SocketAddr>> {
    match try_examine(options, extent, report) {
        Ok(addresses) => addresses,
        Err(error) => {
            report.add(&REACHABLE, None, Outcome::Broken(format!("it cannot be reached: {error}")));
            None
        }
    }
}

fn try_examine(
    options: &Options,
    extent: Extent,
    report: &mut Report,
) -> io::Result<Option<Vec<SocketAddr>>> {
    let found = client::resolve(options.connect_to.as_ref().unwrap_or(&options.endpoint))?;
    let ipv4: Vec<SocketAddr> = found.iter().copied().filter(SocketAddr::is_ipv4).collect();
    let mut addresses = if ipv4.is_empty() { found.clone() } else { ipv4 };
    addresses.truncate(MAX_PROBE_ADDRESSES);
    let socket = client::connect(&addresses, PROBE_CALL_TIMEOUT)?;
    let texts: Vec<String> = addresses.iter().map(|one| one.ip().to_string()).collect();
    let peer = socket.peer_addr()?;
    report.tell("addresses", json!(texts));
    let Options { endpoint, trust, .. } = options;
    let handshaken = endpoint.is_https.then(|| {
        let started = Instant::now();
        let (handshake, client) =
            Client::over(socket, endpoint, trust, started, PROBE_CALL_TIMEOUT);
        (handshake.unwrap_or_default(), client.map(drop))
    });
    if let Some((handshake, Err(error))) = &handshaken
        && is_silent_end(error, handshake)
    {
        let why = "it accepts connections and ends them before a handshake";
        return Err(io::Error::other(format!("{why} ({error})")));
    }
    report.add(&REACHABLE, None, Outcome::Held(peer.to_string()));
    report.add(&ENDPOINT, None, self::endpoint(options, &texts.join(", ")));
    report.add(&IPV4, None, over_ipv4(&found));
    report.add(&NETWORK, None, round_trip(&addresses));
    let Some((handshake, outcome)) = handshaken else {
        report.add(&HTTPS, None, Outcome::Broken("plain HTTP, as --insecure-http says".to_owned()));
        return Ok(Some(addresses));
    };
    report_handshake(options, &handshake, outcome.as_ref().err(), report);
    if outcome.is_err() {
        return Ok(None);
    }
    if extent == Extent::Whole {
        offers(options, &addresses, report);
    }
    Ok(Some(addresses))
}

/// Checks what the proxy offers and requires in handshakes.
fn offers(options: &Options, addresses: &[SocketAddr], report: &mut Report) {
    let offers = [TlsVersion::Tls13, TlsVersion::Tls12].map(|version| {
        let mut trust = options.trust.clone();
        trust.version = Some(version);
        open(options, addresses, &trust).is_ok()
    });
    report.add(&VERSIONS, None, versions(offers));
    let accepted = accepted_suites(options, addresses);
    report.add(&SUITES, None, suites(&accepted));
    report.tell("suites", json!(accepted));
    if options.has_identity {
        mutual(options, addresses, report);
    }
}

fn endpoint(options: &Options, addresses: &str) -> Outcome {
    let endpoint = &options.endpoint;
    let host = &endpoint.host;
    let what = format!("{host} ({addresses}), port {}", endpoint.port);
    let is_address = endpoint.host_name().parse::<IpAddr>().is_ok();
    if is_address || !host.contains('.') {
        Outcome::Broken(format!("{what}: no fully qualified domain name"))
    } else if endpoint.port != 443 {
        Outcome::Broken(format!("{what}: KMS will call it on 443"))
    } else {
        Outcome::Held(what)
    }
}

/// Measures the median duration of several connection attempts, each of one round trip.
fn round_trip(addresses: &[SocketAddr]) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..PROBE_FRESH_CONNECTIONS {
        let started = Instant::now();
        match client::connect(addresses, PROBE_CALL_TIMEOUT) {
            Ok(_) => times.push(started.elapsed()),
            Err(error) => return Outcome::Broken(error.to_string()),
        }
    }
    times.sort_unstable();
    near(times.get(times.len() / 2).copied().unwrap_or_default())
}

fn near(time: Duration) -> Outcome {
    let came = format!("{:.2} ms to connect (median)", time.as_secs_f64() * 1e3);
    if time <= MAX_NETWORK_ROUND_TRIP { Outcome::Held(came) } else { Outcome::Broken(came) }
}

/// Reports the outcome of a handshake, with the certificate that came.
fn report_handshake(
    options: &Options,
    handshake: &Handshake,
    error: Option<&io::Error>,
    report: &mut Report,
) {
    let chain: Vec<Certificate> =
        handshake.chain.iter().filter_map(|der| Certificate::parse(der)).collect();
    report.tell(
        "tls",
        json!({
            "version": handshake.version,
            "suite": handshake.suite,
            "group": handshake.group,
            "chain": chain.iter().map(certificate_checks::to_json).collect::<Vec<_>>(),
            "chain_der": handshake.chain.iter().map(|der| base64(der)).collect::<Vec<_>>(),
        }),
    );
    report.expiry = chain.iter().map(|one| one.not_after_unix_secs).min();
    // Certificate errors are reported below.
    let is_certificate =
        matches!(&handshake.trust, Some(Err(_))) || matches!(&handshake.name, Some(Err(_)));
    let (outcome, code) = match error {
        None => (Outcome::Held(handshake.summary()), None),
        Some(_) if is_certificate => {
            (Outcome::Untried("the certificate is not right".to_owned()), None)
        }
        Some(error) if is_timeout(error) => {
            (Outcome::Broken("the handshake took too long".to_owned()), Some(kms_codes::TIMED_OUT))
        }
        Some(error) => (Outcome::Broken(error.to_string()), Some(kms_codes::INVALID_TLS)),
    };
    report.add_with_code(&HANDSHAKE, None, outcome, code);
    certificate_checks::examine(options, handshake, &chain, report);
}

/// Returns whether the peer ended the connection without a word, as a load balancer does that has
/// no target.
fn is_silent_end(error: &io::Error, handshake: &Handshake) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let ends = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    handshake.chain.is_empty() && ends.contains(&error.kind())
}

/// Returns the suites of the specification that the proxy accepts.
fn accepted_suites(options: &Options, addresses: &[SocketAddr]) -> Vec<String> {
    let accepts = |suite: &SpecSuite| {
        let mut trust = options.trust.clone();
        trust.only_suite = Some(*suite);
        open(options, addresses, &trust).is_ok()
    };
    SpecSuite::all().filter(accepts).map(SpecSuite::name).collect()
}

fn suites(accepted: &[String]) -> Outcome {
    let came = accepted.join(", ");
    let is_right = accepted.iter().any(|name| name.contains("AES_256_GCM"));
    if is_right { Outcome::Held(came) } else { Outcome::Broken(format!("only {came}")) }
}

fn over_ipv4(found: &[SocketAddr]) -> Outcome {
    let has_ipv4 = found.iter().any(SocketAddr::is_ipv4);
    let texts: Vec<String> = found
        .iter()
        .filter(|one| one.is_ipv4() == has_ipv4)
        .map(|one| one.ip().to_string())
        .collect();
    let texts = texts.join(", ");
    let others = found.iter().filter(|one| one.is_ipv6()).count();
    match (has_ipv4, others) {
        (true, 0) => Outcome::Held(texts),
        (true, _) => Outcome::Held(format!("{texts}; its IPv6 addresses are not used, as by KMS")),
        (false, _) => Outcome::Broken(format!("only IPv6 addresses: {texts}")),
    }
}

fn versions([is_13, is_12]: [bool; 2]) -> Outcome {
    match (is_13, is_12) {
        (true, true) => Outcome::Held("1.3 and 1.2".to_owned()),
        (true, false) => Outcome::Held("1.3 alone".to_owned()),
        _ => Outcome::Broken("1.2 alone".to_owned()),
    }
}

fn open(options: &Options, addresses: &[SocketAddr], trust: &Trust) -> io::Result<Client> {
    let started = Instant::now();
    let socket = client::connect(addresses, PROBE_CALL_TIMEOUT)?;
    Client::over(socket, &options.endpoint, trust, started, PROBE_CALL_TIMEOUT).1
}

/// Returns the status of a GET. In TLS 1.3 a server refuses a client's certificate only after the
/// client has finished the handshake, so a request is needed.
fn get(options: &Options, addresses: &[SocketAddr], trust: &Trust) -> io::Result<u16> {
    let endpoint = &options.endpoint;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        endpoint.path("/health"),
        endpoint.host_header()
    );
    let answer = open(options, addresses, trust)?.exchange(request.as_bytes())?;
    Ok(answer.status)
}

fn mutual(options: &Options, addresses: &[SocketAddr], report: &mut Report) {
    let mut trust = options.trust.clone();
    trust.be_anonymous();
    let anonymous = get(options, addresses, &trust);
    let is_asked = anonymous.is_err();
    report.add(&MTLS_ASKED, None, refused(anonymous, "without a certificate"));
    let name = partition::kms_client_name(&options.signer.region);
    let outcome = if is_asked {
        stranger(&name).and_then(|(certificate, key)| {
            trust.identify_by(certificate, key).map_err(|error| error.to_string())
        })
    } else {
        Err("no client certificate is asked for".to_owned())
    };
    let how = format!("with a certificate for {name} that it issued itself");
    let outcome = match outcome {
        Ok(()) => refused(get(options, addresses, &trust), &how),
        Err(why) => Outcome::Untried(why),
    };
    report.add(&MTLS_STRANGER, None, outcome);
}

fn refused(answer: io::Result<u16>, how: &str) -> Outcome {
    match answer {
        Ok(status) => Outcome::Broken(format!("a client {how} got status {status}")),
        Err(error) if is_timeout(&error) => {
            Outcome::Broken(format!("a client {how} was left waiting"))
        }
        Err(error) => Outcome::Held(format!("a client {how} got: {error}")),
    }
}

/// Returns a self-signed certificate and its key (DER).
fn stranger(name: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]);
    let made = made.map_err(|error| error.to_string())?;
    Ok((made.cert.der().to_vec(), made.signing_key.serialize_der()))
}

#[cfg(test)]
#[expect(clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    /// A round trip of 35 ms is accepted.
    #[test]
    fn round_trips() {
        assert!(matches!(near(Duration::from_millis(35)), Outcome::Held(_)));
        assert!(matches!(near(Duration::from_millis(36)), Outcome::Broken(_)));
    }

    /// KMS uses IPv4 alone; IPv6 addresses beside it do no harm.
    #[test]
    fn addresses() {
        let four = SocketAddr::from(([192, 0, 2, 1], 443));
        let six = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 443));
        assert_eq!(over_ipv4(&[four]), Outcome::Held("192.0.2.1".to_owned()));
        let Outcome::Held(both) = over_ipv4(&[six, four]) else { panic!("not held") };
        assert!(both.starts_with("192.0.2.1; its IPv6"), "{both}");
        let only = Outcome::Broken("only IPv6 addresses: 2001:db8::1".to_owned());
        assert_eq!(over_ipv4(&[six]), only);
    }

    /// KMS in GovCloud has no ChaCha20-Poly1305.
    #[test]
    fn accepted() {
        let of = |name: &str| suites(&[name.to_owned()]);
        assert!(matches!(of("TLS13_AES_256_GCM_SHA384"), Outcome::Held(_)));
        assert!(matches!(of("TLS13_CHACHA20_POLY1305_SHA256"), Outcome::Broken(_)));
        assert_eq!(SpecSuite::all().count(), 4);
    }
}

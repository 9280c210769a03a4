//! Rules about the name, the network, TLS and the certificate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;

use super::certificate::{self, Certificate};
use super::options::Options;
use super::report::{Outcome, Report, Rule};
use crate::client::{self, Anchor, Client, Handshake, TlsVersion, Trust, bodies::base64};
use crate::limits::{
    CERTIFICATE_WARNING_DAYS, MAX_NETWORK_ROUND_TRIP, PROBE_CALL_TIMEOUT, PROBE_FRESH_CONNECTIONS,
};

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
const CHAIN: Rule = Rule::must(
    "tls.chain",
    "Authentication",
    "The certificate leads to an authority that is trusted; KMS trusts a list of public ones.",
);
const NAME: Rule = Rule::must(
    "tls.name",
    "Authentication",
    "The certificate has the host's name among its subject alternative names.",
);
const EXPIRY: Rule = Rule::should(
    "tls.expiry",
    "(Authentication)",
    "No certificate of the chain expires within 30 days.",
);
const KEY: Rule = Rule::should(
    "tls.key",
    "(NIST SP 800-131A)",
    "The certificate's key is RSA of at least 2048 bits, or an elliptic curve's of at least 256.",
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
    &ENDPOINT,
    &NETWORK,
    &HTTPS,
    &HANDSHAKE,
    &VERSIONS,
    &CHAIN,
    &NAME,
    &EXPIRY,
    &KEY,
    &MTLS_ASKED,
    &MTLS_STRANGER,
];

/// Checks name, network and TLS. Returns the addresses if calls are possible.
///
/// # Errors
/// The proxy cannot be reached at all.
pub fn examine(options: &Options, report: &mut Report) -> io::Result<Option<Vec<SocketAddr>>> {
    let addresses = client::resolve(&options.endpoint)?;
    // This precedes all checks: a proxy that does not listen is not a failed check.
    let socket = client::connect(&addresses, PROBE_CALL_TIMEOUT)?;
    let texts: Vec<String> = addresses.iter().map(|one| one.ip().to_string()).collect();
    report.tell("addresses", json!(texts));
    report.add(&ENDPOINT, None, endpoint(options, &texts.join(", ")));
    report.add(&NETWORK, None, round_trip(&addresses));
    if !options.endpoint.is_https {
        report.add(&HTTPS, None, Outcome::Broken("plain HTTP, as --insecure-http says".to_owned()));
        return Ok(Some(addresses));
    }
    let started = Instant::now();
    let Options { endpoint, trust, .. } = options;
    let (handshake, client) = Client::over(socket, endpoint, trust, started, PROBE_CALL_TIMEOUT);
    let handshake = handshake.unwrap_or_default();
    let is_open = client.is_ok();
    let why = client.err().map(|error| error.to_string()).unwrap_or_default();
    report_handshake(options, &handshake, is_open, &why, report);
    if !is_open {
        return Ok(None);
    }
    let offers = [TlsVersion::Tls13, TlsVersion::Tls12].map(|version| {
        let mut trust = trust.clone();
        trust.version = Some(version);
        open(options, &addresses, &trust).is_ok()
    });
    report.add(&VERSIONS, None, versions(offers));
    if options.has_identity {
        mutual(options, &addresses, report);
    }
    Ok(Some(addresses))
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

fn report_handshake(
    options: &Options,
    handshake: &Handshake,
    is_open: bool,
    why: &str,
    report: &mut Report,
) {
    let chain: Vec<Certificate> =
        handshake.chain.iter().filter_map(|der| certificate::read(der)).collect();
    report.tell(
        "tls",
        json!({
            "version": handshake.version,
            "suite": handshake.suite,
            "group": handshake.group,
            "chain": chain.iter().map(Certificate::to_json).collect::<Vec<_>>(),
            "chain_der": handshake.chain.iter().map(|der| base64(der)).collect::<Vec<_>>(),
        }),
    );
    // Certificate errors are reported below.
    let is_certificate =
        matches!(&handshake.trust, Some(Err(_))) || matches!(&handshake.name, Some(Err(_)));
    report.add(
        &HANDSHAKE,
        None,
        if is_open {
            Outcome::Held(handshake.summary())
        } else if is_certificate {
            Outcome::Untried("the certificate is not right".to_owned())
        } else {
            Outcome::Broken(why.to_owned())
        },
    );
    if let Some(trust) = &handshake.trust {
        report.add(&CHAIN, None, trusted(trust, &chain));
    }
    if let (Some(name), Some(first)) = (&handshake.name, chain.first()) {
        let names = first.names.join(", ");
        let host = &options.endpoint.host;
        report.add(
            &NAME,
            None,
            match name {
                Ok(()) => Outcome::Held(format!("{host} is among: {names}")),
                Err(why) => Outcome::Broken(format!("{host} is not among: {names} ({why})")),
            },
        );
    }
    if let Some(soonest) = chain.iter().min_by_key(|one| one.days_left) {
        let days = soonest.days_left;
        let came = format!("{days} days left for {}, until {}", soonest.subject, soonest.not_after);
        let is_long = days >= CERTIFICATE_WARNING_DAYS;
        report.add(&EXPIRY, None, if is_long { Ok(came) } else { Err(came) });
    }
    if let Some(first) = chain.first() {
        let came = first.key.clone();
        report.add(&KEY, None, if first.is_key_strong { Ok(came) } else { Err(came) });
    }
}

fn trusted(trust: &Result<Anchor, String>, chain: &[Certificate]) -> Outcome {
    let names: Vec<&str> = chain.iter().map(|one| one.subject.as_str()).collect();
    let issuer = chain.last().map(|one| one.issuer.as_str()).unwrap_or_default();
    let way = format!("{} <- {issuer}", names.join(" <- "));
    match trust {
        Ok(Anchor::System) => Outcome::Held(way),
        Ok(Anchor::Extra) => {
            Outcome::Held(format!("{way}; by --ca only, and KMS trusts public authorities"))
        }
        Err(why) => {
            let is_unknown = why.contains("UnknownIssuer");
            let hint = if is_unknown { "; --ca FILE trusts another authority" } else { "" };
            Outcome::Broken(format!("{way}: {why}{hint}"))
        }
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
    let name = format!("cks.kms.{}.amazonaws.com", options.signer.region);
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
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
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
mod tests {
    use super::*;

    /// A round trip of 35 ms is accepted.
    #[test]
    fn round_trips() {
        assert!(matches!(near(Duration::from_millis(35)), Outcome::Held(_)));
        assert!(matches!(near(Duration::from_millis(36)), Outcome::Broken(_)));
    }
}

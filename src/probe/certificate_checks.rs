//! Rules about the server's certificate.

use serde_json::{Value, json};

use super::options::Options;
use super::report::{Outcome, Report, Rule, shown};
use crate::certificate::{Authorities, Certificate};
use crate::client::{Anchor, Handshake};
use crate::limits::CERTIFICATE_WARNING_DAYS;

const CHAIN: Rule = Rule::must(
    "tls.chain",
    "Authentication",
    "The certificate leads to an authority that this machine trusts, or one of --ca.",
);
const AUTHORITY: Rule = Rule::must(
    "tls.kms-authority",
    "Authentication",
    "The certificate leads to one of the public authorities that AWS lists \
     (TrustedCertificateAuthorities): KMS accepts no other, whatever the connectivity.",
);
const NAME: Rule = Rule::must(
    "tls.name",
    "Authentication",
    "The certificate has the host's name among its subject alternative names.",
);
const SUBJECT: Rule = Rule::must(
    "tls.subject",
    "(AWS's guide, Assemble the prerequisites)",
    "The common name (CN) of the certificate's subject matches the host's name, which is the \
     private DNS name of a VPC endpoint service; a wildcard stands for the first label.",
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

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[&CHAIN, &AUTHORITY, &NAME, &SUBJECT, &EXPIRY, &KEY];

/// Makes the checks of the certificate as far as the handshake got.
pub fn examine(
    options: &Options,
    handshake: &Handshake,
    chain: &[Certificate],
    report: &mut Report,
) {
    let Some(server) = chain.first() else { return };
    if let Some(trust) = &handshake.trust {
        report.add(&CHAIN, None, trusted(trust, chain));
        let listed = handshake.listed.as_ref().unwrap_or(&Ok(()));
        report.add(&AUTHORITY, None, authority(&options.authorities, trust, listed, chain));
    }
    let host = &options.endpoint.host;
    if let Some(name) = &handshake.name {
        let names = server.names.join(", ");
        let outcome = match name {
            Ok(()) => Outcome::Held(format!("{host} is among: {names}")),
            Err(why) => Outcome::Broken(format!("{host} is not among: {names} ({why})")),
        };
        report.add(&NAME, None, outcome);
    }
    report.add(&SUBJECT, None, subject(server, options.endpoint.host_name()));
    if let Some(soonest) = chain.iter().min_by_key(|one| one.not_after_unix_secs) {
        let (days, date) = (soonest.days_left(), soonest.not_after());
        let came = format!("{days} days left for {}, until {date}", soonest.subject);
        let is_long = days >= CERTIFICATE_WARNING_DAYS;
        report.add(&EXPIRY, None, if is_long { Ok(came) } else { Err(came) });
    }
    let came = server.key.clone();
    report.add(&KEY, None, if server.is_key_strong { Ok(came) } else { Err(came) });
}

/// Returns the certificate's members of the JSON report.
pub fn to_json(certificate: &Certificate) -> Value {
    let shown_names: Vec<String> = certificate.names.iter().map(|name| shown(name)).collect();
    json!({
        "subject": shown(&certificate.subject),
        "common_names": certificate.common_names.iter().map(|it| shown(it)).collect::<Vec<_>>(),
        "issuer": shown(&certificate.issuer),
        "names": shown_names,
        "days_left": certificate.days_left(),
        "not_after": certificate.not_after(),
        "key": certificate.key,
    })
}

/// Returns the names from the server's certificate to the last issuer.
fn way(chain: &[Certificate]) -> String {
    let names: Vec<&str> = chain.iter().map(|one| one.subject.as_str()).collect();
    let issuer = chain.last().map(|one| one.issuer.as_str()).unwrap_or_default();
    format!("{} <- {issuer}", names.join(" <- "))
}

fn trusted(trust: &Result<Anchor, String>, chain: &[Certificate]) -> Outcome {
    let way = way(chain);
    match trust {
        Ok(Anchor::System) => Outcome::Held(way),
        Ok(Anchor::Extra) => Outcome::Held(format!("{way}; by --ca")),
        Err(why) => {
            let is_unknown = why.contains("UnknownIssuer");
            let hint = if is_unknown { "; --ca FILE trusts another authority" } else { "" };
            Outcome::Broken(format!("{way}: {why}{hint}"))
        }
    }
}

/// Judges whether KMS accepts the chain's authority. An authority that was given by `--ca` may be
/// meant for a test, or for the way from a load balancer, so it is only a warning.
fn authority(
    list: &Authorities,
    trust: &Result<Anchor, String>,
    listed: &Result<(), String>,
    chain: &[Certificate],
) -> Outcome {
    let date = list.date.as_deref().map(|date| format!(" of {date}")).unwrap_or_default();
    let issuer = chain.last().map(|one| one.issuer.as_str()).unwrap_or_default();
    match (listed, list.named(chain), trust) {
        (Ok(()), named, _) => {
            Outcome::Held(format!("{}, in AWS's list{date}", named.unwrap_or(issuer)))
        }
        (Err(why), Some(named), Err(_)) => Outcome::Untried(format!(
            "{named} is in AWS's list{date}, and the chain does not verify: {why}"
        )),
        (Err(why), Some(named), Ok(_)) => Outcome::Doubtful(format!(
            "{named} is a name in AWS's list{date}, but the chain does not lead to its \
             certificate as far as this machine can tell: {why}"
        )),
        (Err(_), None, Ok(Anchor::Extra)) => Outcome::Doubtful(format!(
            "{issuer} is none of the {} authorities of AWS's list{date}: by --ca this probe goes \
             on, but KMS will not connect",
            list.count()
        )),
        (Err(_), None, _) => Outcome::Broken(format!(
            "{issuer} is none of the {} authorities of AWS's list{date}",
            list.count()
        )),
    }
}

fn subject(server: &Certificate, host: &str) -> Outcome {
    let names = server.common_names.join(", ");
    if server.has_common_name_for(host) {
        Outcome::Held(format!("{host} is: {names}"))
    } else if server.common_names.is_empty() {
        Outcome::Broken(format!("the subject \"{}\" has no common name", server.subject))
    } else {
        Outcome::Broken(format!("{host} is not: {names}"))
    }
}

//! Rules about authentication.

use std::io;
use std::time::{Duration, SystemTime};

use super::answers::{Reply, came, expect_error};
use super::calls::{of_key, plaintext};
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};
use crate::client::{Signed, Signer};
use crate::limits::{MAX_CLOCK_SKEW, PROBE_CLOCK_SKEW};
use crate::observe::redaction::Secret;

const UNSIGNED: Rule = Rule::must(
    "authentication.unsigned",
    "Authentication; Error codes",
    "A request without Authorization: 401 AuthenticationFailedException.",
);
const GARBAGE: Rule = Rule::must(
    "authentication.garbage",
    "Appendix A; Error codes",
    "A malformed Authorization: 401 AuthenticationFailedException.",
);
const SECRET: Rule = Rule::must(
    "authentication.wrong-secret",
    "Appendix A; Error codes",
    "A signature made with another secret: 401 AuthenticationFailedException.",
);
const ACCESS_KEY: Rule = Rule::must(
    "authentication.unknown-access-key",
    "Appendix A; Error codes",
    "An access key id that the key store does not have: 401 AuthenticationFailedException.",
);
const BODY: Rule = Rule::must(
    "authentication.altered-body",
    "Appendix A, task 1; Error codes",
    "The signature covers the body: another one is 401 AuthenticationFailedException.",
);
const PATH: Rule = Rule::must(
    "authentication.altered-path",
    "Appendix A, task 1; Error codes",
    "The signature covers the path: for another it is 401 AuthenticationFailedException.",
);
const SERVICE: Rule = Rule::should(
    "authentication.other-service",
    "Appendix A",
    "The service of the signature is kms-xks-proxy: for another it is 401 \
     AuthenticationFailedException.",
);
const OLD: Rule = Rule::must(
    "authentication.old",
    "Appendix A, task 4",
    "The time of a request must be recent; one of an hour ago: 401 AuthenticationFailedException.",
);
const FUTURE: Rule = Rule::must(
    "authentication.future",
    "Appendix A, task 4",
    "The time of a request must be recent; one in an hour: 401 AuthenticationFailedException.",
);
const SIX_MINUTES: Rule = Rule::should(
    "authentication.six-minutes",
    "Appendix A, task 4",
    "More than 5 minutes in the past or future should fail authentication.",
);
const FOUR_MINUTES: Rule = Rule::should(
    "authentication.four-minutes",
    "Appendix A, task 4",
    "Up to 5 minutes, for latency and clock drift, are accepted.",
);
const CLOCK: Rule = Rule::should(
    "authentication.clock",
    "(Appendix A, task 4)",
    "The proxy's clock, by its Date field, is within a minute of ours.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &UNSIGNED,
    &GARBAGE,
    &SECRET,
    &ACCESS_KEY,
    &BODY,
    &PATH,
    &SERVICE,
    &OLD,
    &FUTURE,
    &SIX_MINUTES,
    &FOUR_MINUTES,
    &CLOCK,
];

const FAILED: &[&str] = &["AuthenticationFailedException"];
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Makes calls that must be refused, and some that are only just acceptable.
pub fn examine(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let call = of_key(key_id, "encrypt");
    let body = prober.options.caller.encrypt(&plaintext(), None, false).to_string();
    let right = prober.options.signer.clone();
    let now = SystemTime::now();

    refuse(prober, &call, None, &body, &UNSIGNED, report);
    let garbage = Signed { authorization: "Bearer token".to_owned(), ..prober.sign(&call, &body) };
    refuse(prober, &call, Some(garbage), &body, &GARBAGE, report);

    let other_secret: String = right.secret_access_key.expose().chars().rev().collect();
    let palindrome = other_secret == *right.secret_access_key.expose();
    let other_secret = if palindrome { "x".repeat(43) } else { other_secret };
    let secret_access_key = Secret::new(other_secret);
    let access_key_id = if right.access_key_id.starts_with('A') { "B" } else { "A" };
    let access_key_id =
        format!("{access_key_id}{}", right.access_key_id.get(1..).unwrap_or_default());
    for (rule, signer) in [
        (&SECRET, Signer { secret_access_key, ..right.clone() }),
        (&ACCESS_KEY, Signer { access_key_id, ..right.clone() }),
        (&SERVICE, Signer { service: "kms".to_owned(), ..right }),
    ] {
        let signed = sign_with(prober, &signer, &call, &body);
        refuse(prober, &call, Some(signed), &body, rule, report);
    }

    let signed = prober.sign(&call, &body);
    let other_body = prober.options.caller.encrypt(&plaintext(), None, false).to_string();
    refuse(prober, &call, Some(signed), &other_body, &BODY, report);
    let signed = prober.sign(&of_key(key_id, "metadata"), &body);
    refuse(prober, &call, Some(signed), &body, &PATH, report);

    let (old, future) = (now.checked_sub(HOUR), now.checked_add(HOUR));
    for (rule, time) in [(&OLD, old), (&FUTURE, future)] {
        let reply = at(prober, &call, &body, time);
        report.add(rule, None, expect_error(&reply, FAILED));
    }
    let (late, early) = (MAX_CLOCK_SKEW + MINUTE, MAX_CLOCK_SKEW - MINUTE);
    let refused = [now.checked_sub(late), now.checked_add(late)]
        .map(|time| expect_error(&at(prober, &call, &body, time), FAILED));
    report.add(&SIX_MINUTES, None, both(refused));
    let accepted = [now.checked_sub(early), now.checked_add(early)]
        .map(|time| accepted(&at(prober, &call, &body, time)));
    report.add(&FOUR_MINUTES, None, both(accepted));
}

/// Judges the proxy's clock by its Date fields.
pub fn clock(prober: &Prober<'_>, report: &mut Report) {
    let outcome = match prober.observed.clock {
        None => Outcome::Untried("no answer had a Date field".to_owned()),
        Some(difference) => {
            let came = format!("{} s apart", difference.as_secs());
            if difference <= PROBE_CLOCK_SKEW { Outcome::Held(came) } else { Outcome::Broken(came) }
        }
    };
    report.add(&CLOCK, None, outcome);
}

fn refuse(
    prober: &mut Prober<'_>,
    call: &str,
    signed: Option<Signed>,
    body: &str,
    rule: &'static Rule,
    report: &mut Report,
) {
    let reply = prober.deliver("POST", call, signed, body);
    report.add(rule, None, expect_error(&reply, FAILED));
}

fn sign_with(prober: &Prober<'_>, signer: &Signer, call: &str, body: &str) -> Signed {
    let endpoint = &prober.options.endpoint;
    let (host, path) = (endpoint.host_header(), endpoint.path(call));
    signer.sign("POST", &host, &path, body.as_bytes(), SystemTime::now())
}

fn at(prober: &mut Prober<'_>, call: &str, body: &str, time: Option<SystemTime>) -> Reply {
    let time = time.ok_or_else(|| io::Error::other("our own clock is off"))?;
    let signed = prober.sign_at(call, body, time);
    prober.deliver("POST", call, Some(signed), body)
}

fn accepted(reply: &Reply) -> Outcome {
    match reply {
        Ok(answer) if answer.status != 401 => Outcome::Held(came(answer)),
        Ok(answer) => Outcome::Broken(came(answer)),
        Err(why) => Outcome::Broken(why.to_string()),
    }
}

/// Returns the first outcome that is not `Held`, or else the last.
fn both([past, future]: [Outcome; 2]) -> Outcome {
    match past {
        Outcome::Held(_) => match future {
            Outcome::Broken(why) => Outcome::Broken(format!("in the future: {why}")),
            other => other,
        },
        Outcome::Broken(why) => Outcome::Broken(format!("in the past: {why}")),
        other => other,
    }
}

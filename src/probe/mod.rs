//! `xks-proxy probe`: calls any XKS proxy as KMS does, and reports where it departs from the XKS
//! Proxy API specification.
//!
//! It changes nothing: the four calls create and destroy no keys, and the probe encrypts only its
//! own data.

mod answers;
mod authentication;
mod binding;
mod calls;
mod certificate;
mod ciphertext_file;
mod earlier;
mod kms;
mod kms_by_check;
mod latency;
pub mod options;
mod prober;
pub mod report;
mod terminal;
mod tolerance;
mod transport;
mod validation;

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use self::ciphertext_file::Made;
use self::options::{Arguments, Options};
use self::prober::{Observed, Prober, Target};
use self::report::{Outcome, Report, Rule, Verdict};
use crate::exit::{EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::observe::timestamp::Rfc3339;
use crate::output::outln;

const ERROR_FORM: Rule = Rule::must(
    "errors.form",
    "Error codes",
    "Every error is a JSON object with an errorName of the table, its status, and maybe an \
     errorMessage of under 512 characters of printable ASCII.",
);
const CONTENT_TYPE: Rule = Rule::must(
    "http.content-type",
    "API content type",
    "Every answer has the Content-Type application/json.",
);
const VERSION: Rule = Rule::must(
    "http.version",
    "API content type",
    "HTTP/1.1 or later must be supported, with a way back to 1.1.",
);
const KEEP_ALIVE: Rule = Rule::should(
    "http.keep-alive",
    "GetKeyMetadata, KMS considerations",
    "Connections are kept, after errors too: a new one takes round trips of KMS's 250 ms.",
);
const IN_TIME: Rule = Rule::should(
    "http.in-time",
    "Encrypt, KMS considerations",
    "Every answer comes within 250 ms, errors too.",
);

/// All rules of this file.
const RULES: &[&Rule] = &[&ERROR_FORM, &CONTENT_TYPE, &VERSION, &KEEP_ALIVE, &IN_TIME];

/// Returns all rules, in the order of their checks.
fn rules() -> Vec<&'static Rule> {
    [
        transport::RULES,
        calls::RULES,
        earlier::RULES,
        binding::RULES,
        tolerance::RULES,
        validation::RULES,
        authentication::RULES,
        latency::RULES,
        RULES,
    ]
    .concat()
}

/// Probes a proxy, prints the checks, and writes the JSON report.
///
/// # Errors
/// [`Failed`]: the arguments are wrong, the proxy cannot be reached, a check failed.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    if arguments.list {
        terminal::print_rules(&rules());
        return Ok(());
    }
    let options = Options::resolve(arguments)?;
    let is_verbose = arguments.verbose;
    let mut report = Report::new(move |check| terminal::print_check(check, is_verbose));
    examine(&options, &mut report)?;
    let counts = [
        (Verdict::Pass, "passed"),
        (Verdict::Warn, "warnings"),
        (Verdict::Fail, "failed"),
        (Verdict::Skip, "not tried"),
    ];
    let counts = counts.map(|(verdict, name)| format!("{} {name}", report.count(verdict)));
    outln!("\n{}", counts.join(", "));
    if let Some(file) = &arguments.json {
        let text = format!("{:#}\n", report.to_json());
        std::fs::write(file, text)
            .map_err(|error| Failed::new(EXIT_SETTINGS, format!("{}: {error}", file.display())))?;
    }
    match report.count(Verdict::Fail) {
        0 => Ok(()),
        failures => {
            let mut message = format!("{failures} checks failed:");
            for check in report.checks().iter().filter(|check| check.verdict == Verdict::Fail) {
                // Writing into a String cannot fail.
                let _ = write!(message, " {}", check.rule.name);
            }
            Err(Failed::new(EXIT_FAILED, message))
        }
    }
}

fn examine(options: &Options, report: &mut Report) -> Result<(), Failed> {
    let endpoint = &options.endpoint;
    let scheme = if endpoint.is_https { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", endpoint.host_header(), endpoint.path(""));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = String::from_utf8_lossy(Rfc3339::default().at(now)).into_owned();
    let version = env!("CARGO_PKG_VERSION");
    outln!("xks-proxy {version} probes {url}, {time}\n");
    report.tell("url", json!(url));
    report.tell("time", json!(time));
    report.tell("probe_version", json!(version));
    report.tell("specification", json!("1.0.3"));

    let addresses = transport::examine(options, report).map_err(|error| {
        let message = format!("{url} cannot be reached: {error} (in KMS: {})", kms::NOT_REACHABLE);
        Failed::new(EXIT_UNAVAILABLE, message)
    })?;
    let Some(addresses) = addresses else {
        return Ok(());
    };
    let mut prober = Prober::new(Target { options, addresses });
    if calls::health(&mut prober, report) {
        let made = conversation(&mut prober, report);
        if let Some(file) = &options.ciphertexts {
            ciphertext_file::keep(file, options.earlier.len(), &time, &made, calls::AAD)?;
        }
    } else {
        outln!("      Without an answer, the path or the credential all else would fail as well.");
    }
    observed(&prober.observed, report);
    authentication::clock(&prober, report);
    Ok(())
}

/// Makes the checks that need the right path and a valid credential. Returns a ciphertext of each
/// key that encrypts and decrypts.
fn conversation(prober: &mut Prober<'_>, report: &mut Report) -> Vec<Made> {
    let mut all_made = Vec::new();
    let mut is_first = true;
    for key_id in &prober.options.key_ids {
        let made = calls::key(prober, key_id, std::mem::take(&mut is_first), report);
        if prober.options.ciphertexts.is_some() {
            earlier::examine(prober, key_id, report);
        }
        all_made.extend(made.map(|(sealed, plaintext)| (key_id.clone(), sealed, plaintext)));
    }
    let Some(first) = prober.options.key_ids.first() else { return all_made };
    let made = all_made.iter().find(|(key_id, ..)| key_id == first);
    if let Some((key_id, sealed, _)) = made {
        binding::examine(prober, key_id, sealed, report);
        binding::sizes(prober, key_id, report);
        tolerance::examine(prober, key_id, report);
    } else {
        outln!("      Without a ciphertext neither binding nor latency can be tried.");
    }
    validation::bodies(prober, first, report);
    validation::paths(prober, first, report);
    authentication::examine(prober, first, report);
    if let Some((key_id, sealed, plaintext)) = made {
        let progress = &terminal::print_progress;
        let load = latency::Load { key_id, sealed, plaintext, progress };
        for (name, measured) in latency::examine(&prober.target, &load, report) {
            terminal::print_histogram(name, &measured);
        }
        outln!();
    }
    all_made
}

fn observed(observed: &Observed, report: &mut Report) {
    let none_of = |found: &[String], all: usize| match found {
        [] if all == 0 => Outcome::Untried("there was no answer to judge by".to_owned()),
        [] => Outcome::Held(format!("{all} answers")),
        found => Outcome::Broken(found.join("; ")),
    };
    let all = observed.answers;
    report.add(&ERROR_FORM, None, none_of(&observed.malformed_errors, observed.errors));
    report.add(&CONTENT_TYPE, None, none_of(&observed.content_types, all));
    report.add(&VERSION, None, none_of(&observed.old_versions, all));
    report.add(&KEEP_ALIVE, None, none_of(&observed.closes, all));
    report.add(&IN_TIME, None, none_of(&observed.late, all));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name belongs to one rule, since scripts rely on it.
    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = rules().iter().map(|rule| rule.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// Each check with a code of KMS exists.
    #[test]
    fn codes_belong_to_rules() {
        for (name, _) in kms_by_check::FIXED {
            assert!(rules().iter().any(|rule| rule.name == *name), "{name}");
        }
    }
}

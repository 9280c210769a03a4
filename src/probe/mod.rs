//! `xks-proxy probe`: calls any XKS proxy as KMS does, and reports where it departs from the XKS
//! Proxy API specification.
//!
//! It changes nothing: the four calls create and destroy no keys, and the probe encrypts only its
//! own data.

mod answers;
mod authentication;
mod binding;
mod calls;
mod certificate_checks;
mod ciphertext_file;
pub mod class;
mod earlier;
mod junit;
mod kms;
mod kms_by_check;
mod kms_codes;
mod latency;
mod no_answer;
mod observation;
pub mod options;
mod prober;
pub mod report;
mod terminal;
mod tolerance;
mod transport;
mod validation;
mod watch;

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use self::ciphertext_file::Made;
use self::class::Class;
use self::options::{Arguments, Options};
use self::prober::{Prober, Target};
use self::report::{Report, Rule, Verdict};
use self::transport::Extent;
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::output::outln;

/// Returns all rules, in the order of their checks.
fn rules() -> Vec<&'static Rule> {
    [
        transport::RULES,
        certificate_checks::RULES,
        calls::RULES,
        earlier::RULES,
        binding::RULES,
        tolerance::RULES,
        validation::RULES,
        authentication::RULES,
        latency::RULES,
        observation::RULES,
    ]
    .concat()
}

/// Probes a proxy, prints the checks, and writes the reports; or watches it.
///
/// # Errors
/// [`Failed`]: the arguments are wrong, the proxy cannot be reached, a check failed.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    if arguments.list {
        terminal::print_rules(&rules());
        return Ok(());
    }
    if let Some(address) = arguments.watch {
        return watch::run(arguments, address);
    }
    let options = Options::resolve(arguments)?;
    let is_verbose = arguments.verbose;
    let mut report = Report::new(move |check| terminal::print_check(check, is_verbose));
    let url = options.endpoint.url();
    examine(&options, &url, &mut report)?;
    let counts = [
        (Verdict::Pass, "passed"),
        (Verdict::Warn, "warnings"),
        (Verdict::Fail, "failed"),
        (Verdict::Skip, "not tried"),
    ];
    let counts = counts.map(|(verdict, name)| format!("{} {name}", report.count(verdict)));
    outln!("\n{}", counts.join(", "));
    let exit_code = class::exit_code(report.checks());
    let classes: Vec<&str> = class::failed(report.checks()).into_iter().map(Class::name).collect();
    report.tell("exit_code", json!(exit_code));
    report.tell("failing", json!(classes));
    if let Some(file) = &arguments.json {
        write(file, &format!("{:#}\n", report.to_json()))?;
    }
    if let Some(file) = &arguments.junit {
        write(file, &junit::to_xml(&report, &url))?;
    }
    match report.count(Verdict::Fail) {
        0 => Ok(()),
        failures => {
            let mut message = format!("{failures} checks failed ({}):", classes.join(", "));
            for check in report.checks().iter().filter(|check| check.verdict == Verdict::Fail) {
                // Writing into a String cannot fail.
                let _ = write!(message, " {}", check.rule.name);
            }
            Err(Failed::new(exit_code, message))
        }
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failed> {
    std::fs::write(file, text)
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("{}: {error}", file.display())))
}

fn examine(options: &Options, url: &str, report: &mut Report) -> Result<(), Failed> {
    let time = terminal::rfc3339(SystemTime::now());
    let version = env!("CARGO_PKG_VERSION");
    outln!("xks-proxy {version} probes {url}, {time}\n");
    report.tell("url", json!(url));
    report.tell("time", json!(time));
    report.tell("probe_version", json!(version));
    report.tell("specification", json!("1.0.3"));
    report.tell("authorities", json!(options.authorities.date));

    let Some(addresses) = transport::examine(options, Extent::Whole, report) else {
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
    observation::examine(&prober.observed, report);
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
    if calls::is_unknown(report, first) {
        outln!("      Without the first key all else would fail as well.");
        return all_made;
    }
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

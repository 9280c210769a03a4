//! Output on the terminal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::latency::{KMS_TIMEOUT, Measured};
use super::report::{Check, Level, Rule, Verdict};
use crate::observe::timestamp::Rfc3339;
use crate::output;
use crate::output::outln;

/// Upper bounds of the histogram's lines, in microseconds; the last is KMS's timeout.
const BOUNDS_MICROS: [u64; 11] =
    [200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 35_000, 50_000, 100_000, 250_000];
const BAR_WIDTH: usize = 50;

/// Prints a check on one line, with the requirement if it did not pass or if `is_verbose`.
pub fn print_check(check: &Check, is_verbose: bool) {
    clear_progress();
    let name = check.rule.name;
    let subject = check.subject.as_ref().map(|key| format!(" [{key}]")).unwrap_or_default();
    let verdict = match check.verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "skip",
    };
    if check.verdict == Verdict::Pass && !is_verbose {
        outln!("{verdict}  {name}{subject}");
        return;
    }
    outln!("{verdict}  {name}{subject}: {}", check.came);
    if check.verdict != Verdict::Skip {
        let section = check.rule.section.trim_matches(['(', ')']);
        outln!("      wanted: {} ({section})", check.rule.wants);
    }
    if let Some(code) = check.kms {
        outln!("      in KMS: {code}");
    }
}

/// Returns a time as the log has it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(Rfc3339::default().at(since)).into_owned()
}

/// Prints all rules.
pub fn print_rules(rules: &[&Rule]) {
    for rule in rules {
        let level = match rule.level {
            Level::Must => "must",
            Level::Should => "should",
        };
        let section = rule.section.trim_matches(['(', ')']);
        outln!("{} ({level}; {section})\n      {}", rule.name, rule.wants);
    }
}

/// Prints a small histogram.
pub fn print_histogram(name: &str, measured: &Measured) {
    clear_progress();
    outln!("\n{name}: {} calls", measured.times.len());
    for (bound, count) in buckets(&measured.times) {
        let bar = "#".repeat((count * BAR_WIDTH).div_ceil(measured.times.len().max(1)));
        match bound {
            Some(bound) => outln!("  <= {:>5} ms {count:>7} {bar}", bound.as_secs_f64() * 1e3),
            None => outln!("   > {:>5} ms {count:>7} {bar}", KMS_TIMEOUT.as_millis()),
        }
    }
}

/// Returns the number of calls under each bound, from the first bound that has any to the last.
fn buckets(times: &[Duration]) -> Vec<(Option<Duration>, usize)> {
    let bounds = BOUNDS_MICROS.map(|micros| Some(Duration::from_micros(micros)));
    let mut below = 0;
    let mut all = Vec::new();
    for bound in bounds.into_iter().chain([None]) {
        let up_to = times.iter().filter(|time| bound.is_none_or(|bound| **time <= bound)).count();
        all.push((bound, up_to - below));
        below = up_to;
    }
    let is_empty = |bucket: &(Option<Duration>, usize)| bucket.1 == 0;
    let first = all.iter().position(|bucket| !is_empty(bucket)).unwrap_or(0);
    let last = all.iter().rposition(|bucket| !is_empty(bucket)).unwrap_or(0);
    all.drain(last + 1..);
    all.drain(..first);
    all
}

/// Prints the progress of the measurement, on a terminal only.
pub fn print_progress(done: u32, all: u32) {
    if (done.is_multiple_of(10) || done == all) && output::is_error_terminal() {
        output::complain(format_args!("\r  measuring: {done} of {all} calls "));
    }
}

fn clear_progress() {
    if output::is_error_terminal() {
        output::complain(format_args!("\r\x1b[K"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call is counted in one line, and the timeout is a bound.
    #[test]
    fn histogram() {
        assert_eq!(BOUNDS_MICROS.last().copied().map(Duration::from_micros), Some(KMS_TIMEOUT));
        let times = [700, 700, 1_500, 300_000].map(Duration::from_micros);
        let found = buckets(&times);
        assert_eq!(found.first().map(|bucket| bucket.1), Some(2));
        assert_eq!(found.last(), Some(&(None, 1)));
        assert_eq!(found.iter().map(|bucket| bucket.1).sum::<usize>(), times.len());
        assert_eq!(buckets(&[]).len(), 1);
    }
}

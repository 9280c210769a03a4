//! Checks and their outcomes.

use serde_json::{Value, json};

use super::kms_by_check;
use crate::limits::MAX_PROBE_EXCERPT_BYTES;

/// A requirement of the specification, or of good practice.
#[derive(Debug)]
pub struct Rule {
    /// Group and name, such as `encrypt.cdiv`.
    pub name: &'static str,
    /// Severity of a violation: failure or warning.
    pub level: Level,
    /// Section of the XKS specification; in brackets if the requirement is not stated there.
    pub section: &'static str,
    /// The requirement in a sentence.
    pub wants: &'static str,
}

/// Severity of the violation of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A violation makes KMS's calls fail, or endangers data or keys.
    Must,
    /// A recommendation, or something that the specification leaves open.
    Should,
}

impl Rule {
    pub(super) const fn must(
        name: &'static str,
        section: &'static str,
        wants: &'static str,
    ) -> Self {
        Self { name, level: Level::Must, section, wants }
    }

    pub(super) const fn should(
        name: &'static str,
        section: &'static str,
        wants: &'static str,
    ) -> Self {
        Self { name, level: Level::Should, section, wants }
    }
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule is kept.
    Pass,
    /// The finding should be looked at.
    Warn,
    /// The rule is violated.
    Fail,
    /// The rule was not tried, because another check did not pass.
    Skip,
}

impl Verdict {
    /// Returns the name in the JSON report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// An applied rule.
#[derive(Debug)]
pub struct Check {
    /// The rule.
    pub rule: &'static Rule,
    /// The key that was checked, if not the proxy as a whole.
    pub subject: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// The observation behind the verdict, in printable ASCII.
    pub came: String,
    /// The code or exception under which KMS reports a failure or warning, if it is known.
    pub kms: Option<&'static str>,
}

/// The finding of a check, with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is kept.
    Held(String),
    /// The rule is violated.
    Broken(String),
    /// The rule is kept or cannot be judged, and the finding should be looked at.
    Doubtful(String),
    /// The rule could not be tried.
    Untried(String),
}

impl From<Result<String, String>> for Outcome {
    fn from(result: Result<String, String>) -> Self {
        match result {
            Ok(came) => Self::Held(came),
            Err(came) => Self::Broken(came),
        }
    }
}

/// All checks, in order.
pub struct Report {
    checks: Vec<Check>,
    /// Callback for each check.
    listener: Box<dyn FnMut(&Check)>,
    /// Further facts for the JSON report.
    facts: Value,
    /// Time at which the first certificate of the server's chain expires, in seconds since 1970.
    pub expiry: Option<i64>,
}

impl Report {
    /// Returns an empty report that passes each check to `listener`.
    pub fn new(listener: impl FnMut(&Check) + 'static) -> Self {
        Self { checks: Vec::new(), listener: Box::new(listener), facts: json!({}), expiry: None }
    }

    /// Adds a check.
    pub fn add(&mut self, rule: &'static Rule, subject: Option<&str>, outcome: impl Into<Outcome>) {
        self.add_with_code(rule, subject, outcome, kms_by_check::fixed(rule.name));
    }

    /// Adds a check, with the code under which KMS reports that the rule is violated.
    pub fn add_with_code(
        &mut self,
        rule: &'static Rule,
        subject: Option<&str>,
        outcome: impl Into<Outcome>,
        code: Option<&'static str>,
    ) {
        let (verdict, came) = match (outcome.into(), rule.level) {
            (Outcome::Held(came), _) => (Verdict::Pass, came),
            (Outcome::Broken(came), Level::Must) => (Verdict::Fail, came),
            (Outcome::Broken(came), Level::Should) | (Outcome::Doubtful(came), _) => {
                (Verdict::Warn, came)
            }
            (Outcome::Untried(came), _) => (Verdict::Skip, came),
        };
        let subject = subject.map(str::to_owned);
        let kms = code.filter(|_| matches!(verdict, Verdict::Fail | Verdict::Warn));
        let check = Check { rule, subject, verdict, came: shown(&came), kms };
        (self.listener)(&check);
        self.checks.push(check);
    }

    /// Adds a fact to the JSON report.
    pub fn tell(&mut self, name: &str, fact: Value) {
        self.facts[name] = fact;
    }

    /// Returns all checks.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Returns all checks, and gives up the report.
    #[must_use]
    pub fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    /// Returns the number of checks with this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// Returns the JSON report.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                json!({
                    "name": check.rule.name,
                    "subject": check.subject,
                    "verdict": check.verdict.name(),
                    "section": check.rule.section,
                    "wants": check.rule.wants,
                    "came": check.came,
                    "kms": check.kms,
                })
            })
            .collect();
        let mut value = self.facts.clone();
        value["passed"] = json!(self.count(Verdict::Pass));
        value["warnings"] = json!(self.count(Verdict::Warn));
        value["failures"] = json!(self.count(Verdict::Fail));
        value["skipped"] = json!(self.count(Verdict::Skip));
        value["checks"] = json!(checks);
        value
    }
}

/// Returns a peer's text in a form that is safe for a terminal: printable ASCII, of limited length.
#[must_use]
pub fn shown(text: &str) -> String {
    let is_fit = |character: char| character.is_ascii_graphic() || character == ' ';
    let fit = |character: char| if is_fit(character) { character } else { '?' };
    let mut shown: String = text.chars().take(4 * MAX_PROBE_EXCERPT_BYTES).map(fit).collect();
    if text.chars().nth(4 * MAX_PROBE_EXCERPT_BYTES).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Returns the beginning of a peer's text.
#[must_use]
pub fn excerpt(text: &[u8]) -> String {
    let is_cut = text.len() > MAX_PROBE_EXCERPT_BYTES;
    let beginning = &text[..text.len().min(MAX_PROBE_EXCERPT_BYTES)];
    let beginning = shown(&String::from_utf8_lossy(beginning));
    if is_cut { format!("{beginning}...") } else { beginning }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUST: Rule = Rule::must("a.b", "A", "it");
    const SHOULD: Rule = Rule::should("a.c", "A", "it");

    /// Only the violation of a "must" rule is a failure.
    #[test]
    fn verdicts() {
        let mut report = Report::new(|_| {});
        for rule in [&MUST, &SHOULD] {
            report.add(rule, None, Ok::<_, String>("fine".to_owned()));
            report.add(rule, None, Outcome::Broken("\u{1b}[2Jgone".to_owned()));
            report.add(rule, Some("key"), Outcome::Doubtful("who knows".to_owned()));
            report.add(rule, None, Outcome::Untried("no".to_owned()));
        }
        let verdicts: Vec<&str> =
            report.checks().iter().map(|check| check.verdict.name()).collect();
        let expected = ["pass", "fail", "warn", "skip", "pass", "warn", "warn", "skip"];
        assert_eq!(verdicts, expected);
        assert_eq!(report.checks()[1].came, "?[2Jgone", "no peer writes to our terminal");
        assert_eq!(report.to_json()["failures"], 1);
    }
}

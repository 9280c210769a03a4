//! What was checked and what came of it.

use serde_json::{Value, json};

use crate::limits::MAX_PROBE_EXCERPT_BYTES;

/// One thing that the specification, or good sense, wants of a proxy.
#[derive(Debug)]
pub struct Rule {
    /// Group and name, for instance `encrypt.cdiv`.
    pub name: &'static str,
    /// Whether breaking it is a failure or a warning.
    pub level: Level,
    /// Section of the XKS specification; in brackets, what it does not say itself.
    pub section: &'static str,
    /// In a sentence.
    pub wants: &'static str,
}

/// How much a rule weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// KMS's calls fail, or data or keys are in danger, if it is broken.
    Must,
    /// Recommended, or the specification leaves it open.
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

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Look at it.
    Warn,
    /// Not as it must be.
    Fail,
    /// Could not be tried, because of another check that did not pass.
    Skip,
}

impl Verdict {
    /// As it stands in the JSON.
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

/// A rule applied.
#[derive(Debug)]
pub struct Check {
    /// Which.
    pub rule: &'static Rule,
    /// To what, if not to the proxy as a whole: a key.
    pub subject: Option<String>,
    /// With what outcome.
    pub verdict: Verdict,
    /// Why: what came. Printable ASCII.
    pub came: String,
}

/// What a check function found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is held.
    Held(String),
    /// It is broken.
    Broken(String),
    /// It is held, or nothing can be said; look at it.
    Doubtful(String),
    /// It could not be tried.
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
    /// Told of each check as it is made.
    listener: Box<dyn FnMut(&Check)>,
    /// What is worth knowing and is no check: for the JSON.
    facts: Value,
}

impl Report {
    /// `listener` is told of each check.
    pub fn new(listener: impl FnMut(&Check) + 'static) -> Self {
        Self { checks: Vec::new(), listener: Box::new(listener), facts: json!({}) }
    }

    /// Adds a check.
    pub fn add(&mut self, rule: &'static Rule, subject: Option<&str>, outcome: impl Into<Outcome>) {
        let (verdict, came) = match (outcome.into(), rule.level) {
            (Outcome::Held(came), _) => (Verdict::Pass, came),
            (Outcome::Broken(came), Level::Must) => (Verdict::Fail, came),
            (Outcome::Broken(came), Level::Should) | (Outcome::Doubtful(came), _) => {
                (Verdict::Warn, came)
            }
            (Outcome::Untried(came), _) => (Verdict::Skip, came),
        };
        let subject = subject.map(str::to_owned);
        let check = Check { rule, subject, verdict, came: shown(&came) };
        (self.listener)(&check);
        self.checks.push(check);
    }

    /// Adds a fact for the JSON.
    pub fn tell(&mut self, name: &str, fact: Value) {
        self.facts[name] = fact;
    }

    /// All checks.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// How many came out so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// For machines.
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

/// What a peer said, fit for a terminal: printable ASCII, not too long.
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

/// The beginning of what a peer said.
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

    /// Only what must be, and is not, is a failure.
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

//! The report as JUnit XML, which continuous integration systems show. A warning is a passed case
//! with a text, since the format has no verdict of its own for it.

use std::fmt::Write as _;

use super::report::{Check, Report, Verdict};

/// Returns the document.
#[must_use]
pub fn to_xml(report: &Report, url: &str) -> String {
    let mut groups: Vec<(&str, Vec<&Check>)> = Vec::new();
    for check in report.checks() {
        let group = check.rule.name.split('.').next().unwrap_or_default();
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, checks)) => checks.push(check),
            None => groups.push((group, vec![check])),
        }
    }
    let all: Vec<&Check> = report.checks().iter().collect();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a String cannot fail.
    let _ = writeln!(text, "<testsuites name=\"{}\"{}>", escaped(url), counts(&all));
    for (name, checks) in &groups {
        let _ = writeln!(text, "  <testsuite name=\"{}\"{}>", escaped(name), counts(checks));
        for check in checks {
            case(check, &mut text);
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn counts(checks: &[&Check]) -> String {
    let of = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    format!(
        " tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\"",
        checks.len(),
        of(Verdict::Fail),
        of(Verdict::Skip)
    )
}

fn case(check: &Check, text: &mut String) {
    let rule = check.rule;
    let subject = check.subject.as_ref().map(|key| format!(" [{key}]")).unwrap_or_default();
    let (group, _) = rule.name.split_once('.').unwrap_or((rule.name, ""));
    let name = escaped(&format!("{}{subject}", rule.name));
    let came = escaped(&check.came);
    let _ = write!(text, "    <testcase classname=\"{}\" name=\"{name}\"", escaped(group));
    let code = check.kms.map(|code| format!(" in KMS: {code}")).unwrap_or_default();
    let wanted = escaped(&format!("wanted: {} ({}){code}", rule.wants, rule.section));
    let _ = match check.verdict {
        Verdict::Pass => writeln!(text, "/>"),
        Verdict::Skip => writeln!(text, "><skipped message=\"{came}\"/></testcase>"),
        Verdict::Warn => {
            writeln!(text, "><system-out>WARN: {came}; {wanted}</system-out></testcase>")
        }
        Verdict::Fail => {
            let kind = check.kms.unwrap_or(rule.name);
            writeln!(
                text,
                "><failure type=\"{}\" message=\"{came}\">{wanted}</failure></testcase>",
                escaped(kind)
            )
        }
    };
}

/// Escapes a text for content and for attributes in double quotes. Characters that XML 1.0 does not
/// allow become question marks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::report::{Outcome, Rule};
    use super::*;

    const MUST: Rule = Rule::must("tls.name", "A & B", "a < b");
    const SHOULD: Rule = Rule::should("http.keep", "A", "it");

    /// Each verdict has its element, and no text of a peer ends one.
    #[test]
    fn document() {
        let mut report = Report::new(|_| {});
        report.add(&MUST, None, Outcome::Broken("\"]]><failure>&".to_owned()));
        report.add(&SHOULD, Some("key"), Outcome::Broken("closed".to_owned()));
        report.add(&MUST, None, Outcome::Untried("no".to_owned()));
        report.add(&SHOULD, None, Outcome::Held("fine".to_owned()));
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites name=\"https://a?b&amp;c\" tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"1\">
  <testsuite name=\"tls\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"1\">
    <testcase classname=\"tls\" name=\"tls.name\"><failure \
type=\"XKS_PROXY_INVALID_TLS_CONFIGURATION\" message=\"&quot;]]&gt;&lt;failure&gt;&amp;\">wanted: a \
&lt; b (A &amp; B) in KMS: XKS_PROXY_INVALID_TLS_CONFIGURATION</failure></testcase>
    <testcase classname=\"tls\" name=\"tls.name\"><skipped message=\"no\"/></testcase>
  </testsuite>
  <testsuite name=\"http\" tests=\"2\" failures=\"0\" errors=\"0\" skipped=\"0\">
    <testcase classname=\"http\" name=\"http.keep [key]\"><system-out>WARN: closed; wanted: it \
(A)</system-out></testcase>
    <testcase classname=\"http\" name=\"http.keep\"/>
  </testsuite>
</testsuites>
";
        assert_eq!(to_xml(&report, "https://a?b&c"), expected);
    }
}

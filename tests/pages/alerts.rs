//! The runbook in docs/operations.md has an entry for each alert, with its severity.

use std::fs;

use crate::pages::{Page, Part, root};

const PAGE: &str = "docs/operations.md";

/// An alert rule, or an entry of the runbook.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alert {
    name: String,
    /// Severity, in lower case.
    severity: String,
    /// Page and heading of the runbook's entry.
    runbook: String,
}

/// The rules of the file that Prometheus reads.
fn rules() -> Vec<Alert> {
    let path = root().join("configuration/prometheus-alerts.yml");
    let text = fs::read_to_string(path).unwrap();
    let value = |rule: &str, name: &str| -> String {
        let line = rule.lines().find_map(|line| line.trim().strip_prefix(name));
        line.expect(name).trim().trim_matches('"').to_owned()
    };
    let rules = text.split("- alert: ").skip(1);
    let read = |rule: &str| Alert {
        name: rule.lines().next().unwrap().to_owned(),
        severity: value(rule, "severity:"),
        runbook: value(rule, "runbook:"),
    };
    rules.map(read).collect()
}

/// The entries of the page: a heading, and a text that begins with the severity.
fn entries() -> Vec<Alert> {
    let page = Page::read(PAGE);
    let mut entries = Vec::new();
    let mut name = None;
    for part in page.parts() {
        let Part::Line(line) = part else { continue };
        if let Some(heading) = line.strip_prefix("### Xks") {
            name = Some(format!("Xks{heading}"));
        } else if !line.is_empty()
            && let Some(name) = name.take()
        {
            let severity = line.split('.').next().unwrap().to_lowercase();
            let runbook = format!("{PAGE}#{}", name.to_lowercase());
            entries.push(Alert { name, severity, runbook });
        }
    }
    entries
}

#[test]
fn each_alert_has_a_runbook() {
    let rules = rules();
    assert!(rules.len() >= 29, "only {} rules were found", rules.len());
    assert_eq!(rules, entries());
}

/// The rules for Prometheus's operator in Kubernetes are the same.
#[test]
fn the_operators_rules_are_the_same() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let file = read("configuration/prometheus-alerts.yml");
    let (_, rules) = file.split_once("\ngroups:\n").unwrap();
    let rule = read("packaging/kubernetes/components/monitoring/prometheusrule.yaml");
    let (_, spec) = rule.split_once("\nspec:\n  groups:\n").unwrap();
    let lines = |text: &str, indent: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.strip_prefix(indent).unwrap().to_owned()).collect()
    };
    assert_eq!(lines(spec, "  "), lines(rules, ""), "the head of the second says how to write it");
}

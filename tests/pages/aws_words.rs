//! docs/troubleshooting.md has every word of AWS for a failure of an external key store, and the
//! pages name only metrics, outcomes and checks of the probe that exist.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::pages::{self, Page, root};

const PAGE: &str = "docs/troubleshooting.md";

/// `ConnectionErrorCodeType` in the API model of botocore 1.44.8, except the codes of CloudHSM key
/// stores alone.
const CODES: [&str; 11] = [
    "INTERNAL_ERROR",
    "INVALID_CREDENTIALS",
    "NETWORK_ERRORS",
    "XKS_PROXY_ACCESS_DENIED",
    "XKS_PROXY_INVALID_CONFIGURATION",
    "XKS_PROXY_INVALID_RESPONSE",
    "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "XKS_PROXY_NOT_REACHABLE",
    "XKS_PROXY_TIMED_OUT",
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION",
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND",
];

/// Errors of CreateCustomKeyStore and UpdateCustomKeyStore, then of CreateKey, in the same model:
/// all that begin with Xks, and two that external key stores share with others.
const EXCEPTIONS: [&str; 14] = [
    "CustomKeyStoreInvalidStateException",
    "CustomKeyStoreNameInUseException",
    "XksProxyIncorrectAuthenticationCredentialException",
    "XksProxyInvalidConfigurationException",
    "XksProxyInvalidResponseException",
    "XksProxyUriEndpointInUseException",
    "XksProxyUriInUseException",
    "XksProxyUriUnreachableException",
    "XksProxyVpcEndpointServiceInUseException",
    "XksProxyVpcEndpointServiceInvalidConfigurationException",
    "XksProxyVpcEndpointServiceNotFoundException",
    "XksKeyAlreadyInUseException",
    "XksKeyInvalidConfigurationException",
    "XksKeyNotFoundException",
];

/// Metrics that KMS publishes of an external key store.
const CLOUDWATCH_METRICS: [&str; 6] = [
    "ExternalKeyStoreThrottle",
    "XksExternalKeyManagerStates",
    "XksProxyCertificateDaysToExpire",
    "XksProxyCredentialAge",
    "XksProxyErrors",
    "XksProxyLatency",
];

/// The section of a code: from its heading to the next.
fn section<'p>(page: &'p str, code: &str) -> &'p str {
    let rest = page.split(&format!("\n### {code}\n")).nth(1).unwrap_or_else(|| panic!("{code}"));
    rest.split("\n#").next().unwrap()
}

/// The words in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The words that begin with `prefix`.
fn words<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    text.split(|it| !is_part(it)).filter(|word| word.starts_with(prefix)).collect()
}

#[test]
fn each_word_of_aws_is_explained() {
    let page = Page::read(PAGE).text;
    for code in CODES {
        let text = section(&page, code);
        // AWS's pages say nothing about the cause of these two.
        if code != "INTERNAL_ERROR" && code != "NETWORK_ERRORS" {
            for part in ["- **Shown by:** ", "- **Proof:** ", "- **Remedy:** "] {
                assert!(text.contains(part), "{code} has no {part}");
            }
        }
    }
    for exception in EXCEPTIONS {
        assert!(page.contains(&format!("\n| {exception} | ")), "{exception} is missing");
    }
}

/// What the proxy answers, KMS passes on in other words: each of our errors has a row.
#[test]
fn each_error_of_ours_has_a_row() {
    let page = Page::read(PAGE).text;
    let table = page.split("\n## Calls that fail\n").nth(1).unwrap();
    let errors = Page::read("docs/operations.md").text;
    let errors = errors.split("\n## Errors that callers see\n").nth(1).unwrap();
    let errors = errors.split("\n## ").next().unwrap();
    let rows = errors.lines().filter(|line| line.starts_with("| ") && line.contains("Exception"));
    let names: Vec<&str> = rows.map(|row| row.split(" | ").nth(1).unwrap()).collect();
    assert_eq!(names.len(), 12, "{names:?}");
    for name in names {
        assert!(table.contains(name), "{name} is missing");
    }
}

/// The codes that the probe prints are on the page.
#[test]
fn codes_of_the_probe_are_explained() {
    let page = Page::read(PAGE).text;
    let files = ["src/probe/kms_codes.rs", "src/probe/kms_by_check.rs"];
    let sources = files.map(|file| {
        let source = fs::read_to_string(root().join(file)).unwrap();
        source.split("#[cfg(test)]").next().unwrap().to_owned()
    });
    let source = sources.concat();
    let strings = source.split('"').skip(1).step_by(2);
    let is_code =
        |text: &&str| ["XKS_", "INVALID_", "Xks", "KMS"].iter().any(|it| text.starts_with(it));
    let codes: BTreeSet<&str> = strings.filter(is_code).collect();
    assert!(codes.len() >= 9, "{codes:?}");
    for code in codes {
        assert!(page.contains(code), "{code} is missing");
    }
}

/// Checks of the probe that the page names exist.
#[test]
fn checks_of_the_probe_exist() {
    let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy")).args(["probe", "--list"]).output();
    let list = String::from_utf8(output.unwrap().stdout).unwrap();
    let names: BTreeSet<&str> = list
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let groups: BTreeSet<&str> = names.iter().map(|name| name.split('.').next().unwrap()).collect();
    let page = Page::read(PAGE).text;
    let named = code(&page).filter(|word| {
        !word.contains([' ', '/'])
            && word.split_once('.').is_some_and(|(it, _)| groups.contains(it))
    });
    let named: BTreeSet<&str> = named.collect();
    assert!(named.len() >= 14, "{named:?}");
    let unknown: Vec<_> = named.difference(&names).collect();
    assert!(unknown.is_empty(), "the probe has no {unknown:?}");
}

/// Metrics and outcomes that pages name exist.
#[test]
fn metrics_and_outcomes_exist() {
    let sources = pages::files(&["rs"]).into_iter().filter(|path| path.starts_with("src"));
    let sources: String =
        sources.map(|path| fs::read_to_string(root().join(path)).unwrap()).collect();
    let is_there = |name: &str| sources.contains(&format!("\"{name}\""));
    let mut count = 0;
    for page in pages::all() {
        let name = page.path.display();
        for text in code(&page.text) {
            for metric in words(text, "xks_proxy_") {
                let parts = ["_bucket", "_sum", "_count"];
                let family = parts.iter().find_map(|part| metric.strip_suffix(part));
                let is_known = is_there(metric) || family.is_some_and(is_there);
                assert!(is_known, "{name}: no metric {metric}");
                count += 1;
            }
            for part in text.split("outcome=\"").skip(1) {
                let outcome = part.split('"').next().unwrap();
                assert!(is_there(outcome), "{name}: no outcome {outcome}");
            }
        }
    }
    assert!(count > 70, "{count}");
}

/// Each metric of KMS has a row that compares it with ours, and an alarm; each alarm has its line of
/// the runbook.
#[test]
fn each_alarm_has_its_line() {
    let page = Page::read("docs/operations.md").text;
    let section = page.split("\n## KMS's own metrics\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (metrics, alarms) = section.split_once("\n| alarm | ").unwrap();
    let path = "packaging/cloudformation/alarms.yaml";
    let template = fs::read_to_string(root().join(path)).unwrap();
    for metric in CLOUDWATCH_METRICS {
        assert!(metrics.contains(&format!("\n| {metric} | ")), "{metric} is missing");
        assert!(template.contains(metric), "{metric} has no alarm");
    }
    let resources = template.split("\nResources:\n").nth(1).unwrap();
    let resources = resources.split("\nOutputs:\n").next().unwrap();
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = resources.lines().filter(is_name).filter(|line| !line.contains('#'));
    let names: BTreeSet<&str> = names.map(|line| line.trim().trim_end_matches(':')).collect();
    let rows = alarms.lines().skip(2).filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
    let rows: BTreeSet<&str> = rows.collect();
    assert_eq!(names, rows);
    assert!(names.len() >= 10, "{names:?}");
}

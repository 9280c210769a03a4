//! `[otlp]`: off by default, and nothing goes out in plain text or with a wrong header by mistake.

use std::time::Duration;

use xks_proxy::observe::otlp::config::OtlpConfig;
use xks_proxy::observe::otlp::stats::Signal;
use xks_proxy::settings::{Finding, Severity};

use crate::tls_files::authority;
use crate::{Place, RIGHT, mistakes};

/// Loads the right file with these members in `[otlp]`.
fn load(place: &Place, members: &str) -> Result<(OtlpConfig, Vec<Finding>), Vec<Finding>> {
    place
        .load_with(&format!("{RIGHT}\n[otlp]\n{members}\n"), true, &|_| None)
        .map(|(settings, findings)| (settings.otlp.unwrap(), findings))
}

#[test]
fn without_the_section_nothing_is_exported() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    assert!(settings.otlp.is_none());
}

#[test]
fn defaults() {
    let (otlp, findings) = load(&Place::new(), "endpoint = \"http://127.0.0.1:4318/\"").unwrap();
    assert!(!findings.iter().any(|it| it.severity == Severity::Warning), "{findings:?}");
    assert_eq!(otlp.endpoint, "http://127.0.0.1:4318");
    assert_eq!(otlp.signals, Signal::ALL);
    assert_eq!(otlp.timeout, Duration::from_secs(10));
    assert_eq!(otlp.traces.calls_per_million, 10_000);
    assert_eq!(otlp.resource, [("service.name".to_owned(), "xks-proxy".to_owned())]);
    assert!(otlp.headers.is_empty() && otlp.authorities.is_empty());
}

#[test]
fn all_members() {
    let place = Place::new();
    let (ca, _) = authority("collectors").write(&place, "ca");
    let headers = place.write("headers", "Authorization: Bearer hush-hush\n");
    let (otlp, _) = load(
        &place,
        &format!(
            "endpoint = \"https://otel.example.com/otlp\"\nca_pem = \"{ca}\"\n\
             headers_file = \"{headers}\"\nsignals = [\"traces\", \"logs\", \"traces\"]\n\
             log_level = \"WARN\"\ntraces_per_million = 0\nslow_call_milli = 1\n\
             service_name = \"kms\"\nresource_attributes = [\"a=b=c\"]"
        ),
    )
    .unwrap();
    assert_eq!(otlp.endpoint, "https://otel.example.com/otlp");
    assert_eq!((otlp.authorities.len(), otlp.headers.len()), (1, 1));
    assert_eq!(otlp.signals, [Signal::Traces, Signal::Logs]);
    assert_eq!(otlp.log_level, tracing::Level::WARN);
    assert_eq!(otlp.resource[1], ("a".to_owned(), "b=c".to_owned()));
    assert!(!format!("{otlp:?}").contains("hush"), "a header is printed");
}

/// Each mistake is found alone, with its member and a remedy, and without a secret.
#[test]
fn mistakes_of_the_section() {
    let place = Place::new();
    let headers = place.write("headers", "hush-hush\n");
    let local = "endpoint = \"http://localhost:4318\"\n";
    let cases = [
        (String::new(), "otlp.endpoint", "missing", "4318"),
        ("endpoint = \"hush:4318\"".to_owned(), "otlp.endpoint", "not a URL", "https://"),
        ("endpoint = \"http://u:hush@h\"".to_owned(), "otlp.endpoint", "not a URL", "https://"),
        ("endpoint = \"http://10.0.0.1\"".to_owned(), "otlp.endpoint", "plain text", "allow_plain"),
        (
            "endpoint = \"http://localhost/v1/traces\"".to_owned(),
            "otlp.endpoint",
            "/v1/traces is added",
            "without the path",
        ),
        (format!("{local}signals = [\"trace\"]"), "otlp.signals[0]", "cannot be", "traces"),
        (format!("{local}signals = []"), "otlp.signals", "nothing is exported", "metrics"),
        (
            format!("{local}traces_per_million = 1000001"),
            "otlp.traces_per_million",
            "range",
            "1000000",
        ),
        (format!("{local}headers_file = \"{headers}\""), "otlp.headers_file", "line (1)", "Bearer"),
        (format!("{local}headers_file = \"/no\""), "otlp.headers_file", "cannot be read", "name"),
        (format!("{local}service_name = \"\""), "otlp.service_name", "empty", "name"),
        (
            format!("{local}resource_attributes = [\"service.name=x\"]"),
            "otlp.resource_attributes[0]",
            "a member of its own",
            "service_name",
        ),
        (
            format!("{local}resource_attributes = [\"x\"]"),
            "otlp.resource_attributes[0]",
            "not an attribute",
            "name=value",
        ),
    ];
    for (members, member, problem, remedy) in cases {
        let findings = load(&place, &members).unwrap_err();
        let [mistake] = mistakes(&findings)[..] else { panic!("{members}: {findings:#?}") };
        assert_eq!(mistake.member, member, "{mistake}");
        assert!(mistake.problem.contains(problem) && mistake.remedy.contains(remedy), "{mistake}");
        assert!(!mistake.to_string().contains("hush"), "{mistake}");
    }
    let plain = "endpoint = \"http://10.0.0.1\"\nallow_plain_remote = true";
    assert!(load(&place, plain).is_ok());
}

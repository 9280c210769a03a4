//! `[security] secondary_auth`: mistakes in a policy are found in the same way as mistakes in the
//! settings.

use xks_proxy::policy::{Language, Policy};
use xks_proxy::settings::{Finding, Severity};

use crate::{Place, RIGHT, edited, mistakes};

/// The valid file with that text as its policy.
fn with_policy(place: &Place, language: &str, text: &str) -> (String, std::path::PathBuf) {
    let section = language.to_lowercase();
    let file = place.path(&format!("policy.{section}"));
    std::fs::write(&file, text).unwrap();
    let added = format!(
        "is_mtls_enabled = false\nsecondary_auth = \"{language}\"\n[security.{section}]\n\
         policy_file = \"{}\"",
        file.display()
    );
    (edited("is_mtls_enabled = false", &added), file)
}

#[test]
fn a_policy_is_loaded() {
    for (name, language, text) in [
        ("Cedar", Language::Cedar, "permit (principal, action, resource);"),
        ("Rego", Language::Rego, "package xks\nallow := true\n"),
    ] {
        let place = Place::new();
        let (settings, file) = with_policy(&place, name, text);
        let (settings, _) = place.load(&settings).unwrap();
        assert_eq!(settings.policy.as_deref().map(Policy::language), Some(language));
        assert!(settings.service().options.policy.is_some());
        // A reload must be able to read it again.
        drop(file);
    }
    let place = Place::new();
    assert!(place.load(RIGHT).unwrap().0.policy.is_none());
}

/// Each mistake is reported with the policy's own file and line.
#[test]
fn mistakes_have_their_place() {
    for (name, text, line, words) in [
        ("Cedar", "\npermit (principal, action, resource);\npermit (x);\n", 3, "x"),
        (
            "Cedar",
            "\npermit (principal, action, resource)\nwhen { context.kmsViaService == \"ebs\" };",
            3,
            "optional",
        ),
        ("Rego", "package xks\n\nallow if {\n\tinput.call =\n}\n", 4, "expect"),
        ("Rego", "package other\nallow := true\n", 1, "data.other"),
    ] {
        let place = Place::new();
        let (settings, file) = with_policy(&place, name, text);
        let findings = place.load(&settings).unwrap_err();
        let mistakes = mistakes(&findings);
        let is_there = |mistake: &&Finding| {
            mistake.file == file && mistake.position.is_some_and(|(found, _)| found == line)
        };
        assert!(!mistakes.is_empty() && mistakes.iter().all(is_there), "{findings:#?}");
        assert!(mistakes[0].problem.contains(words), "{findings:#?}");
    }
}

/// An unusual setting is a warning, not a mistake; an unused section is a notice.
#[test]
fn remarks() {
    let place = Place::new();
    let (settings, file) = with_policy(&place, "Cedar", "// nothing\n");
    let settings = settings.replace("[security.cedar]", "[security.oso]\n[security.cedar]");
    let (_, findings) = place.load(&settings).unwrap();
    let warning = findings.iter().find(|finding| finding.file == file).unwrap();
    assert_eq!(warning.severity, Severity::Warning);
    let notice = findings.iter().find(|finding| finding.member == "security.oso").unwrap();
    assert_eq!(notice.severity, Severity::Notice);
}

/// A policy that others can change gives no protection.
#[test]
fn others_can_change_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let (settings, file) = with_policy(&place, "Rego", "package xks\nallow := true\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (_, findings) = place.load(&settings).unwrap();
    assert!(findings.iter().any(|finding| finding.problem.contains("changed by other users")));
}

#[test]
fn too_large_or_no_text() {
    let place = Place::new();
    let (settings, file) = with_policy(&place, "Cedar", &" ".repeat(2 << 20));
    let findings = place.load(&settings).unwrap_err();
    assert!(mistakes(&findings)[0].problem.contains("larger than"), "{findings:#?}");
    std::fs::write(&file, b"\xff").unwrap();
    let findings = place.load(&settings).unwrap_err();
    assert!(mistakes(&findings)[0].problem.contains("UTF-8"), "{findings:#?}");
}

//! Mistakes in a policy are found when it is loaded.

use xks_proxy::policy::{Language, Policy, Remark};

use crate::mistakes;

/// Cedar: anything that does not match the schema is found at load, with its place.
#[test]
fn cedar_mistakes() {
    for (text, line, words) in [
        ("permit (principal, action, resource)", 1, "unexpected end of input"),
        (
            "\n\npermit (principal, action, resource) when { context.kmsViaService == \"ebs\" };",
            3,
            "optional attribute",
        ),
        (
            "permit (principal, action, resource)\nwhen { context.kmsViaServise == \"ebs\" };",
            2,
            "kmsViaServise",
        ),
        ("permit (principal, action == Action::\"sign\", resource);", 1, "sign"),
        ("permit (principal, action == Action::\"health\", resource);", 1, "health"),
        ("permit (principal == User::\"a\", action, resource);", 1, "User"),
        ("permit (principal, action, resource)\nwhen { context.call == 1 };", 2, "types"),
        (
            "permit (principal, action, resource)\nwhen { context.kmsKey.account == \"1\" };",
            2,
            "kmsKey",
        ),
        ("permit (principal, action, resource)\nwhen { context.store };", 2, "Bool"),
        ("allow (principal, action, resource);", 1, "allow"),
    ] {
        let remarks = mistakes("x.cedar", text);
        let is_it = |remark: &Remark| {
            remark.position.is_some_and(|(found, _)| found == line)
                && remark.problem.contains(words)
        };
        assert!(remarks.iter().any(is_it), "{text}: {remarks:?}");
    }
    let template = mistakes("x.cedar", "permit (principal == ?principal, action, resource);");
    assert!(template[0].problem.contains("template"));
    let remarks = Policy::load(Language::Cedar, "x.cedar", "// none").unwrap().1;
    assert!(remarks[0].problem.contains("every call is denied") && !remarks[0].is_mistake);
    // Cedar's own warnings: a condition that no call fulfils.
    let never = "permit (principal, action, resource) when { context.call == \"x\" && false };";
    let remarks = Policy::load(Language::Cedar, "x.cedar", never).unwrap().1;
    assert_eq!(remarks.len(), 1);
}

/// Rego: syntax, package, rule.
#[test]
fn rego_mistakes() {
    for (text, line, words) in [
        ("package xks\n\nallow if {\n\tinput.call ==\n}\n", Some(5), "expect"),
        ("package xks\nallow { true }\n", Some(2), "if"),
        ("\npackage other\nallow := true\n", Some(2), "data.other"),
        ("allow := true\n", Some(1), "package"),
        ("package xks\ndefault permit := false\n", None, "no rule `allow`"),
        ("package xks\nallow if { x == 1 }\n", Some(2), "x"),
        ("package xks\nallow if nosuchfunction(input.call)\n", Some(2), "nosuchfunction"),
        ("package xks\nallow if time.now_ns() > 0\n", Some(2), "time.now_ns"),
        ("package xks\nallow if http.send({})\n", Some(2), "http.send"),
        ("package xks\nallow if b\nb if allow\n", Some(2), "recurs"),
        ("package xks\nallow := 1 / 0\n", Some(2), "zero"),
        ("", Some(1), "package"),
    ] {
        let remarks = mistakes("x.rego", text);
        let is_it = |remark: &Remark| {
            remark.position.map(|(found, _)| found) == line && remark.problem.contains(words)
        };
        assert!(remarks.iter().any(is_it), "{text}: {remarks:?}");
    }
}

//! Results that are not decisions, and attributes of all kinds.

use std::sync::Arc;

use xks_proxy::policy::decisions::Decisions;
use xks_proxy::policy::{Action, Attributes, Language, Policy};

use crate::{ENCRYPT, load, of_text};

/// Rego: a result that is undefined or not a boolean is a denial, and so is an error on some inputs
/// only.
#[test]
fn rego_denials() {
    for (body, reason) in [
        ("allow if input.call == \"x\"", "undefined"),
        ("allow := false", "false"),
        ("allow := \"true\"", "not a boolean"),
        ("allow := 1", "not a boolean"),
        ("allow contains \"encrypt\"", "not a boolean"),
        ("allow := {\"a\": true}", "not a boolean"),
        ("allow := null", "not a boolean"),
        (
            "allow := true if input.call == \"encrypt\"\nallow := false if input.store != \"\"",
            "cannot be evaluated",
        ),
        ("allow := to_number(input.externalKeyId) >= 0", "cannot be evaluated"),
    ] {
        let text = format!("package xks\n{body}\n");
        // Some of these also fail for the trial call made when a module is loaded.
        let loaded = Policy::load(Language::Rego, "x.rego", &text);
        match loaded {
            Ok((policy, _)) => {
                let decision = policy.decide(&ENCRYPT);
                assert!(!decision.is_allowed && decision.reason.contains(reason), "{decision:?}");
            }
            Err(remarks) => assert_eq!(reason, "cannot be evaluated", "{remarks:?}"),
        }
    }
}

/// Rego: an error within a rule that denies, or anywhere else, denies the call. It never merely makes
/// the rule undefined, since what that rule forbids would then be permitted.
#[test]
fn rego_errors_never_permit() {
    let errors = [
        "to_number(input.externalKeyId) > 5",
        "startswith(input.kmsKey, \"a\")",
        "regex.match(concat(\"\", [\"(\", input.call]), \"a\")",
        "1 / (count(input.call) - 7) > 0",
        "1 % (count(input.call) - 7) > 0",
        "input.call - 1 > 0",
        "some x in input.call",
        "every x in [1] { to_number(input.externalKeyId) > x }",
        "count([x | some x in [1]; to_number(input.externalKeyId) > 5]) > 0",
        "f(input.call) == 1",
        "level == 1",
    ];
    let permits = [
        "allow if not deny\ndeny if { input.store == \"/odd\"; ERROR }",
        "allow if count(deny) == 0\ndeny contains \"x\" if { input.store == \"/odd\"; ERROR }",
        "default allow := true\nallow := false if { input.store == \"/odd\"; ERROR }",
        "allow if { input.store == \"/odd\"; ERROR } else := true",
        "allow if { input.store == \"/odd\"; ERROR }\nallow if input.call == \"encrypt\"",
    ];
    // A function and a rule, each with two values for some calls.
    let conflicts = "f(x) := 2 if x == \"encrypt\"\nf(x) := 3 if input.store == \"/odd\"\n\
                     level := 2 if input.call == \"encrypt\"\nlevel := 3 if input.store == \"/odd\"\n";
    for error in errors {
        for permit in permits.map(|permit| permit.replace("ERROR", error)) {
            let policy = of_text("x.rego", &format!("package xks\n{permit}\n{conflicts}"));
            assert!(policy.decide(&ENCRYPT).is_allowed, "{permit}");
            let decision = policy.decide(&Attributes { store: "/odd", ..ENCRYPT });
            assert!(!decision.is_allowed && decision.is_lasting, "{permit}: {decision:?}");
            assert!(decision.reason.contains("cannot be evaluated"), "{permit}: {decision:?}");
        }
    }
}

/// A policy that uses the kmsRequestId receives it and is evaluated each time; one that does not,
/// does not receive it.
#[test]
fn request_id() {
    for (file, text) in [
        (
            "x.cedar",
            "permit (principal, action, resource) when { context.kmsRequestId == \"yes\" };",
        ),
        (
            "x.cedar",
            "permit (principal, action, resource) when { context[\"kms\\u{52}equestId\"] == \"yes\" };",
        ),
        ("x.rego", "package xks\nallow if input.kmsRequestId == \"yes\"\n"),
    ] {
        let policy = Arc::new(of_text(file, text));
        let mut decisions = Decisions::default();
        for (id, is_allowed) in [("yes", true), ("no", false), ("yes", true)] {
            let decided = decisions.decide(&policy, &Attributes { kms_request_id: id, ..ENCRYPT });
            assert_eq!((decided.is_allowed, decided.was_remembered), (is_allowed, false), "{text}");
        }
    }
    let any = "package xks\n# kmsRequestId\nallow if \"yes\" in object.keys(input) \n\
               allow if some x in input\nallow if input[_] == \"yes\"\n";
    let policy = of_text("x.rego", "package xks\nallow if input[_] == \"yes\"\n");
    assert!(!policy.decide(&Attributes { kms_request_id: "yes", ..ENCRYPT }).is_allowed);
    assert!(!of_text("x.rego", any).names_request_id());
}

/// Strings from outside are treated as data, and never as code, in both languages.
#[test]
fn odd_strings() {
    for file in ["policy.cedar", "policy.rego", "oso.cedar", "oso.rego"] {
        let policy = load(file);
        for text in
            ["", "\0", "\"", "\\", "*", "${x}", "\u{10ffff}", "}; permit", &"x".repeat(70_000)]
        {
            let call = Attributes {
                action: Action::Decrypt,
                store: "/s",
                external_key_id: text,
                aws_principal_arn: text,
                kms_operation: text,
                kms_request_id: text,
                kms_key_arn: Some(text),
                kms_via_service: Some(text),
                aws_source_vpc: Some(text),
                aws_source_vpce: Some(text),
            };
            assert!(!policy.decide(&call).is_allowed, "{file} {}", text.len());
        }
    }
}

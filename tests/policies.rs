//! Policies in Cedar and in Rego: the same calls, the same decisions, for the same reasons.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use xks_proxy::limits::{
    DECISION_SLOTS, EVENT_LOOP_STACK_BYTES, MAX_POLICY_NESTING, MAX_REMEMBERED_ATTRIBUTES_BYTES,
};
use xks_proxy::policy::decisions::Decisions;
use xks_proxy::policy::{Action, Attributes, Language, Policy, Remark};

const ALICE: &str = "arn:aws:iam::123456789012:user/Alice";
const OURS: &str = "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const VPC: &str = "vpc-1234567890abcdef0";
const VPCE: &str = "vpce-1234567890abcdef0";

/// As KMS sends it for a caller of its own account, through no service and no VPC.
const CALL: Attributes<'static> = Attributes {
    action: Action::Encrypt,
    store: "/example/uri/path/prefix",
    external_key_id: "foo",
    aws_principal_arn: ALICE,
    kms_operation: "Encrypt",
    kms_request_id: "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    kms_key_arn: Some(OURS),
    kms_via_service: None,
    aws_source_vpc: None,
    aws_source_vpce: None,
};
const ENCRYPT: Attributes<'static> = CALL;
const DECRYPT: Attributes<'static> =
    Attributes { action: Action::Decrypt, kms_operation: "Decrypt", ..CALL };
const METADATA: Attributes<'static> =
    Attributes { action: Action::Metadata, kms_operation: "DescribeKey", ..CALL };

fn load(file: &str) -> Policy {
    let path = format!("{}/configuration/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    of_text(file, &text)
}

fn of_text(file: &str, text: &str) -> Policy {
    let language = Language::of_file(file.as_ref()).unwrap();
    match Policy::load(language, file, text) {
        Ok((policy, remarks)) => {
            assert_eq!(remarks, [], "{file}");
            policy
        }
        Err(remarks) => panic!("{file}: {remarks:?}"),
    }
}

fn mistakes(file: &str, text: &str) -> Vec<Remark> {
    let language = Language::of_file(file.as_ref()).unwrap();
    let remarks = Policy::load(language, file, text).map(|_| ()).expect_err(text);
    assert!(remarks.iter().any(|remark| remark.is_mistake));
    remarks
}

/// A call, and the policy that allows it, or forbids it; "" if none permits it.
type Case = (&'static str, Attributes<'static>, bool, &'static str);

/// Both languages decide each case in the same way, and name the same policy.
fn check(name: &str, cases: &[Case]) {
    for file in [format!("{name}.cedar"), format!("{name}.rego")] {
        let policy = load(&file);
        for (what, attributes, is_allowed, by) in cases {
            let decision = policy.decide(attributes);
            let about = format!("{file}: {what}: {decision:?}");
            assert_eq!(decision.is_allowed, *is_allowed, "{about}");
            assert!(decision.is_lasting && decision.reason.contains(&file), "{about}");
            assert!(decision.reason.contains(by), "{about}");
        }
    }
}

/// The sample's policy for Oso, translated: allow and deny of each rule.
#[test]
fn oso() {
    let cases: &[Case] = &[
        ("encrypt", ENCRYPT, true, "oso-encrypt"),
        (
            "encrypt for EBS",
            Attributes { kms_via_service: Some("ebs"), ..ENCRYPT },
            true,
            "oso-encrypt",
        ),
        ("encrypt for S3", Attributes { kms_via_service: Some("s3"), ..ENCRYPT }, false, ""),
        (
            "a service that has ebs in it",
            Attributes { kms_via_service: Some("webs"), ..ENCRYPT },
            false,
            "",
        ),
        (
            "a service without a name",
            Attributes { kms_via_service: Some(""), ..ENCRYPT },
            false,
            "",
        ),
        ("in another case", Attributes { kms_via_service: Some("EBS"), ..ENCRYPT }, false, ""),
        ("encrypt in the store without a prefix", Attributes { store: "", ..ENCRYPT }, false, ""),
        (
            "encrypt of GenerateDataKey",
            Attributes { kms_operation: "GenerateDataKey", ..ENCRYPT },
            false,
            "",
        ),
        ("encrypt of Decrypt", Attributes { kms_operation: "Decrypt", ..ENCRYPT }, false, ""),
        ("decrypt", DECRYPT, true, "oso-decrypt"),
        (
            "decrypt of Encrypt",
            Attributes { kms_operation: "Encrypt", ..DECRYPT },
            true,
            "oso-decrypt",
        ),
        ("decrypt of ReEncrypt", Attributes { kms_operation: "ReEncrypt", ..DECRYPT }, false, ""),
        (
            "decrypt for EBS",
            Attributes { kms_via_service: Some("ebs"), ..DECRYPT },
            true,
            "oso-decrypt",
        ),
        ("decrypt for RDS", Attributes { kms_via_service: Some("rds"), ..DECRYPT }, false, ""),
        ("decrypt in the store without a prefix", Attributes { store: "", ..DECRYPT }, false, ""),
        ("metadata", METADATA, true, "oso-metadata"),
        (
            "metadata without an ARN",
            Attributes { kms_key_arn: None, ..METADATA },
            true,
            "oso-metadata",
        ),
        (
            "metadata for any service",
            Attributes { kms_via_service: Some("s3"), ..METADATA },
            true,
            "oso-metadata",
        ),
        ("metadata of CreateKey", Attributes { kms_operation: "CreateKey", ..METADATA }, false, ""),
        ("metadata in the store without a prefix", Attributes { store: "", ..METADATA }, false, ""),
    ];
    check("oso", cases);
}

/// The model policy: members that are missing, odd ARNs, services, VPCs, keys, stores.
#[test]
fn model() {
    let ebs = Some("ebs");
    let payroll = Attributes {
        external_key_id: "payroll",
        aws_principal_arn: "arn:aws:sts::123456789012:assumed-role/payroll/i-1",
        ..ENCRYPT
    };
    let archive = Attributes {
        store: "/archive/store",
        aws_principal_arn: "arn:aws:iam::123456789012:user/Archivist",
        ..ENCRYPT
    };
    let cases: &[Case] = &[
        ("encrypt", ENCRYPT, true, "our-account"),
        (
            "encrypt for a service",
            Attributes { kms_via_service: ebs, ..ENCRYPT },
            true,
            "our-account",
        ),
        (
            "encrypt for another service",
            Attributes { kms_via_service: Some("rds"), ..ENCRYPT },
            false,
            "services",
        ),
        (
            "a service without a name",
            Attributes { kms_via_service: Some(""), ..ENCRYPT },
            false,
            "services",
        ),
        (
            "the specification's form of ARN",
            Attributes {
                kms_key_arn: Some("arn:aws:kms:us-east-2:123456789012:/key/1"),
                ..ENCRYPT
            },
            true,
            "our-account",
        ),
        (
            "the other Region",
            Attributes { kms_key_arn: Some("arn:aws:kms:us-west-2:123456789012:key/1"), ..ENCRYPT },
            true,
            "our-account",
        ),
        (
            "a foreign account",
            Attributes { kms_key_arn: Some("arn:aws:kms:us-east-2:210987654321:key/1"), ..ENCRYPT },
            false,
            "",
        ),
        (
            "a foreign Region",
            Attributes { kms_key_arn: Some("arn:aws:kms:eu-west-1:123456789012:key/1"), ..ENCRYPT },
            false,
            "",
        ),
        (
            "a foreign partition",
            Attributes {
                kms_key_arn: Some("arn:aws-cn:kms:us-east-2:123456789012:key/1"),
                ..ENCRYPT
            },
            false,
            "",
        ),
        (
            "an alias",
            Attributes {
                kms_key_arn: Some("arn:aws:kms:us-east-2:123456789012:alias/1"),
                ..ENCRYPT
            },
            false,
            "",
        ),
        (
            "an ARN with our account in the key id",
            Attributes {
                kms_key_arn: Some(
                    "arn:aws:kms:us-east-2:210987654321:key/arn:aws:kms:us-east-2:123456789012:key/1",
                ),
                ..ENCRYPT
            },
            false,
            "",
        ),
        ("no ARN at all", Attributes { kms_key_arn: Some("foo"), ..ENCRYPT }, false, ""),
        ("an empty ARN", Attributes { kms_key_arn: Some(""), ..ENCRYPT }, false, ""),
        ("a missing ARN", Attributes { kms_key_arn: None, ..ENCRYPT }, false, ""),
        ("decrypt from nowhere", DECRYPT, false, "our-network"),
        (
            "decrypt from our VPC",
            Attributes { aws_source_vpc: Some(VPC), ..DECRYPT },
            true,
            "our-account",
        ),
        (
            "decrypt through our endpoint",
            Attributes { aws_source_vpce: Some(VPCE), ..DECRYPT },
            true,
            "our-account",
        ),
        (
            "decrypt from another VPC",
            Attributes { aws_source_vpc: Some("vpc-1"), ..DECRYPT },
            false,
            "our-network",
        ),
        (
            "through another endpoint",
            Attributes { aws_source_vpce: Some("vpce-1"), ..DECRYPT },
            false,
            "our-network",
        ),
        (
            "an endpoint's name for a VPC",
            Attributes { aws_source_vpc: Some(VPCE), ..DECRYPT },
            false,
            "our-network",
        ),
        (
            "decrypt for a service",
            Attributes { kms_via_service: ebs, ..DECRYPT },
            true,
            "our-account",
        ),
        (
            "decrypt for another service from our VPC",
            Attributes { kms_via_service: Some("x"), aws_source_vpc: Some(VPC), ..DECRYPT },
            false,
            "services",
        ),
        ("metadata", METADATA, true, "metadata"),
        (
            "metadata of CreateKey, which has no ARN",
            Attributes { kms_operation: "CreateKey", kms_key_arn: None, ..METADATA },
            true,
            "metadata",
        ),
        (
            "metadata of an operation to come",
            Attributes { kms_operation: "ListSecrets", ..METADATA },
            false,
            "",
        ),
        ("the role's key", payroll, true, "our-account"),
        (
            "the role's key, by somebody else",
            Attributes { external_key_id: "payroll", ..ENCRYPT },
            false,
            "payroll",
        ),
        (
            "by a role whose name begins alike",
            Attributes {
                aws_principal_arn: "arn:aws:sts::123456789012:assumed-role/payroll-2/i-1",
                ..payroll
            },
            false,
            "payroll",
        ),
        (
            "by AWS itself",
            Attributes { aws_principal_arn: "AWS Internal", ..payroll },
            false,
            "payroll",
        ),
        ("the user's store", archive, true, "our-account"),
        (
            "the user's store, by somebody else",
            Attributes { aws_principal_arn: ALICE, ..archive },
            false,
            "archive",
        ),
        ("by nobody", Attributes { aws_principal_arn: "", ..archive }, false, "archive"),
        (
            "a name with quotes and line ends",
            Attributes { aws_principal_arn: "\"\n\\' || true", ..archive },
            false,
            "archive",
        ),
    ];
    check("policy", cases);
}

/// The log says where the policy is.
#[test]
fn reasons() {
    let cedar = load("policy.cedar");
    let line = include_str!("../configuration/policy.cedar")
        .lines()
        .position(|line| line == "@id(\"our-network\")")
        .unwrap()
        + 1;
    let reason = format!("forbidden by policy \"our-network\" at policy.cedar:{line}");
    assert_eq!(*cedar.decide(&DECRYPT).reason, reason);
    let metadata = Attributes { kms_operation: "x", ..METADATA };
    assert_eq!(*cedar.decide(&metadata).reason, *"no policy in policy.cedar permits it");
    let both = Attributes { kms_via_service: Some("x"), external_key_id: "payroll", ..ENCRYPT };
    let reason = cedar.decide(&both).reason;
    assert!(reason.contains("\"payroll\" at policy.cedar:") && reason.contains(", \"services\""));

    let rego = load("policy.rego");
    assert_eq!(
        *rego.decide(&both).reason,
        *"data.xks.allow in policy.rego is false: payroll, services"
    );
    assert_eq!(*rego.decide(&metadata).reason, *"data.xks.allow in policy.rego is false");
}

/// Cedar: what does not fit the schema is found at load, with its place.
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

/// Rego: undefined, and what is no boolean, is a denial; so is an error that only some input makes.
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
        // Some of these fail with the call that a module is tried with, too.
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

/// An evaluation that would take for ever ends, and is not remembered.
#[test]
fn endless() {
    let text = "package xks\n\
        allow if {\n\tinput.store == \"/slow\"\n\tsome a in numbers.range(1, 5000)\n\
        \tsome b in numbers.range(1, 5000)\n\ta * b == -1\n}\n\
        allow if input.store == \"/fast\"\n";
    let policy = Arc::new(of_text("x.rego", text));
    let slow = Attributes { store: "/slow", ..ENCRYPT };
    let decision = policy.decide(&slow);
    assert!(!decision.is_allowed && !decision.is_lasting, "{decision:?}");
    assert!(decision.reason.contains("time"), "{decision:?}");
    // The engine is as good as before.
    assert!(policy.decide(&Attributes { store: "/fast", ..ENCRYPT }).is_allowed);
    let mut decisions = Decisions::default();
    for _ in 0..2 {
        assert!(!decisions.decide(&policy, &slow).was_remembered);
    }
}

/// What nests deep is a mistake, and never overflows the stack.
#[test]
fn depth() {
    for (open, close) in [("(", ")"), ("[true].contains(", ")"), ("true && ", ""), ("!", "")] {
        for depth in [100, 10_000] {
            let condition = format!("{}true{}", open.repeat(depth), close.repeat(depth));
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let remarks = mistakes("x.cedar", &text);
            assert!(remarks[0].problem.contains("nests"), "{remarks:?}");
        }
    }
    let nested = format!("allow if {}true{}", "(".repeat(10_000), ")".repeat(10_000));
    let chain = |last: &str| {
        let rules: String = (1..100).map(|rule| format!("r{rule} if r{}\n", rule + 1)).collect();
        format!("allow if r1\n{rules}r100 if {last}")
    };
    for (rules, words) in [
        (nested, "nesting"),
        (chain("true"), "deep"),
        ("f(x) := y if y := f(x)\nallow if f(input.store)".to_owned(), "calls itself"),
        (
            "f(x) if data.xks.g(x)\ng(x) if data[\"xks\"].f(x)\nallow if g(1)".to_owned(),
            "calls itself",
        ),
        ("f(x) if r\nr if f(1)\nallow if r".to_owned(), "recursion"),
        ("allow if r\nr if s\ns if allow".to_owned(), "recursion"),
    ] {
        let remarks = mistakes("x.rego", &format!("package xks\n{rules}\n"));
        assert!(remarks[0].problem.contains(words), "{remarks:?}");
    }
}

/// As deep as is allowed can be evaluated where calls are: on an event loop's stack.
#[test]
fn allowed_depth() {
    let depth = MAX_POLICY_NESTING - 10;
    let cedar = [
        format!("{}true", "context.call != \"x\" && ".repeat(depth)),
        format!("{}true{}", "(".repeat(depth), ")".repeat(depth)),
        format!("{}true", "if context.call == \"x\" then false else ".repeat(depth)),
    ];
    let rules: String = (1..depth).map(|rule| format!("r{rule} if r{}\n", rule + 1)).collect();
    let functions: String =
        (1..depth).map(|f| format!("f{f}(x) := y if y := f{}(x)\n", f + 1)).collect();
    let rego = [
        format!("allow if r1\n{rules}r{depth} if true"),
        format!("allow if f1(true)\n{functions}f{depth}(x) := x"),
    ];
    let texts = cedar
        .map(|condition| format!("permit (principal, action, resource) when {{ {condition} }};"))
        .map(|text| ("x.cedar", text))
        .into_iter()
        .chain(rego.map(|rules| ("x.rego", format!("package xks\n{rules}\n"))));
    for (file, text) in texts {
        let policy = of_text(file, &text);
        let decide = move || policy.decide(&ENCRYPT);
        let thread = std::thread::Builder::new().stack_size(EVENT_LOOP_STACK_BYTES).spawn(decide);
        let decision = thread.unwrap().join().unwrap();
        assert!(decision.is_allowed, "{decision:?}");
    }
}

/// What was decided is found again; what another policy decided, or on other attributes, is not.
#[test]
fn memory() {
    let policies = [Arc::new(load("policy.cedar")), Arc::new(load("policy.rego"))];
    let other = Attributes { kms_request_id: "another", ..DECRYPT };
    let mut decisions = Decisions::default();
    for policy in &policies {
        for (attributes, was_remembered) in [(DECRYPT, false), (DECRYPT, true), (other, true)] {
            let decided = decisions.decide(policy, &attributes);
            assert_eq!(decided.was_remembered, was_remembered);
            assert!(!decided.is_allowed && decided.reason.contains("our-network"));
        }
        let vpc = Attributes { aws_source_vpc: Some(VPC), ..DECRYPT };
        for was_remembered in [false, true] {
            let decided = decisions.decide(policy, &vpc);
            assert!(decided.is_allowed && decided.was_remembered == was_remembered);
        }
    }
}

/// No two calls that differ in an attribute are taken for the same.
#[test]
fn memory_tells_calls_apart() {
    let policy = Arc::new(load("policy.cedar"));
    let calls = [
        CALL,
        Attributes { action: Action::Decrypt, ..CALL },
        Attributes { action: Action::Metadata, ..CALL },
        Attributes { store: "/example/uri/path/prefixfoo", external_key_id: "", ..CALL },
        Attributes { store: "/example/uri/path/prefixf", external_key_id: "oo", ..CALL },
        Attributes { aws_principal_arn: "", ..CALL },
        Attributes { kms_operation: "ReEncrypt", ..CALL },
        Attributes { kms_key_arn: None, ..CALL },
        Attributes { kms_key_arn: Some(""), ..CALL },
        Attributes { kms_via_service: Some(""), ..CALL },
        Attributes { kms_via_service: Some("x"), ..CALL },
        Attributes { aws_source_vpc: Some("x"), ..CALL },
        Attributes { aws_source_vpce: Some("x"), ..CALL },
    ];
    let mut decisions = Decisions::default();
    for call in &calls {
        assert!(!decisions.decide(&policy, call).was_remembered, "{call:?}");
    }
}

/// The table is full, never larger, and right.
#[test]
fn memory_is_bounded() {
    let policy = Arc::new(of_text(
        "x.cedar",
        "permit (principal, action, resource) when { context.awsPrincipalArn like \"*0\" };",
    ));
    let mut decisions = Decisions::default();
    let mut remembered = 0;
    for round in 0..2 {
        for number in 0..2 * DECISION_SLOTS {
            let arn = format!("arn:aws:iam::123456789012:user/{number}");
            let decided =
                decisions.decide(&policy, &Attributes { aws_principal_arn: &arn, ..ENCRYPT });
            assert_eq!(decided.is_allowed, arn.ends_with('0'), "{round} {arn}");
            remembered += usize::from(decided.was_remembered);
        }
    }
    assert!(remembered <= DECISION_SLOTS, "{remembered}");
    let long = "x".repeat(MAX_REMEMBERED_ATTRIBUTES_BYTES);
    for _ in 0..2 {
        let decided =
            decisions.decide(&policy, &Attributes { aws_principal_arn: &long, ..ENCRYPT });
        assert!(!decided.is_allowed && !decided.was_remembered);
    }
}

/// A policy that names the kmsRequestId is told of it, and asked each time; one that doesn't, is
/// not told of it.
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

/// Strings from outside are data in both languages.
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

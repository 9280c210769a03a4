//! Cached decisions.

use std::sync::Arc;

use xks_proxy::limits::{DECISION_SLOTS, MAX_REMEMBERED_ATTRIBUTES_BYTES};
use xks_proxy::policy::decisions::Decisions;
use xks_proxy::policy::{Action, Attributes};

use crate::{CALL, DECRYPT, ENCRYPT, VPC, load, of_text};

/// A decision is found in the cache, but not for another policy or other attributes.
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

/// Two calls that differ in any attribute are never treated as the same.
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

/// When full, the table does not grow, and its decisions are correct.
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

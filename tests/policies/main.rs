//! Policies in Cedar and in Rego: the same calls get the same decisions for the same reasons.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod bounds;
mod examples;
mod inputs;
mod mistakes;
mod remembered;

use xks_proxy::policy::{Action, Attributes, Language, Policy, Remark};

const ALICE: &str = "arn:aws:iam::123456789012:user/Alice";
const OURS: &str = "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const VPC: &str = "vpc-1234567890abcdef0";
const VPCE: &str = "vpce-1234567890abcdef0";

/// A call by a principal in the account itself, with no service and no VPC.
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

/// A call, whether it is allowed, and the policy that allows or forbids it; "" if none permits it.
type Case = (&'static str, Attributes<'static>, bool, &'static str);

/// Checks that both languages decide each case in the same way and name the same policy.
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

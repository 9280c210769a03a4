//! The policies in configuration/: both languages make the same decisions and give reasons.

use xks_proxy::policy::Attributes;

use crate::{ALICE, Case, DECRYPT, ENCRYPT, METADATA, VPC, VPCE, check, load};

/// The sample policy for Oso, translated: cases that each rule allows and denies.
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

/// The model policy: missing members, unusual ARNs, services, VPCs, keys, stores.
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

/// The reason in the log names the policy and its place.
#[test]
fn reasons() {
    let cedar = load("policy.cedar");
    let line = include_str!("../../configuration/policy.cedar")
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

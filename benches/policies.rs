//! Time that policies take: `cargo bench --bench policies`. Each call is evaluated, then answered
//! from remembered decisions as in an event loop.
#![expect(clippy::expect_used, clippy::panic, reason = "a bench may")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};

use xks_proxy::policy::decisions::Decisions;
use xks_proxy::policy::{Action, Attributes, Language, Policy};

/// A call that `policy.*` permits after all of its forbidding rules, and that `oso.*` permits.
const CALL: Attributes<'static> = Attributes {
    action: Action::Decrypt,
    store: "/example/uri/path/prefix",
    external_key_id: "foo",
    aws_principal_arn: "arn:aws:sts::123456789012:assumed-role/application/i-0123456789abcdef0",
    kms_operation: "Decrypt",
    kms_request_id: "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    kms_key_arn: Some(
        "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ),
    kms_via_service: Some("ebs"),
    aws_source_vpc: Some("vpc-1234567890abcdef0"),
    aws_source_vpce: Some("vpce-1234567890abcdef0"),
};

fn load(file: &str) -> Arc<Policy> {
    let path = format!("{}/configuration/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a policy");
    of_text(file, &text)
}

fn of_text(file: &str, text: &str) -> Arc<Policy> {
    let language = Language::of_file(file.as_ref()).expect("a language");
    match Policy::load(language, file, text) {
        Ok((policy, _)) => Arc::new(policy),
        Err(remarks) => panic!("{remarks:?}"),
    }
}

/// A hundred policies, of which the last applies.
fn hundred() -> [(&'static str, Arc<Policy>); 2] {
    let cedar: String = (0..100)
        .map(|number| {
            format!(
                "permit (principal, action, resource) when {{ context has kmsKey && \
                 context.kmsKey.account == \"{}\" }};\n",
                123_456_789_111_u64 - number
            )
        })
        .collect();
    let rego: String = (0..100)
        .map(|number| {
            format!("allow if input.kmsKey.account == \"{}\"\n", 123_456_788_913_u64 + number)
        })
        .collect();
    [
        ("hundred.cedar", of_text("hundred.cedar", &cedar)),
        ("hundred.rego", of_text("hundred.rego", &format!("package xks\n{rego}"))),
    ]
}

fn policies(criterion: &mut Criterion) {
    let files = ["oso.cedar", "oso.rego", "policy.cedar", "policy.rego"];
    for (file, policy) in files.map(|file| (file, load(file))).into_iter().chain(hundred()) {
        criterion.bench_function(&format!("evaluate {file}"), |bencher| {
            bencher.iter(|| policy.decide(black_box(&CALL)));
        });
        let mut decisions = Decisions::default();
        criterion.bench_function(&format!("remember {file}"), |bencher| {
            bencher.iter(|| decisions.decide(&policy, black_box(&CALL)).is_allowed);
        });
        assert!(policy.decide(&CALL).is_allowed, "{file}");
    }
}

criterion_group!(benches, policies);
criterion_main!(benches);

//! Rules about input that a proxy must tolerate.

use serde_json::{Value, json};

use super::answers::{self, Reply, expect_success};
use super::calls::{of_key, plaintext};
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};
use crate::limits::MAX_ARN_BYTES;

const OPERATION: Rule = Rule::must(
    "tolerance.operation",
    "Encrypt",
    "A kmsOperation that is not listed must not be rejected as invalid.",
);
const HEALTH_OPERATION: Rule = Rule::must(
    "tolerance.health-operation",
    "GetHealthStatus",
    "A kmsOperation that is not listed must not be rejected as invalid.",
);
const REQUEST_ID: Rule = Rule::must(
    "tolerance.request-id",
    "Encrypt",
    "kmsRequestId is an opaque string: its structure must not be validated.",
);
const METADATA_MEMBER: Rule = Rule::must(
    "tolerance.metadata-member",
    "Appendix B",
    "KMS may add members to requestMetadata.",
);
const BODY_MEMBER: Rule =
    Rule::should("tolerance.body-member", "(Appendix B)", "KMS may add members to a request.");
const OPTIONAL: Rule = Rule::must(
    "tolerance.optional-members",
    "Encrypt",
    "awsSourceVpc, awsSourceVpce and kmsViaService are optional.",
);
const ARN: Rule = Rule::must(
    "tolerance.long-arn",
    "API operations",
    "ARNs of up to 2,048 characters must be supported.",
);
const SERVICE_PRINCIPAL: Rule = Rule::must(
    "tolerance.service-principal",
    "Encrypt",
    "awsPrincipalArn is a service principal or \"AWS Internal\" where an AWS service calls.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &OPERATION,
    &HEALTH_OPERATION,
    &REQUEST_ID,
    &METADATA_MEMBER,
    &BODY_MEMBER,
    &OPTIONAL,
    &ARN,
    &SERVICE_PRINCIPAL,
];

/// Encrypts with requests that KMS may send in future.
pub fn examine(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let mut body = prober.options.caller.health();
    body["requestMetadata"]["kmsOperation"] = json!("BulkEncrypt");
    let reply = prober.post("/health", &body);
    let found = expect_success(&reply, answers::health);
    let outcome = found.map_or_else(|outcome| outcome, |_| Outcome::Held("200".to_owned()));
    report.add(&HEALTH_OPERATION, None, outcome);

    let mut accept = |rule: &'static Rule, change: fn(&mut Value)| {
        let mut body = prober.options.caller.encrypt(&plaintext(), None, false);
        change(&mut body);
        let reply = prober.post(&of_key(key_id, "encrypt"), &body);
        report.add(rule, None, accepted(&reply));
    };
    accept(&OPERATION, |body| body["requestMetadata"]["kmsOperation"] = json!("BulkEncrypt"));
    accept(&REQUEST_ID, |body| {
        body["requestMetadata"]["kmsRequestId"] = json!("no UUID; 100% opaque");
    });
    accept(&METADATA_MEMBER, |body| {
        body["requestMetadata"]["sourceIdentity"] = json!({"name": ["Alice", 1, null]});
    });
    accept(&BODY_MEMBER, |body| body["futureMember"] = json!({"a": [true, 1.5]}));
    accept(&OPTIONAL, |body| {
        if let Some(metadata) = body["requestMetadata"].as_object_mut() {
            for name in ["awsSourceVpc", "awsSourceVpce", "kmsViaService"] {
                metadata.remove(name);
            }
        }
    });
    accept(&ARN, |body| {
        let metadata = &mut body["requestMetadata"];
        for name in ["awsPrincipalArn", "kmsKeyArn"] {
            let begin = metadata[name].as_str().unwrap_or_default();
            let padding = MAX_ARN_BYTES.saturating_sub(begin.len());
            metadata[name] = json!(format!("{begin}{}", "x".repeat(padding)));
        }
    });
    accept(&SERVICE_PRINCIPAL, |body| {
        body["requestMetadata"]["awsPrincipalArn"] = json!("AWS Internal");
    });
}

fn accepted(reply: &Reply) -> Outcome {
    let found = expect_success(reply, |object| answers::sealed(object, plaintext().len()));
    found.map_or_else(|outcome| outcome, |_| Outcome::Held("200".to_owned()))
}

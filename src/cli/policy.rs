//! `xks-proxy policy test`: tries a policy on a request.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::exit::{EXIT_DENIED, EXIT_SETTINGS, Failed};
use crate::limits::{MAX_POLICY_BYTES, MAX_POLICY_REQUEST_BYTES};
use crate::output::{errln, outln};
use crate::policy::{Action, Attributes, Language, Policy, Remark};

/// The members of requestMetadata that a policy sees.
const METADATA: [&str; 7] = [
    "awsPrincipalArn",
    "kmsOperation",
    "kmsRequestId",
    "kmsKeyArn",
    "kmsViaService",
    "awsSourceVpc",
    "awsSourceVpce",
];

/// Tries the policy in `file` on the request in `request`, and prints `allow` or `deny` and the
/// deciding rule.
///
/// # Errors
/// [`Failed`]: the policy denies ([`EXIT_DENIED`]), or one of the files has mistakes
/// ([`EXIT_SETTINGS`]).
pub fn test(file: &Path, request: &Path) -> Result<(), Failed> {
    let policy = load(file)?;
    let name = request.display();
    let mistake = |problem: String| Failed::new(EXIT_SETTINGS, format!("{name}: {problem}"));
    let text = read(request, MAX_POLICY_REQUEST_BYTES)?;
    let body: Value =
        serde_json::from_str(&text).map_err(|error| mistake(format!("not JSON: {error}")))?;
    for member in unknown_metadata(&body) {
        errln!("{name}: warning: no policy sees requestMetadata.{member}");
    }
    let decision = policy.decide(&attributes(&body).map_err(mistake)?);
    let word = if decision.is_allowed { "allow" } else { "deny" };
    outln!("{word}: {}", decision.reason);
    if decision.is_allowed { Ok(()) } else { Err(Failed::new(EXIT_DENIED, String::new())) }
}

fn load(file: &Path) -> Result<Policy, Failed> {
    let name = file.display().to_string();
    let Some(language) = Language::of_file(file) else {
        let problem = "its name ends neither with .cedar nor with .rego";
        return Err(Failed::new(EXIT_SETTINGS, format!("{name}: {problem}")));
    };
    let text = read(file, MAX_POLICY_BYTES)?;
    let told = |remarks: &[Remark]| {
        let lines: Vec<String> = remarks.iter().map(|remark| told(&name, remark)).collect();
        lines.join("\n")
    };
    match Policy::load(language, &name, &text) {
        Ok((policy, remarks)) => {
            if !remarks.is_empty() {
                errln!("{}", told(&remarks));
            }
            Ok(policy)
        }
        Err(remarks) => Err(Failed::new(EXIT_SETTINGS, told(&remarks))),
    }
}

/// Formats remarks like findings in the settings.
fn told(file: &str, remark: &Remark) -> String {
    let Remark { is_mistake, position, problem, remedy } = remark;
    let place = position.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
    let severity = if *is_mistake { "mistake" } else { "warning" };
    let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
    format!("{file}{place}: {severity}: {problem}{remedy}")
}

fn read(file: &Path, max_bytes: u64) -> Result<String, Failed> {
    let read = || {
        let mut text = String::new();
        // One byte more shows that the file is too large.
        File::open(file)?.take(max_bytes + 1).read_to_string(&mut text)?;
        if text.len() as u64 > max_bytes {
            return Err(std::io::Error::other(format!("it is larger than {max_bytes} bytes")));
        }
        Ok(text)
    };
    read().map_err(|error| Failed::new(EXIT_SETTINGS, format!("{}: {error}", file.display())))
}

fn unknown_metadata(body: &Value) -> Vec<&str> {
    let metadata = body.get("requestMetadata").and_then(Value::as_object);
    let names = metadata.into_iter().flat_map(Map::keys).map(String::as_str);
    names.filter(|name| !METADATA.contains(name)).collect()
}

/// Parses a request. The same members are required as in a call (XKS specification, API
/// operations), except kmsRequestId. Other members are allowed, so a whole body can be tried.
fn attributes(body: &Value) -> Result<Attributes<'_>, String> {
    let own = |name: &str| required("", body.as_object(), name);
    let metadata = match body.get("requestMetadata") {
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err("requestMetadata is not an object".to_owned()),
        None => return Err("requestMetadata is missing".to_owned()),
    };
    let optional = |name: &str| optional("requestMetadata.", Some(metadata), name);
    let needed = |name: &str| required("requestMetadata.", Some(metadata), name);
    let call = own("call")?;
    let action = Action::of_name(call).ok_or_else(|| match call {
        "health" => "call: \"health\" is exempt from policies".to_owned(),
        _ => format!("call: {call:?} is none of \"metadata\", \"encrypt\" and \"decrypt\""),
    })?;
    Ok(Attributes {
        action,
        store: own("store")?,
        external_key_id: own("externalKeyId")?,
        aws_principal_arn: needed("awsPrincipalArn")?,
        kms_operation: needed("kmsOperation")?,
        kms_request_id: optional("kmsRequestId")?.unwrap_or_default(),
        kms_key_arn: match action {
            Action::Metadata => optional("kmsKeyArn")?,
            Action::Encrypt | Action::Decrypt => Some(needed("kmsKeyArn")?),
        },
        kms_via_service: optional("kmsViaService")?,
        aws_source_vpc: optional("awsSourceVpc")?,
        aws_source_vpce: optional("awsSourceVpce")?,
    })
}

fn required<'a>(
    path: &str,
    object: Option<&'a Map<String, Value>>,
    name: &str,
) -> Result<&'a str, String> {
    optional(path, object, name)?.ok_or_else(|| format!("{path}{name} is missing"))
}

fn optional<'a>(
    path: &str,
    object: Option<&'a Map<String, Value>>,
    name: &str,
) -> Result<Option<&'a str>, String> {
    match object.and_then(|object| object.get(name)) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{path}{name} is not a string")),
    }
}

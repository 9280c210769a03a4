//! Policies in Cedar, validated against the schema in `configuration/policy.cedarschema`.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::str::FromStr as _;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Effect, Entities, EntityId, EntityTypeName, EntityUid,
    PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::attributes::{Action, Attributes, REQUEST_ID};
use super::decision::Decision;
use super::nesting;
use super::remark::{Remark, position};
use crate::limits::{MAX_POLICY_NESTING, MAX_REPORTED_POLICIES};

/// The schema, which describes a call in Cedar's terms.
pub const SCHEMA: &str = include_str!("../../configuration/policy.cedarschema");

/// A set of Cedar policies that conform to the schema.
#[derive(Debug)]
pub struct Cedar {
    policies: PolicySet,
    authorizer: Authorizer,
    /// Always empty: the context contains everything that policies refer to.
    entities: Entities,
    principal: EntityTypeName,
    key: EntityTypeName,
    actions: [EntityUid; Action::ALL.len()],
    /// Names for the log: `"no-ec2" at policy.cedar:12`.
    names: HashMap<PolicyId, String>,
    file: String,
    names_request_id: bool,
}

impl Cedar {
    pub(super) fn load(file: &str, text: &str) -> Result<(Self, Vec<Remark>), Vec<Remark>> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(defect)?;
        if let Some(offset) = nesting::too_deep(text) {
            let problem = format!("it nests more than {MAX_POLICY_NESTING} deep");
            let remedy = "split it into several policies";
            return Err(vec![Remark::mistake(Some(position(text, offset)), problem, remedy)]);
        }
        let policies = PolicySet::from_str(text).map_err(|errors| {
            errors.iter().map(|error| remark(text, error, true)).collect::<Vec<_>>()
        })?;
        let mut remarks: Vec<Remark> = policies
            .templates()
            .map(|template| {
                let problem =
                    format!("policy {} is a template, which decides nothing", template.id());
                Remark::mistake(
                    None,
                    problem,
                    "write principals and keys instead of ?principal and ?resource",
                )
            })
            .collect();
        let validated = Validator::new(schema).validate(&policies, ValidationMode::Strict);
        remarks.extend(validated.validation_errors().map(|error| remark(text, error, true)));
        remarks.extend(validated.validation_warnings().map(|error| remark(text, error, false)));
        if remarks.iter().any(|remark| remark.is_mistake) {
            return Err(remarks);
        }
        if !policies.policies().any(|policy| policy.effect() == Effect::Permit) {
            remarks.push(Remark {
                is_mistake: false,
                position: None,
                problem: "no policy in it permits anything: every call is denied".to_owned(),
                remedy: "add a permit policy".to_owned(),
            });
        }
        let action = EntityTypeName::from_str("Action").map_err(defect)?;
        let actions = Action::ALL
            .map(|it| EntityUid::from_type_name_and_id(action.clone(), EntityId::new(it.name())));
        let cedar = Self {
            names: names(file, text, &policies),
            names_request_id: names_request_id(&policies, text),
            policies,
            authorizer: Authorizer::new(),
            entities: Entities::empty(),
            principal: EntityTypeName::from_str("Principal").map_err(defect)?,
            key: EntityTypeName::from_str("Key").map_err(defect)?,
            actions,
            file: file.to_owned(),
        };
        Ok((cedar, remarks))
    }

    pub(super) fn names_request_id(&self) -> bool {
        self.names_request_id
    }

    pub(super) fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let request = match self.request(attributes) {
            Ok(request) => request,
            // Every call conforms to the schema, so this should not happen.
            Err(error) => return denied(format!("the call cannot be put to Cedar: {error}")),
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &self.entities);
        let diagnostics = response.diagnostics();
        // Cedar skips a policy that fails, even one that forbids. The call must not be permitted as
        // a result.
        if let Some(AuthorizationError::PolicyEvaluationError(error)) = diagnostics.errors().next()
        {
            let name = self.name(error.policy_id());
            return denied(format!("policy {name} cannot be evaluated: {}", error.inner()));
        }
        let deciding = self.list(diagnostics.reason());
        match response.decision() {
            cedar_policy::Decision::Allow => Decision {
                is_allowed: true,
                reason: format!("permitted by policy {deciding}").into(),
                is_lasting: true,
            },
            cedar_policy::Decision::Deny if deciding.is_empty() => {
                denied(format!("no policy in {} permits it", self.file))
            }
            cedar_policy::Decision::Deny => denied(format!("forbidden by policy {deciding}")),
        }
    }

    fn request(&self, attributes: &Attributes<'_>) -> Result<Request, Box<dyn Error>> {
        let uid = |name: &EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
        };
        let principal = uid(&self.principal, attributes.aws_principal_arn);
        let key = uid(&self.key, attributes.external_key_id);
        let action = self.actions[attributes.action as usize].clone();
        let context = context(attributes)?;
        Ok(Request::new(principal, action, key, context, None)?)
    }

    fn name<'s>(&'s self, id: &'s PolicyId) -> &'s str {
        self.names.get(id).map_or(id.as_ref(), String::as_str)
    }

    /// Lists the deciding policies by name.
    fn list<'s>(&'s self, ids: impl Iterator<Item = &'s PolicyId>) -> String {
        let mut names: Vec<&str> = ids.map(|id| self.name(id)).collect();
        names.sort_unstable();
        let more = names.len().saturating_sub(MAX_REPORTED_POLICIES);
        names.truncate(MAX_REPORTED_POLICIES);
        let mut list = names.join(", ");
        if more > 0 {
            // Writing into a String cannot fail.
            let _ = write!(list, " and {more} more");
        }
        list
    }
}

fn denied(reason: String) -> Decision {
    Decision { is_allowed: false, reason: reason.into(), is_lasting: true }
}

fn context(attributes: &Attributes<'_>) -> Result<Context, Box<dyn Error>> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut pairs = Vec::with_capacity(12);
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            pairs.push((name.to_owned(), text(value)));
        }
    };
    add("store", Some(attributes.store));
    add("externalKeyId", Some(attributes.external_key_id));
    add("call", Some(attributes.action.name()));
    add("kmsOperation", Some(attributes.kms_operation));
    add("awsPrincipalArn", Some(attributes.aws_principal_arn));
    add(REQUEST_ID, Some(attributes.kms_request_id));
    add("kmsKeyArn", attributes.kms_key_arn);
    add("kmsViaService", attributes.kms_via_service);
    add("awsSourceVpc", attributes.aws_source_vpc);
    add("awsSourceVpce", attributes.aws_source_vpce);
    if let Some(key) = attributes.kms_key() {
        let parts = [
            ("partition", key.partition),
            ("region", key.region),
            ("account", key.account),
            ("keyId", key.key_id),
        ];
        let parts = parts.map(|(name, part)| (name.to_owned(), text(part)));
        let record = RestrictedExpression::new_record(parts)?;
        pairs.push(("kmsKey".to_owned(), record));
    }
    Ok(Context::from_pairs(pairs)?)
}

/// Returns each policy's name, which is its annotation `@id` or else its number, followed by its
/// line.
fn names(file: &str, text: &str, policies: &PolicySet) -> HashMap<PolicyId, String> {
    let name = |policy: &cedar_policy::Policy| {
        let name = policy.annotation("id").unwrap_or(policy.id().as_ref());
        let line = policy.as_ref().loc().map(|place| position(text, place.start()).0);
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        format!("\"{name}\" at {file}{line}")
    };
    policies.policies().map(|policy| (policy.id().clone(), name(policy))).collect()
}

/// Returns whether a policy refers to the request id. Searches Cedar's JSON form, which has no
/// escapes and no comments, or the text if there is no such form.
fn names_request_id(policies: &PolicySet, text: &str) -> bool {
    policies.policies().any(|policy| match policy.to_json() {
        Ok(json) => json.to_string().contains(REQUEST_ID),
        Err(_) => text.contains(REQUEST_ID),
    })
}

fn remark(text: &str, error: &dyn Diagnostic, is_mistake: bool) -> Remark {
    let place = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    Remark {
        is_mistake,
        position: place.map(|offset| position(text, offset)),
        problem: one_line(&error.to_string()),
        remedy: error.help().map_or_else(String::new, |help| one_line(&help.to_string())),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the report of a defect that a test should have found.
fn defect(error: impl fmt::Display) -> Vec<Remark> {
    vec![Remark::mistake(None, format!("a defect in the built-in schema: {error}"), "report it")]
}

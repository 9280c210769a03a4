//! Policies in Rego, the language of the Open Policy Agent: package `xks`, rule `allow`.
//!
//! None of the built-in functions that are compiled in reads a clock, random numbers or the
//! network, so a module's decision depends on its input alone.
//!
//! Modules are evaluated by the interpreter of regorus and not by its virtual machine (feature
//! `rvm`), although that takes a third of the time: there, an error within a rule or two values of
//! one rule only make the rule undefined, even with strict errors, so a rule that denies would no
//! longer do so; a rule that uses itself overflows the stack; and the feature `std` that it needs
//! takes the choice of the clock away (`Clock`).

use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use parking_lot::Mutex;
use regorus::utils::limits::{ExecutionTimerConfig, LimitError, TimeSource, set_time_source};
use regorus::{Engine, Value};
use rustix::time::{ClockId, clock_gettime};

use super::attributes::{Action, Attributes, REQUEST_ID};
use super::decision::Decision;
use super::recursion;
use super::remark::Remark;
use crate::limits::{
    MAX_POLICY_EVALUATION_TIME, MAX_REPORTED_POLICIES, POLICY_TIME_CHECK_INTERVAL,
};

const PACKAGE: &str = "data.xks";
/// The rule that decides: the call is permitted if the rule is true.
const ALLOW: &str = "data.xks.allow";
/// An optional rule that yields strings for the log, naming the rules that decided.
const DECIDED_BY: &str = "data.xks.decided_by";

/// A Rego module.
pub struct Rego {
    /// Engines that are ready to evaluate. Each evaluation takes one; there are as many as there
    /// have been simultaneous evaluations.
    engines: Mutex<Vec<Engine>>,
    /// The engine from which others are cloned.
    prototype: Engine,
    has_decided_by: bool,
    names: Names,
    file: String,
    names_request_id: bool,
}

impl std::fmt::Debug for Rego {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rego").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Rego {
    pub(super) fn load(file: &str, text: &str) -> Result<(Self, Vec<Remark>), Vec<Remark>> {
        static CLOCK: Once = Once::new();
        // This fails only if a time source has already been set.
        CLOCK.call_once(|| _ = set_time_source(&Clock));
        let mut engine = Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: MAX_POLICY_EVALUATION_TIME,
            check_interval: POLICY_TIME_CHECK_INTERVAL,
        });
        // Otherwise an error in a built-in function would merely make a rule undefined.
        engine.set_strict_builtin_errors(true);
        let package = engine
            .add_policy(file.to_owned(), text.to_owned())
            .map_err(|error| vec![remark(file, &error.to_string())])?;
        if package != PACKAGE {
            let line = text.lines().position(|line| line.trim_start().starts_with("package"));
            let position = line.map(|line| (line + 1, 1));
            let problem = format!("the package is {package}");
            return Err(vec![Remark::mistake(position, problem, "write: package xks")]);
        }
        if let Some(remark) = recursion::check(engine.get_modules()) {
            return Err(vec![remark]);
        }
        let names_request_id = names_request_id(text);
        let names = Names::new();
        let mut rego = Self {
            engines: Mutex::default(),
            prototype: engine,
            has_decided_by: false,
            names,
            file: file.to_owned(),
            names_request_id,
        };
        rego.try_out()?;
        Ok((rego, Vec::new()))
    }

    /// Finds mistakes that only an evaluation reveals: unsafe references and missing rules.
    fn try_out(&mut self) -> Result<(), Vec<Remark>> {
        let input = self.input(&SAMPLE);
        let engine = &mut self.prototype;
        engine.set_input(input);
        let tried = engine.eval_rule(ALLOW.to_owned());
        if let Err(error) = tried {
            let error = error.to_string();
            if error == NO_SUCH_RULE {
                let problem = "there is no rule `allow`".to_owned();
                let remedy = "write: default allow := false, and `allow if { ... }`";
                return Err(vec![Remark::mistake(None, problem, remedy)]);
            }
            return Err(vec![remark(&self.file, &error)]);
        }
        match engine.eval_rule(DECIDED_BY.to_owned()) {
            Ok(_) => self.has_decided_by = true,
            Err(error) if error.to_string() == NO_SUCH_RULE => {}
            Err(error) => return Err(vec![remark(&self.file, &error.to_string())]),
        }
        Ok(())
    }

    pub(super) fn names_request_id(&self) -> bool {
        self.names_request_id
    }

    pub(super) fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let taken = self.engines.lock().pop();
        let mut engine = taken.unwrap_or_else(|| self.prototype.clone());
        engine.set_input(self.input(attributes));
        let decision = self.evaluate(&mut engine);
        engine.set_input(Value::Undefined);
        self.engines.lock().push(engine);
        decision
    }

    fn evaluate(&self, engine: &mut Engine) -> Decision {
        let value = match engine.eval_rule(ALLOW.to_owned()) {
            Ok(value) => value,
            Err(error) => {
                // An evaluation that ran out of time may succeed next time.
                let is_lasting = error.downcast_ref::<LimitError>().is_none();
                let reason = format!(
                    "{ALLOW} cannot be evaluated: {}",
                    remark(&self.file, &error.to_string()).problem
                );
                return Decision { is_allowed: false, reason: reason.into(), is_lasting };
            }
        };
        let (is_allowed, what) = match value {
            Value::Bool(true) => (true, "true"),
            Value::Bool(false) => (false, "false"),
            Value::Undefined => (false, "undefined"),
            _ => (false, "not a boolean"),
        };
        let mut reason = format!("{ALLOW} in {} is {what}", self.file);
        if self.has_decided_by
            && let Ok(value) = engine.eval_rule(DECIDED_BY.to_owned())
        {
            let texts = texts(&value);
            if !texts.is_empty() {
                reason.push_str(": ");
                reason.push_str(&texts.join(", "));
            }
        }
        Decision { is_allowed, reason: reason.into(), is_lasting: true }
    }

    fn input(&self, attributes: &Attributes<'_>) -> Value {
        let names = &self.names;
        let mut input = BTreeMap::new();
        let mut add = |name: &Value, text: Option<&str>| {
            if let Some(text) = text {
                input.insert(name.clone(), Value::from(text));
            }
        };
        add(&names.store, Some(attributes.store));
        add(&names.external_key_id, Some(attributes.external_key_id));
        add(&names.kms_operation, Some(attributes.kms_operation));
        add(&names.aws_principal_arn, Some(attributes.aws_principal_arn));
        // Left out unless the module names it, so that it cannot affect a cached decision.
        let request_id = self.names_request_id.then_some(attributes.kms_request_id);
        add(&names.kms_request_id, request_id);
        add(&names.kms_key_arn, attributes.kms_key_arn);
        add(&names.kms_via_service, attributes.kms_via_service);
        add(&names.aws_source_vpc, attributes.aws_source_vpc);
        add(&names.aws_source_vpce, attributes.aws_source_vpce);
        input.insert(names.call.clone(), names.actions[attributes.action as usize].clone());
        if let Some(key) = attributes.kms_key() {
            let parts = [
                (&names.partition, key.partition),
                (&names.region, key.region),
                (&names.account, key.account),
                (&names.key_id, key.key_id),
            ];
            let parts = parts.map(|(name, part)| (name.clone(), Value::from(part)));
            input.insert(names.kms_key.clone(), Value::from(BTreeMap::from(parts)));
        }
        Value::from(input)
    }
}

/// The error of regorus for a rule that does not exist.
const NO_SUCH_RULE: &str = "not a valid rule path";

/// A call for trying out a module; its decision is ignored.
const SAMPLE: Attributes<'static> = Attributes {
    action: Action::Encrypt,
    store: "/example/uri/path/prefix",
    external_key_id: "foo",
    aws_principal_arn: "arn:aws:iam::123456789012:user/Alice",
    kms_operation: "Encrypt",
    kms_request_id: "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    kms_key_arn: Some(
        "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ),
    kms_via_service: Some("ebs"),
    aws_source_vpc: Some("vpc-1234567890abcdef0"),
    aws_source_vpce: Some("vpce-1234567890abcdef0"),
};

/// Names of the input's members, created once: cloning one allocates nothing.
struct Names {
    store: Value,
    external_key_id: Value,
    call: Value,
    actions: [Value; Action::ALL.len()],
    kms_operation: Value,
    aws_principal_arn: Value,
    kms_request_id: Value,
    kms_key_arn: Value,
    kms_key: Value,
    partition: Value,
    region: Value,
    account: Value,
    key_id: Value,
    kms_via_service: Value,
    aws_source_vpc: Value,
    aws_source_vpce: Value,
}

impl Names {
    fn new() -> Self {
        Self {
            store: "store".into(),
            external_key_id: "externalKeyId".into(),
            call: "call".into(),
            actions: Action::ALL.map(|action| action.name().into()),
            kms_operation: "kmsOperation".into(),
            aws_principal_arn: "awsPrincipalArn".into(),
            kms_request_id: REQUEST_ID.into(),
            kms_key_arn: "kmsKeyArn".into(),
            kms_key: "kmsKey".into(),
            partition: "partition".into(),
            region: "region".into(),
            account: "account".into(),
            key_id: "keyId".into(),
            kms_via_service: "kmsViaService".into(),
            aws_source_vpc: "awsSourceVpc".into(),
            aws_source_vpce: "awsSourceVpce".into(),
        }
    }
}

/// The clock that limits evaluations: the CPU time of the evaluating thread, so that other load on
/// the machine does not count against the limit.
struct Clock;

impl TimeSource for Clock {
    fn now(&self) -> Option<Duration> {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let (secs, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
        Some(Duration::new(secs, nanos))
    }
}

/// Returns a string, or the strings of a set or list.
fn texts(value: &Value) -> Vec<Arc<str>> {
    let text = |value: &Value| value.as_string().ok().cloned();
    match value {
        Value::Set(set) => set.iter().filter_map(text).take(MAX_REPORTED_POLICIES).collect(),
        Value::Array(array) => array.iter().filter_map(text).take(MAX_REPORTED_POLICIES).collect(),
        other => text(other).into_iter().collect(),
    }
}

/// Returns whether any line that is not a comment names the request id.
fn names_request_id(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(REQUEST_ID))
}

/// Converts an error message of regorus: `--> FILE:LINE:COLUMN`, the line itself, `error: WHAT`.
fn remark(file: &str, message: &str) -> Remark {
    let place = message.split_once(&format!("--> {file}:")).and_then(|(_, rest)| {
        let mut numbers = rest.lines().next()?.split(':').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let what = message.rsplit_once("error: ").map_or(message, |(_, what)| what);
    let problem = what.split_whitespace().collect::<Vec<_>>().join(" ");
    Remark::mistake(place, problem, "")
}

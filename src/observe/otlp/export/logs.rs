//! Lines of the log as log records.

use serde_json::{Map, Value};

use super::messages::{Any, AnyValue, KeyValue, LogRecord};
use crate::observe::otlp::trace_id;
use crate::observe::timestamp::parse_rfc3339;

/// Converts one line in the log's JSON format. A line that is not such a line is kept as the text
/// that it is.
pub(super) fn record(line: &[u8], observed_unix_nano: u64) -> LogRecord {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else {
        return LogRecord {
            observed_time_unix_nano: observed_unix_nano,
            body: Some(text(String::from_utf8_lossy(line).into_owned())),
            ..LogRecord::default()
        };
    };
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (time, level, message) = (take("time"), take("level"), take("message"));
    let trace_id =
        fields.get("kmsRequestId").and_then(Value::as_str).and_then(trace_id::of_request);
    LogRecord {
        time_unix_nano: unix_nano(&time).unwrap_or(observed_unix_nano),
        observed_time_unix_nano: observed_unix_nano,
        severity_number: severity(&level),
        severity_text: level,
        // The lines of calls have no message.
        body: Some(text(if message.is_empty() { "call".to_owned() } else { message })),
        attributes: attributes(fields),
        trace_id: trace_id.map_or_else(Vec::new, |id| id.to_vec()),
    }
}

fn text(text: String) -> AnyValue {
    AnyValue { value: Some(Any::String(text)) }
}

/// `SeverityNumber`: the first of the four that each level has.
fn severity(level: &str) -> i32 {
    match level {
        "TRACE" => 1,
        "DEBUG" => 5,
        "INFO" => 9,
        "WARN" => 13,
        "ERROR" => 17,
        _ => 0,
    }
}

fn unix_nano(time: &str) -> Option<u64> {
    let secs = parse_rfc3339(time)?;
    let micros: u64 = time.rsplit_once('.')?.1.strip_suffix('Z')?.parse().ok()?;
    secs.checked_mul(1_000_000_000)?.checked_add(micros.checked_mul(1_000)?)
}

fn attributes(fields: Map<String, Value>) -> Vec<KeyValue> {
    let value = |value: Value| match value {
        Value::String(text) => Any::String(text),
        Value::Bool(is_so) => Any::Bool(is_so),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Any::Int(whole),
            (None, Some(real)) => Any::Double(real),
            (None, None) => Any::String(number.to_string()),
        },
        other => Any::String(other.to_string()),
    };
    fields.into_iter().map(|(name, field)| KeyValue::of(&name, value(field))).collect()
}

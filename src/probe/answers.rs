//! Rules for the form of answers (XKS specification, API operations and Error codes).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::no_answer::NoAnswer;
use super::report::{Outcome, excerpt};
use crate::client::Answer;
use crate::client::bodies::Sealed;
use crate::limits::{
    GCM_IV_BYTES, GCM_TAG_BYTES, MAX_CIPHERTEXT_METADATA_BYTES, MAX_ERROR_MESSAGE_BYTES,
    MAX_FLEET_DETAILS, MAX_GCM_IV_BYTES,
};
use crate::observe::timestamp::days_from_civil;

/// The outcome of a call: an answer, or the reason there is none.
pub type Reply = Result<Answer, NoAnswer>;

/// The status that belongs to each error name (Error codes).
const ERRORS: [(u16, &str); 12] = [
    (400, "ValidationException"),
    (400, "InvalidStateException"),
    (400, "InvalidCiphertextException"),
    (400, "InvalidKeyUsageException"),
    (401, "AuthenticationFailedException"),
    (403, "AccessDeniedException"),
    (404, "KeyNotFoundException"),
    (404, "InvalidUriPathException"),
    (429, "ThrottlingException"),
    (500, "InternalException"),
    (501, "UnsupportedOperationException"),
    (503, "DependencyTimeoutException"),
];

/// Largest number of values of `keyUsage` (GetKeyMetadata).
const MAX_KEY_USAGES: usize = 10;

/// Returns the status and the beginning of the body.
#[must_use]
pub fn came(answer: &Answer) -> String {
    format!("{} {}", answer.status, excerpt(&answer.body))
}

/// Returns the name of an error.
#[must_use]
pub fn error_name(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body.get("errorName")?.as_str().map(str::to_owned)
}

/// Returns whether a policy of the proxy (secondary authorization) refused the call.
#[must_use]
pub fn is_denied(reply: &Reply) -> bool {
    reply.as_ref().is_ok_and(|answer| answer.status == 403)
}

/// Judges an answer that must be one of these errors, with the status of that error.
#[must_use]
pub fn expect_error(reply: &Reply, names: &[&str]) -> Outcome {
    let answer = match reply {
        Ok(answer) => answer,
        Err(why) => return Outcome::Broken(why.to_string()),
    };
    let name = error_name(answer);
    let is_right = name
        .as_deref()
        .is_some_and(|name| names.contains(&name) && ERRORS.contains(&(answer.status, name)));
    if is_right {
        Outcome::Held(came(answer))
    } else if is_denied(reply) {
        Outcome::Doubtful(format!("a policy refused it first: {}", came(answer)))
    } else {
        Outcome::Broken(format!("{} and not {}", came(answer), names.join(" or ")))
    }
}

/// Parses an answer that must be 200 with a JSON object.
///
/// # Errors
/// The answer breaks a rule, with the reason.
pub fn expect_success<T>(
    reply: &Reply,
    parse: impl FnOnce(&Map<String, Value>) -> Result<T, String>,
) -> Result<T, Outcome> {
    let answer = match reply {
        Ok(answer) => answer,
        Err(why) => return Err(Outcome::Broken(why.to_string())),
    };
    if is_denied(reply) {
        let hint = "a policy refused it (--principal-arn, --kms-key-arn)";
        return Err(Outcome::Doubtful(format!("{hint}: {}", came(answer))));
    }
    if answer.status != 200 {
        return Err(Outcome::Broken(came(answer)));
    }
    let told = |why: String| Outcome::Broken(format!("{why}: {}", came(answer)));
    let body: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| told(format!("the body is not JSON ({error})")))?;
    let object = body.as_object().ok_or_else(|| told("the body is no object".to_owned()))?;
    parse(object).map_err(told)
}

/// Checks the form of an error's body.
///
/// # Errors
/// The answer breaks a rule, with the reason.
pub fn error_form(answer: &Answer) -> Result<(), String> {
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|_| "a body that is not JSON")?;
    let name = body.get("errorName").and_then(Value::as_str).ok_or("no errorName")?;
    if !ERRORS.contains(&(answer.status, name)) {
        return Err(format!("{name} with status {}", answer.status));
    }
    match body.get("errorMessage") {
        None => Ok(()),
        Some(Value::String(message)) => {
            let is_printable = message.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
            let is_right = is_printable && message.len() <= MAX_ERROR_MESSAGE_BYTES;
            is_right.then_some(()).ok_or_else(|| {
                "an errorMessage that is not under 512 characters of printable ASCII".to_owned()
            })
        }
        Some(_) => Err("an errorMessage that is no string".to_owned()),
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{name} is not a string")),
        None => Err(format!("there is no {name}")),
    }
}

fn bytes(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    base64_simd::STANDARD
        .decode_to_vec(text(object, name)?)
        .map_err(|_| format!("{name} is not standard base64"))
}

/// A key as GetKeyMetadata describes it.
#[derive(Clone, Debug, Default)]
pub struct KeyMetadata {
    /// `AES_256`
    pub spec: String,
    /// `ENCRYPT`, `DECRYPT` and others
    pub usage: Vec<String>,
    /// `ENABLED` or `DISABLED`
    pub status: String,
}

impl KeyMetadata {
    /// # Errors
    /// The answer breaks a rule, with the reason.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, String> {
        let usage = object.get("keyUsage").and_then(Value::as_array);
        let usage = usage.ok_or("keyUsage is no array")?;
        let texts = usage.iter().map(|one| one.as_str().map(str::to_owned));
        let usage: Option<Vec<String>> = texts.collect();
        let usage = usage.ok_or("keyUsage has what is no string")?;
        if usage.len() > MAX_KEY_USAGES {
            return Err(format!("keyUsage has more than {MAX_KEY_USAGES} values"));
        }
        let status = text(object, "keyStatus")?.to_owned();
        if !["ENABLED", "DISABLED"].contains(&status.as_str()) {
            return Err("keyStatus is neither ENABLED nor DISABLED".to_owned());
        }
        Ok(Self { spec: text(object, "keySpec")?.to_owned(), usage, status })
    }

    /// Returns whether the key has this usage.
    #[must_use]
    pub fn may(&self, usage: &str) -> bool {
        self.usage.iter().any(|one| one == usage)
    }
}

/// Parses the answer to Encrypt.
///
/// # Errors
/// The answer breaks a rule, with the reason.
pub fn sealed(object: &Map<String, Value>, plaintext_bytes: usize) -> Result<Sealed, String> {
    let metadata = object.get("ciphertextMetadata").map(|_| bytes(object, "ciphertextMetadata"));
    let sealed = Sealed {
        ciphertext: bytes(object, "ciphertext")?,
        iv: bytes(object, "initializationVector")?,
        tag: bytes(object, "authenticationTag")?,
        metadata: metadata.transpose()?,
    };
    if sealed.ciphertext.len() != plaintext_bytes {
        let length = sealed.ciphertext.len();
        return Err(format!("a ciphertext of {length} bytes for {plaintext_bytes} of plaintext"));
    }
    if ![GCM_IV_BYTES, MAX_GCM_IV_BYTES].contains(&sealed.iv.len()) {
        return Err(format!("an initializationVector of {} bytes", sealed.iv.len()));
    }
    if sealed.tag.len() != GCM_TAG_BYTES {
        return Err(format!("an authenticationTag of {} bytes", sealed.tag.len()));
    }
    let metadata_bytes = sealed.metadata.as_ref().map_or(0, Vec::len);
    if metadata_bytes > MAX_CIPHERTEXT_METADATA_BYTES {
        return Err(format!("a ciphertextMetadata of {metadata_bytes} bytes"));
    }
    Ok(sealed)
}

/// Checks the ciphertext data integrity value (Appendix C).
///
/// # Errors
/// The value is missing or wrong.
pub fn cdiv(object: &Map<String, Value>, sealed: &Sealed, aad: &[u8]) -> Result<(), String> {
    let value = bytes(object, "ciphertextDataIntegrityValue")?;
    let mut hash = Sha256::new();
    let metadata = sealed.metadata.as_deref().unwrap_or_default();
    for part in [aad, metadata, &sealed.iv, &sealed.ciphertext, &sealed.tag] {
        hash.update(part);
    }
    if hash.finalize().as_slice() == value.as_slice() {
        return Ok(());
    }
    Err("ciphertextDataIntegrityValue is not what the members of the answer hash to".to_owned())
}

/// Parses the answer to Decrypt.
///
/// # Errors
/// The answer breaks a rule, with the reason.
pub fn opened(object: &Map<String, Value>, plaintext: &[u8]) -> Result<(), String> {
    if bytes(object, "plaintext")? == plaintext {
        return Ok(());
    }
    Err("plaintext is another than was encrypted".to_owned())
}

/// The answer to GetHealthStatus.
#[derive(Debug)]
pub struct Fleet {
    /// Its members as a text.
    pub text: String,
    /// Whether every external key manager is ACTIVE.
    pub is_active: bool,
    /// Whether an external key manager is not UNAVAILABLE.
    pub is_usable: bool,
}

/// Parses the answer to GetHealthStatus.
///
/// # Errors
/// The answer breaks a rule, with the reason.
pub fn health(object: &Map<String, Value>) -> Result<Fleet, String> {
    let size = object.get("xksProxyFleetSize").and_then(Value::as_u64).unwrap_or(0);
    if size == 0 {
        return Err("xksProxyFleetSize is no integer above zero".to_owned());
    }
    let names = ["xksProxyVendor", "xksProxyModel", "ekmVendor"];
    let names: Vec<&str> =
        names.into_iter().map(|name| text(object, name)).collect::<Result<_, _>>()?;
    let fleet = object.get("ekmFleetDetails").and_then(Value::as_array);
    let fleet = fleet.ok_or("ekmFleetDetails is no array")?;
    if !(1..=MAX_FLEET_DETAILS).contains(&fleet.len()) {
        return Err(format!("ekmFleetDetails has {} entries", fleet.len()));
    }
    let mut members = Vec::new();
    let mut ids = Vec::new();
    let mut is_active = true;
    let mut is_usable = false;
    for entry in fleet {
        let entry = entry.as_object().ok_or("ekmFleetDetails has what is no object")?;
        let [id, model, status] = ["id", "model", "healthStatus"].map(|name| text(entry, name));
        let (id, model, status) = (id?, model?, status?);
        if !["ACTIVE", "DEGRADED", "UNAVAILABLE"].contains(&status) {
            return Err("healthStatus is none of ACTIVE, DEGRADED, UNAVAILABLE".to_owned());
        }
        if ids.contains(&id) {
            return Err("two entries of ekmFleetDetails have the same id".to_owned());
        }
        ids.push(id);
        is_active &= status == "ACTIVE";
        is_usable |= status != "UNAVAILABLE";
        members.push(format!("{id} ({model}) {status}"));
    }
    let text = format!("{size} x {}; {}", names.join(", "), members.join("; "));
    Ok(Fleet { text, is_active, is_usable })
}

/// Returns the difference between a Date field (IMF-fixdate, RFC 9110, 5.6.7) and our clock.
#[must_use]
pub fn clock_difference(date: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = date.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u32 = parts.next()?.parse().ok()?;
    let month = MONTHS.find(parts.next()?)? / 3 + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_date = (1970..=9999).contains(&year) && day <= 31 && hour < 24 && minute < 60;
    if !is_date || second > 60 {
        return None;
    }
    let days = u64::try_from(days_from_civil(year, u32::try_from(month).ok()?, day)).ok()?;
    let time = Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.abs_diff(time))
}

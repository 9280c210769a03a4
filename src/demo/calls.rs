//! The four calls, as KMS makes them.

use serde_json::Value;

use super::error::{DemoError, say};
use crate::client::bodies::{Caller, base64};
use crate::client::{Answer, Client, Signer};

const PLAINTEXT: &[u8] = b"a data key of an S3 object, say.";
const AAD: &[u8] = b"project=nile,department=marketing";

/// Makes the calls, and prints each with its answer and duration.
///
/// # Errors
/// A call failed, or the decrypted plaintext differs.
pub(super) fn show(
    client: &mut Client,
    signer: &Signer,
    caller: &Caller,
    key_id: &str,
) -> Result<(), DemoError> {
    call(client, signer, "GetHealthStatus", "/health", &caller.health())?;
    let path = format!("/keys/{key_id}/metadata");
    call(client, signer, "GetKeyMetadata", &path, &caller.key_metadata())?;
    let path = format!("/keys/{key_id}/encrypt");
    let name = "Encrypt (AAD, ciphertext data integrity value)";
    let answer = call(client, signer, name, &path, &caller.encrypt(PLAINTEXT, Some(AAD), true))?;
    let mut body = caller.decrypt(&Default::default(), Some(AAD));
    for member in ["ciphertext", "initializationVector", "authenticationTag"] {
        body[member] = member_of(&answer, member)?;
    }
    let answer = call(client, signer, "Decrypt", &format!("/keys/{key_id}/decrypt"), &body)?;
    if member_of(&answer, "plaintext")? != base64(PLAINTEXT) {
        return Err("Decrypt gave another plaintext than was encrypted".into());
    }
    say(format_args!("\nThe plaintext came back: all four calls work."))?;
    Ok(())
}

fn call(
    client: &mut Client,
    signer: &Signer,
    name: &str,
    path: &str,
    body: &Value,
) -> Result<Answer, DemoError> {
    say(format_args!("\n{name}\n   POST .../kms/xks/v1{path}\n   {body}"))?;
    let answer = client
        .call(Some(signer), path, &body.to_string())
        .map_err(|error| format!("{name} got no answer: {error}"))?;
    say(format_args!(
        "   {} in {:.2} ms\n   {}",
        answer.status,
        answer.time.as_secs_f64() * 1e3,
        String::from_utf8_lossy(&answer.body)
    ))?;
    if answer.status == 200 { Ok(answer) } else { Err(format!("{name} failed").into()) }
}

/// Returns a member of the answer's JSON object.
fn member_of(answer: &Answer, name: &str) -> Result<Value, String> {
    serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|mut body| body.get_mut(name).map(Value::take))
        .ok_or_else(|| format!("the answer has no {name}"))
}

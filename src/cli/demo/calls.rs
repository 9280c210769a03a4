//! The four calls, as KMS makes them.

use crate::cli::client::{Answer, Client, Signer};

const PLAINTEXT: &[u8] = b"a data key of an S3 object, say.";
const AAD: &[u8] = b"project=nile,department=marketing";

/// A GetKeyMetadata request.
pub(super) const METADATA: &str = r#"{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"DescribeKey","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"}}"#;
const HEALTH: &str = r#"{"requestMetadata":{"kmsOperation":"KmsHealthCheck","kmsRequestId":"3b1cbb31-1c0e-4d6f-a5b2-2a1bcb0b5a44"}}"#;
const CRYPTO_METADATA: &str = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"ReEncrypt","kmsRequestId":"c5bb2fd3-2f0a-4d4c-b8b0-6d3b5d5d1a3c"}"#;

/// Makes the calls and prints each with its answer and time.
///
/// # Errors
/// A call that did not succeed, or a plaintext that did not come back.
pub(super) fn show(client: &mut Client, signer: &Signer, key_id: &str) -> Result<(), String> {
    call(client, signer, "GetHealthStatus", "/health", HEALTH)?;
    call(client, signer, "GetKeyMetadata", &format!("/keys/{key_id}/metadata"), METADATA)?;
    let aad = base64(AAD);
    let body = format!(
        r#"{{{CRYPTO_METADATA},"additionalAuthenticatedData":"{aad}","plaintext":"{}","encryptionAlgorithm":"AES_GCM","ciphertextDataIntegrityValueAlgorithm":"SHA_256"}}"#,
        base64(PLAINTEXT)
    );
    let answer = call(
        client,
        signer,
        "Encrypt (AAD, ciphertext data integrity value)",
        &format!("/keys/{key_id}/encrypt"),
        &body,
    )?;
    let body = format!(
        r#"{{{CRYPTO_METADATA},"additionalAuthenticatedData":"{aad}","ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}","encryptionAlgorithm":"AES_GCM"}}"#,
        member(&answer, "ciphertext")?,
        member(&answer, "initializationVector")?,
        member(&answer, "authenticationTag")?,
    );
    let answer = call(client, signer, "Decrypt", &format!("/keys/{key_id}/decrypt"), &body)?;
    if member(&answer, "plaintext")? != base64(PLAINTEXT) {
        return Err("Decrypt gave another plaintext than was encrypted".into());
    }
    println!("\nThe plaintext came back: all four calls work.");
    Ok(())
}

fn call(
    client: &mut Client,
    signer: &Signer,
    name: &str,
    path: &str,
    body: &str,
) -> Result<Answer, String> {
    println!("\n{name}\n   POST .../kms/xks/v1{path}\n   {body}");
    let answer = client
        .call(Some(signer), path, body)
        .map_err(|error| format!("{name} got no answer: {error}"))?;
    println!(
        "   {} in {:.2} ms\n   {}",
        answer.status,
        answer.time.as_secs_f64() * 1e3,
        String::from_utf8_lossy(&answer.body)
    );
    if answer.status == 200 { Ok(answer) } else { Err(format!("{name} failed")) }
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// A string member of the answer's JSON object.
fn member(answer: &Answer, name: &str) -> Result<String, String> {
    use simd_json::prelude::{ValueAsScalar as _, ValueObjectAccess as _};
    let mut body = answer.body.clone();
    simd_json::to_owned_value(&mut body)
        .ok()
        .and_then(|value| value.get(name).and_then(|member| member.as_str().map(str::to_owned)))
        .ok_or_else(|| format!("the answer has no {name}"))
}

//! The bodies of the four calls, as KMS makes them (XKS specification, API operations).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::{partition, random};

/// The caller of KMS, for `requestMetadata`. Each body has a new request id.
#[derive(Debug)]
pub struct Caller {
    /// `awsPrincipalArn`
    pub principal_arn: String,
    /// `kmsKeyArn`
    pub key_arn: String,
    region: String,
    seed: u64,
    count: AtomicU64,
}

/// The output of Encrypt and input of Decrypt, without base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Ciphertext, as long as the plaintext.
    pub ciphertext: Vec<u8>,
    /// IV of 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// Authentication tag of 16 bytes.
    pub tag: Vec<u8>,
    /// Ciphertext metadata of up to 20 bytes.
    pub metadata: Option<Vec<u8>>,
}

impl Caller {
    /// Returns the specification's Alice, with her KMS key in `region`.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(region: &str) -> io::Result<Self> {
        let partition = partition::of(region).name;
        Ok(Self {
            principal_arn: format!("arn:{partition}:iam::123456789012:user/Alice"),
            key_arn: format!(
                "arn:{partition}:kms:{region}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
            ),
            region: region.to_owned(),
            seed: u64::from_be_bytes(random_bytes()?),
            count: AtomicU64::new(0),
        })
    }

    /// Returns the body of GetHealthStatus.
    #[must_use]
    pub fn health(&self) -> Value {
        json!({"requestMetadata": {
            "kmsOperation": "KmsHealthCheck",
            "kmsRequestId": self.request_id(),
        }})
    }

    /// Returns the body of GetKeyMetadata.
    #[must_use]
    pub fn key_metadata(&self) -> Value {
        json!({"requestMetadata": {
            "awsPrincipalArn": self.principal_arn,
            "awsSourceVpc": "vpc-1234567890abcdef0",
            "awsSourceVpce": "vpce-1234567890abcdef0",
            "kmsOperation": "CreateKey",
            "kmsRequestId": self.request_id(),
        }})
    }

    /// Returns the body of Encrypt, with the ciphertext data integrity value if `has_cdiv`.
    #[must_use]
    pub fn encrypt(&self, plaintext: &[u8], aad: Option<&[u8]>, has_cdiv: bool) -> Value {
        let mut body = self.of_operation("GenerateDataKey", aad);
        body["plaintext"] = json!(base64(plaintext));
        if has_cdiv {
            body["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_256");
        }
        body
    }

    /// Returns the body of Decrypt.
    #[must_use]
    pub fn decrypt(&self, sealed: &Sealed, aad: Option<&[u8]>) -> Value {
        let mut body = self.of_operation("Decrypt", aad);
        body["ciphertext"] = json!(base64(&sealed.ciphertext));
        body["initializationVector"] = json!(base64(&sealed.iv));
        body["authenticationTag"] = json!(base64(&sealed.tag));
        if let Some(metadata) = &sealed.metadata {
            body["ciphertextMetadata"] = json!(base64(metadata));
        }
        body
    }

    fn of_operation(&self, operation: &str, aad: Option<&[u8]>) -> Value {
        let mut body = json!({
            "requestMetadata": {
                "awsPrincipalArn": self.principal_arn,
                "awsSourceVpc": "vpc-1234567890abcdef0",
                "awsSourceVpce": "vpce-1234567890abcdef0",
                "kmsKeyArn": self.key_arn,
                "kmsOperation": operation,
                "kmsRequestId": self.request_id(),
                "kmsViaService": partition::service("ebs", &self.region),
            },
            "encryptionAlgorithm": "AES_GCM",
        });
        if let Some(aad) = aad {
            body["additionalAuthenticatedData"] = json!(base64(aad));
        }
        body
    }

    /// Returns a text in the form of a UUID.
    fn request_id(&self) -> String {
        let seed = self.seed;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            seed >> 32,
            seed >> 16 & 0xffff,
            seed >> 4 & 0xfff,
            count >> 48 & 0xfff,
            count & 0xffff_ffff_ffff
        )
    }
}

/// Encodes in standard base64 (RFC 4648, 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// Returns random bytes of the system.
///
/// # Errors
/// The system has no random bytes to give.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    random::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Every call has a different request id, in the form that KMS uses.
    #[test]
    fn request_ids() {
        let caller = Caller::new("us-east-1").unwrap();
        let ids = [caller.request_id(), caller.request_id()];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        }
    }
}

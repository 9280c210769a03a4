//! Signatures on requests, as KMS makes them (XKS specification, Appendix A).

use std::fmt::Write as _;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::observe::redaction::Secret;
use crate::observe::timestamp::civil_from_days;

/// A credential and the scope of its signatures.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Not secret.
    pub access_key_id: String,
    /// Shared with the proxy.
    pub secret_access_key: Secret<String>,
    /// AWS Region
    pub region: String,
    /// `kms-xks-proxy`
    pub service: String,
}

/// The header fields that make a request authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `X-Amz-Date`
    pub date: String,
    /// `Authorization`
    pub authorization: String,
}

impl Signer {
    /// Signs a request without a query, with host and x-amz-date as KMS does over HTTP/1.1. Times
    /// before 1970 count as 1970.
    #[must_use]
    pub fn sign(
        &self,
        method: &str,
        host: &str,
        path: &str,
        body: &[u8],
        time: SystemTime,
    ) -> Signed {
        let (day, date) = amz_date(time);
        let signed_headers = "host;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n\nhost:{host}\nx-amz-date:{date}\n\n{signed_headers}\n{}",
            hex(&Sha256::digest(body))
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(&canonical)));
        let secret =
            Zeroizing::new(format!("AWS4{}", self.secret_access_key.expose()).into_bytes());
        let mut key = mac(&secret, day.as_bytes());
        for part in [&self.region, &self.service, "aws4_request"] {
            key = mac(key.as_slice(), part.as_bytes());
        }
        let signature = hex(mac(key.as_slice(), to_sign.as_bytes()).as_slice());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_headers}, \
             Signature={signature}",
            self.access_key_id
        );
        Signed { date, authorization }
    }
}

fn mac(key: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104, 2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// `YYYYMMDD` and `YYYYMMDDTHHMMSSZ`
fn amz_date(time: SystemTime) -> (String, String) {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil_from_days(i64::try_from(seconds / 86_400).unwrap_or(0));
    let day = format!("{year:04}{month:02}{day:02}");
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let date = format!("{day}T{hour:02}{minute:02}{second:02}Z");
    (day, date)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;

    use super::*;

    /// The AWS signer, an independent implementation, makes the same signature.
    #[test]
    fn as_the_aws_signer_does() {
        let secret = "PleaseReplaceThisWithSomeSecretOfLength43To64";
        let signer = Signer {
            access_key_id: "BETWEEN2TENAND3TENCHARACTERS".to_owned(),
            secret_access_key: Secret::new(secret.to_owned()),
            region: "us-east-1".to_owned(),
            service: "kms-xks-proxy".to_owned(),
        };
        let time = UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        let identity = Credentials::from_keys(signer.access_key_id.clone(), secret, None).into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("kms-xks-proxy")
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = [("host", "xks.example.com:8443")];
        let request = SignableRequest::new(
            "POST",
            "https://xks.example.com:8443/p/kms/xks/v1/health",
            headers.into_iter(),
            SignableBody::Bytes(b"{}"),
        )
        .unwrap();
        let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
        let expected = |wanted: &str| {
            instructions
                .headers()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.to_owned())
        };
        let path = "/p/kms/xks/v1/health";
        let signed = signer.sign("POST", "xks.example.com:8443", path, b"{}", time);
        assert_eq!(expected("x-amz-date"), Some(signed.date));
        assert_eq!(expected("authorization"), Some(signed.authorization));
    }
}

//! AWS Signature Version 4 as KMS signs for a proxy (XKS specification, Appendix A): `host` and
//! `x-amz-date` signed, no query, one HMAC state a day and a date a second.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

/// Credential, and the region and service that it signs for.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `sigv4_access_key_id`
    pub access_key_id: String,
    /// `sigv4_secret_access_key`
    pub secret_access_key: String,
    /// AWS Region
    pub region: String,
    /// `kms-xks-proxy`
    pub service: String,
}

/// Signs POST requests to one host.
pub struct Signer {
    credential: Credential,
    host: String,
    /// The second that what follows is of.
    unix_secs: i64,
    /// YYYYMMDD'T'HHMMSS'Z'
    date_time: [u8; 16],
    /// `YYYYMMDD/region/service/aws4_request`
    scope: String,
    /// Keyed with the day's signing key.
    mac: Hmac<Sha256>,
}

impl Signer {
    /// `host` is the value of the Host header field.
    #[must_use]
    pub fn new(credential: Credential, host: &str) -> Self {
        let mut signer = Self {
            credential,
            host: host.to_owned(),
            unix_secs: i64::MIN,
            date_time: [0; 16],
            scope: String::new(),
            mac: keyed(&[]),
        };
        signer.set_time(0);
        signer
    }

    /// Sets the date of the signatures to come: seconds after 1970.
    pub fn set_time(&mut self, unix_secs: i64) {
        if unix_secs == self.unix_secs {
            return;
        }
        self.unix_secs = unix_secs;
        let now =
            OffsetDateTime::from_unix_timestamp(unix_secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (hour, minute, second) = now.to_hms();
        let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
        let text = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
        let is_new_day = self.date_time[..8] != text.as_bytes()[..8];
        self.date_time.copy_from_slice(&text.as_bytes()[..16]);
        if is_new_day {
            let Credential { secret_access_key, region, service, .. } = &self.credential;
            let date = &text[..8];
            self.scope = format!("{date}/{region}/{service}/aws4_request");
            let mut key = format!("AWS4{secret_access_key}").into_bytes();
            for part in [date, region, service, "aws4_request"] {
                key = keyed(&key).chain_update(part).finalize().into_bytes().to_vec();
            }
            self.mac = keyed(&key);
        }
    }

    /// Appends the header fields Host, X-Amz-Date and Authorization for a POST of `body` to
    /// `path`, which must need no escapes.
    pub fn append_fields(&self, path: &str, body: &[u8], out: &mut Vec<u8>) {
        let host = self.host.as_bytes();
        let canonical = Sha256::new()
            .chain_update(b"POST\n")
            .chain_update(path)
            .chain_update(b"\n\nhost:")
            .chain_update(host)
            .chain_update(b"\nx-amz-date:")
            .chain_update(self.date_time)
            .chain_update(b"\n\nhost;x-amz-date\n")
            .chain_update(hex(&Sha256::digest(body).into()))
            .finalize();
        let signature = self
            .mac
            .clone()
            .chain_update(b"AWS4-HMAC-SHA256\n")
            .chain_update(self.date_time)
            .chain_update(b"\n")
            .chain_update(&self.scope)
            .chain_update(b"\n")
            .chain_update(hex(&canonical.into()))
            .finalize()
            .into_bytes();
        out.extend_from_slice(b"Host: ");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\r\nX-Amz-Date: ");
        out.extend_from_slice(&self.date_time);
        out.extend_from_slice(b"\r\nAuthorization: AWS4-HMAC-SHA256 Credential=");
        out.extend_from_slice(self.credential.access_key_id.as_bytes());
        out.push(b'/');
        out.extend_from_slice(self.scope.as_bytes());
        out.extend_from_slice(b", SignedHeaders=host;x-amz-date, Signature=");
        out.extend_from_slice(&hex(&signature.into()));
        out.extend_from_slice(b"\r\n");
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length (RFC 2104, 2): longer ones are hashed.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

fn hex(digest: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;

    use super::*;

    /// The signer is our own for speed; AWS's decides what is right. Several times of the same
    /// signer, across a day's end and back, so that what it caches cannot go stale.
    #[test]
    fn signs_as_the_aws_signer_does() {
        let credential = Credential {
            access_key_id: "BETAWBLKD3WJWZLLIF3F".into(),
            secret_access_key: "abcdefghijklmnopqrstuvwxyz0123456789/+=ABCDE".into(),
            region: "eu-west-1".into(),
            service: "kms-xks-proxy".into(),
        };
        let path = "/example/uri/path/prefix/kms/xks/v1/keys/a.b_c-1/encrypt";
        let host = "localhost:8443";
        let body = br#"{"requestMetadata":{},"plaintext":"AAAA"}"#;
        let identity = aws_credential_types::Credentials::from_keys(
            credential.access_key_id.clone(),
            credential.secret_access_key.clone(),
            None,
        )
        .into();
        let mut signer = Signer::new(credential, host);
        for unix_secs in [1_767_225_599, 1_767_225_600, 1_709_210_096, 1_709_210_097] {
            let params = v4::SigningParams::builder()
                .identity(&identity)
                .region("eu-west-1")
                .name("kms-xks-proxy")
                .time(UNIX_EPOCH + Duration::from_secs(unix_secs))
                .settings(SigningSettings::default())
                .build()
                .unwrap()
                .into();
            let uri = format!("https://{host}{path}");
            let request = SignableRequest::new(
                "POST",
                &uri,
                [("host", host)].into_iter(),
                SignableBody::Bytes(body),
            )
            .unwrap();
            let (instructions, _) = sign(request, &params).unwrap().into_parts();
            let mut theirs = http::Request::builder().uri(&uri).body(()).unwrap();
            instructions.apply_to_request_http1x(&mut theirs);

            signer.set_time(i64::try_from(unix_secs).unwrap());
            let mut ours = Vec::new();
            signer.append_fields(path, body, &mut ours);
            let expected = format!(
                "Host: {host}\r\nX-Amz-Date: {}\r\nAuthorization: {}\r\n",
                theirs.headers()["x-amz-date"].to_str().unwrap(),
                theirs.headers()["authorization"].to_str().unwrap(),
            );
            assert_eq!(String::from_utf8(ours).unwrap(), expected);
        }
    }
}

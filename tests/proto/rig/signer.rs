//! Requests signed by AWS's own signer (crate `aws-sigv4`), as KMS would send them.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::{ACCESS_KEY_ID, NOON, PREFIX, REGION, SECRET, SERVICE};

/// A request to be signed, with everything that a test may want to change.
#[derive(Clone, Debug)]
pub struct Unsigned {
    pub method: String,
    /// Path and query, as in the request line.
    pub target: String,
    /// Header fields, all of them signed; `Host` is the first.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub access_key_id: String,
    pub secret: String,
    pub region: String,
    pub service: String,
    pub unix_secs: u64,
}

impl Unsigned {
    /// Makes a POST to that path below the store's `/kms/xks/v1/`.
    pub fn call(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST".to_owned(),
            target: format!("{PREFIX}/kms/xks/v1/{path}"),
            headers: vec![
                ("host".to_owned(), "xks.example.com".to_owned()),
                ("content-type".to_owned(), "application/json".to_owned()),
            ],
            body: body.into(),
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret: SECRET.to_owned(),
            region: REGION.to_owned(),
            service: SERVICE.to_owned(),
            unix_secs: NOON,
        }
    }

    /// The header fields that signing adds.
    pub fn signature_fields(&self) -> Vec<(String, String)> {
        let identity =
            Credentials::new(&*self.access_key_id, &*self.secret, None, None, "tests").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(UNIX_EPOCH + Duration::from_secs(self.unix_secs))
            .settings(SigningSettings::default())
            .build()
            .expect("all parameters are there")
            .into();
        let headers = self.headers.iter().map(|(name, value)| (&**name, &**value));
        let uri = format!("https://xks.example.com{}", self.target);
        let request =
            SignableRequest::new(&self.method, uri, headers, SignableBody::Bytes(&self.body))
                .expect("the request can be signed");
        let (instructions, _) = sign(request, &params).expect("the request is signed").into_parts();
        instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The signed request, head and body.
    pub fn signed(&self) -> Vec<u8> {
        let mut fields = self.headers.clone();
        fields.extend(self.signature_fields());
        fields.push(("content-length".to_owned(), self.body.len().to_string()));
        self.with_fields(&fields)
    }

    /// The request with exactly these header fields.
    pub fn with_fields(&self, fields: &[(String, String)]) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The signed request with one additional, unsigned header field and with `wire_body`, the body
    /// in the form in which it is sent; no Content-Length.
    pub fn signed_with(&self, field: (&str, &str), wire_body: &[u8]) -> Vec<u8> {
        let mut fields = self.headers.clone();
        fields.extend(self.signature_fields());
        fields.push((field.0.to_owned(), field.1.to_owned()));
        let mut bytes = self.with_fields(&fields);
        bytes.truncate(bytes.len() - self.body.len());
        bytes.extend_from_slice(wire_body);
        bytes
    }
}

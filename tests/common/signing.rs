//! SigV4 by AWS's own signer.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::Store;

/// Input of a signature besides the request.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Whose credential.
    pub store: Store,
    /// The scope's region.
    pub region: String,
    /// The scope's service.
    pub service: String,
    /// `x-amz-date` and the scope's date.
    pub time: SystemTime,
}

impl Signer {
    /// As KMS signs, now.
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            region: "us-east-1".into(),
            service: "kms-xks-proxy".into(),
            time: SystemTime::now(),
        }
    }

    /// The header fields to add: `x-amz-date` and `authorization`. All of `headers` are signed,
    /// and `host` as it follows from `url`.
    pub fn sign(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Vec<(String, String)> {
        let identity = Credentials::new(
            &self.store.access_key_id,
            &self.store.secret_access_key,
            None,
            None,
            "tests",
        )
        .into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(self.time)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request =
            SignableRequest::new(method, url, headers, SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

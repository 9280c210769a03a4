//! SigV4 by AWS's own signer.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::Store;

/// Input of a signature besides the request.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Credential.
    pub store: Store,
    /// Region of the scope.
    pub region: String,
    /// Service of the scope.
    pub service: String,
    /// Time of `x-amz-date` and of the scope's date.
    pub time: SystemTime,
}

impl Signer {
    /// Returns the input of KMS's signatures at present.
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            region: "us-east-1".into(),
            service: "kms-xks-proxy".into(),
            time: SystemTime::now(),
        }
    }

    /// Returns the header fields to add: `x-amz-date` and `authorization`. All of `headers` are
    /// signed, and `host` as it follows from `url`.
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

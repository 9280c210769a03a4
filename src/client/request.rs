//! The encoding of requests.

use std::fmt::Write as _;

use super::signer::Signed;

/// A request with a body.
#[derive(Clone, Debug)]
pub struct OutgoingRequest<'a> {
    /// `POST` for the four calls.
    pub method: &'a str,
    /// Path, from the first slash.
    pub path: &'a str,
    /// `application/json` for the four calls.
    pub content_type: &'a str,
    /// Signature, if any.
    pub signed: Option<Signed>,
    /// The body.
    pub body: &'a [u8],
}

impl OutgoingRequest<'_> {
    pub(super) fn encode(&self, host: &str) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: xks-proxy/{}\r\nAccept: */*\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\n",
            self.method,
            self.path,
            env!("CARGO_PKG_VERSION"),
            self.content_type,
            self.body.len()
        );
        if let Some(signed) = &self.signed {
            // Writing into a String cannot fail.
            let _ = write!(
                head,
                "X-Amz-Date: {}\r\nAuthorization: {}\r\n",
                signed.date, signed.authorization
            );
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(self.body);
        request
    }
}

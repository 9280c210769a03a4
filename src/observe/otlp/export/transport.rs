//! One request to the collector, and the meaning of its answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use rustls::crypto::aws_lc_rs;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::lookup::Lookup;
use super::messages::{ExportResponse, RpcStatus};
use crate::limits::{MAX_OTLP_ANSWER_BYTES, MAX_OTLP_RETRY_AFTER};
use crate::observe::otlp::config::OtlpConfig;
use crate::observe::otlp::stats::Signal;
use crate::observe::redaction::{Secret, shown, shown_reason};

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All was taken but for this many, for this reason.
    Taken { rejected: u64, message: String },
    /// Nothing was taken, and repeating the request would not help.
    Refused(String),
    /// The request may be repeated, after this time if the collector says so.
    Later(String, Option<Duration>),
}

/// The way to one signal's part of the collector.
pub(super) struct Transport {
    agent: Agent,
    url: String,
    headers: Vec<(String, Secret<String>)>,
    timeout: Duration,
}

impl Transport {
    pub(super) fn new(config: &OtlpConfig, signal: Signal) -> Self {
        let authorities = config.authorities.iter();
        let authorities = authorities.map(|der| Certificate::from_der(der).to_owned());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .root_certs(RootCerts::new_with_certs(&authorities.collect::<Vec<_>>()))
            .build();
        let agent_config = Agent::config_builder()
            .tls_config(tls)
            // An answer of any status says something.
            .http_status_as_error(false)
            // Headers may hold a secret: they go to the endpoint in the settings, or nowhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("xks-proxy/", env!("CARGO_PKG_VERSION")))
            .accept("application/x-protobuf")
            .build();
        let agent =
            Agent::with_parts(agent_config, DefaultConnector::default(), Lookup::of_system());
        Self {
            agent,
            url: format!("{}/v1/{}", config.endpoint, signal.name()),
            headers: config.headers.clone(),
            timeout: config.timeout,
        }
    }

    /// Sends a request, and waits for the answer no longer than `max_wait`.
    pub(super) fn post(&self, body: &[u8], max_wait: Duration) -> Outcome {
        let mut request = self
            .agent
            .post(&self.url)
            .config()
            .timeout_global(Some(self.timeout.min(max_wait)))
            .build()
            .content_type("application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value.expose());
        }
        match request.send(body) {
            Ok(answer) => outcome(answer),
            // The address does not answer, or not in time, or its certificate is not trusted.
            Err(error) => Outcome::Later(shown_reason(&error.to_string()), None),
        }
    }
}

fn outcome(mut answer: Response<Body>) -> Outcome {
    let status = answer.status().as_u16();
    let limited = answer.body_mut().with_config().limit(MAX_OTLP_ANSWER_BYTES);
    // The status counts even if the body cannot be read.
    let body = limited.read_to_vec().unwrap_or_default();
    match status {
        200..300 => taken(&body),
        // As in the table of the OTLP specification ("Retryable Response Codes").
        429 | 502..=504 => {
            let wait = retry_after(answer.headers(), SystemTime::now());
            Outcome::Later(said(status, &body), wait)
        }
        _ => Outcome::Refused(said(status, &body)),
    }
}

fn taken(body: &[u8]) -> Outcome {
    let partial = ExportResponse::decode(body).ok().and_then(|answer| answer.partial_success);
    let partial = partial.unwrap_or_default();
    Outcome::Taken {
        rejected: u64::try_from(partial.rejected).unwrap_or(0),
        message: partial.error_message,
    }
}

fn said(status: u16, body: &[u8]) -> String {
    match RpcStatus::decode(body) {
        Ok(RpcStatus { message }) if !message.is_empty() => {
            format!("{status}: {}", shown(&message))
        }
        _ => format!("HTTP status {status}"),
    }
}

/// Returns the wait that the collector asks for, in seconds or until a time (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(secs) => Duration::from_secs(secs),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_OTLP_RETRY_AFTER))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn waits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, wait) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("86400", Some(MAX_OTLP_RETRY_AFTER.as_secs())),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), wait.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    /// An empty answer is a full success, and so is one that is not protobuf: the status counts.
    #[test]
    fn partial_success() {
        let partial = ExportResponse {
            partial_success: Some(super::super::messages::PartialSuccess {
                rejected: 3,
                error_message: "no".to_owned(),
            }),
        };
        let some = Outcome::Taken { rejected: 3, message: "no".to_owned() };
        assert_eq!(taken(&partial.encode_to_vec()), some);
        let none = Outcome::Taken { rejected: 0, message: String::new() };
        assert_eq!(taken(b""), none);
        assert_eq!(taken(b"{}"), none);
        assert_eq!(
            said(400, &RpcStatus { message: "b\nd".to_owned() }.encode_to_vec()),
            "400: b\\nd"
        );
        assert_eq!(said(400, b"<html>"), "HTTP status 400");
    }
}

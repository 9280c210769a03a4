//! Calls on one persistent connection, with observations about every answer.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::answers::{self, Reply};
use super::options::Options;
use crate::client::{self, Answer, Client, OutgoingRequest, Signed};
use crate::limits::{KMS_TIMEOUT_MILLI, PROBE_CALL_TIMEOUT};
use crate::observe::metrics::histogram::Snapshot;

/// A proxy and the options to probe it with.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Options.
    pub options: &'a Options,
    /// Addresses of the proxy.
    pub addresses: Vec<SocketAddr>,
}

impl Target<'_> {
    /// Opens a connection.
    ///
    /// # Errors
    /// The network or TLS fails.
    pub fn connect(&self) -> io::Result<Client> {
        let started = Instant::now();
        let socket = client::connect(&self.addresses, PROBE_CALL_TIMEOUT)?;
        let Options { endpoint, trust, .. } = self.options;
        Client::over(socket, endpoint, trust, started, PROBE_CALL_TIMEOUT).1
    }
}

/// A caller of the proxy, with a connection that is opened when needed.
pub struct Prober<'a> {
    /// Options.
    pub options: &'a Options,
    /// The proxy.
    pub target: Target<'a>,
    client: Option<Client>,
    /// Time after which no more calls are made.
    pub deadline: Option<Instant>,
    /// Observations about all answers.
    pub observed: Observed,
}

/// Observations about all answers to POST. The lists hold the first few.
#[derive(Debug, Default)]
pub struct Observed {
    /// Number of answers.
    pub answers: usize,
    /// Number of errors among them.
    pub errors: usize,
    /// Errors whose body does not have the specified form.
    pub malformed_errors: Vec<String>,
    /// Answers without the content type of JSON.
    pub content_types: Vec<String>,
    /// Answers of HTTP/1.0.
    pub old_versions: Vec<String>,
    /// Answers after which the connection ended, announced or not.
    pub closes: Vec<String>,
    /// Answers that arrived after KMS's timeout.
    pub late: Vec<String>,
    /// Number of calls without an answer.
    pub unanswered: u64,
    /// Durations of the answered calls, by call.
    pub durations: BTreeMap<&'static str, Snapshot>,
    /// The largest difference between the Date field and our clock.
    pub clock: Option<Duration>,
}

/// Largest number of entries in a list.
const MAX_LISTED: usize = 5;

impl<'a> Prober<'a> {
    /// Returns a prober of `target`, not yet connected.
    pub fn new(target: Target<'a>) -> Self {
        Self {
            options: target.options,
            target,
            client: None,
            deadline: None,
            observed: Observed::default(),
        }
    }

    /// POSTs JSON as KMS does, to a call such as `/health`.
    pub fn post(&mut self, call: &str, body: &Value) -> Reply {
        self.post_text(call, &body.to_string())
    }

    /// POSTs this text, signed.
    pub fn post_text(&mut self, call: &str, body: &str) -> Reply {
        let signed = self.sign(call, body);
        self.deliver("POST", call, Some(signed), body)
    }

    /// Returns a valid signature for a POST.
    #[must_use]
    pub fn sign(&self, call: &str, body: &str) -> Signed {
        self.sign_at(call, body, SystemTime::now())
    }

    /// Returns the signature for a POST at `time`.
    #[must_use]
    pub fn sign_at(&self, call: &str, body: &str, time: SystemTime) -> Signed {
        let endpoint = &self.options.endpoint;
        let (host, path) = (endpoint.host_header(), endpoint.path(call));
        self.options.signer.sign("POST", &host, &path, body.as_bytes(), time)
    }

    /// Sends a request to a call, with this signature or none.
    pub fn deliver(
        &mut self,
        method: &str,
        call: &str,
        signed: Option<Signed>,
        body: &str,
    ) -> Reply {
        let path = self.options.endpoint.path(call);
        self.deliver_to(method, &path, signed, body)
    }

    /// Sends a request to any path, with this signature or none.
    pub fn deliver_to(
        &mut self,
        method: &str,
        path: &str,
        signed: Option<Signed>,
        body: &str,
    ) -> Reply {
        let content_type = "application/json";
        let request = OutgoingRequest { method, path, content_type, signed, body: body.as_bytes() };
        let answer = match self.send(&request) {
            Ok(answer) => answer,
            Err(error) => {
                self.observed.unanswered += 1;
                return Err(error.into());
            }
        };
        if method == "POST" {
            self.observed.note(path, &answer);
        }
        Ok(answer)
    }

    fn send(&mut self, request: &OutgoingRequest<'_>) -> io::Result<Answer> {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let why = "timed out: the round took too long";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        if let Some(mut kept) = self.client.take() {
            match kept.send(request) {
                Ok(answer) => {
                    self.keep(kept);
                    return Ok(answer);
                }
                // The peer may end an idle connection at any time (RFC 9112, 9.3.1).
                Err(error) if is_end(&error) => {
                    note(&mut self.observed.closes, || "silently, before a call".to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        let mut fresh = self.target.connect()?;
        let answer = fresh.send(request)?;
        self.keep(fresh);
        Ok(answer)
    }

    fn keep(&mut self, client: Client) {
        self.client = (!client.is_over()).then_some(client);
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

impl Observed {
    /// Adds a duration.
    pub fn time(&mut self, call: &'static str, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.durations.entry(call).or_default().record(micros);
    }

    fn note(&mut self, path: &str, answer: &Answer) {
        self.answers += 1;
        let call = path.rsplit('/').next().unwrap_or_default();
        let known = ["health", "metadata", "encrypt", "decrypt"].into_iter().find(|it| *it == call);
        self.time(known.unwrap_or("other"), answer.time);
        let what = || format!("{call}: {}", answers::came(answer));
        let content_type = answer.header("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            note(&mut self.content_types, || format!("\"{content_type}\" at {}", what()));
        }
        if answer.status != 200 {
            self.errors += 1;
            if let Err(why) = answers::error_form(answer) {
                note(&mut self.malformed_errors, || format!("{why} at {}", what()));
            }
        }
        if answer.minor_version == 0 {
            note(&mut self.old_versions, what);
        }
        if answer.is_last() {
            note(&mut self.closes, what);
        }
        if answer.time > Duration::from_millis(KMS_TIMEOUT_MILLI) {
            note(&mut self.late, || format!("{} ms for {}", answer.time.as_millis(), what()));
        }
        if let Some(difference) = answer.header("date").and_then(answers::clock_difference) {
            self.clock = self.clock.max(Some(difference));
        }
    }
}

fn note(list: &mut Vec<String>, what: impl FnOnce() -> String) {
    if list.len() < MAX_LISTED {
        list.push(what());
    }
}

//! A blocking HTTP/1.1 client of a proxy: one connection, one call at a time.

mod answer;
pub mod bodies;
mod endpoint;
mod request;
pub mod signer;
mod socket;
mod tls;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

pub use self::answer::{Answer, UnusableAnswer};
pub use self::endpoint::Endpoint;
pub use self::request::OutgoingRequest;
pub use self::signer::{Signed, Signer};
use self::socket::{Limited, Stream};
pub use self::socket::{connect, resolve};
pub use self::tls::{Anchor, Handshake, SpecSuite, TlsVersion, Trust, wants_certificate};
use crate::limits::MAX_CLIENT_ANSWER_BYTES;

/// An open connection.
pub struct Client {
    stream: Box<dyn Stream>,
    endpoint: Endpoint,
    timeout: Duration,
    is_over: bool,
    /// Upper bound of an answer; a longer one is an error.
    pub max_answer_bytes: usize,
    /// Outcome of the TLS handshake, if TLS is used.
    pub handshake: Option<Handshake>,
    /// Duration of connecting, including the handshake.
    pub connect_time: Duration,
}

impl Client {
    /// Connects, allowing `timeout` for it and for each call afterwards.
    ///
    /// # Errors
    /// The network or TLS fails.
    pub fn connect(endpoint: &Endpoint, trust: &Trust, timeout: Duration) -> io::Result<Self> {
        let started = Instant::now();
        let socket = connect(&resolve(endpoint)?, timeout)?;
        Self::over(socket, endpoint, trust, started, timeout).1
    }

    /// Builds a client on a connected socket. The outcome of the handshake is returned even after
    /// an error. Time counts from `started`.
    pub fn over(
        socket: TcpStream,
        endpoint: &Endpoint,
        trust: &Trust,
        started: Instant,
        timeout: Duration,
    ) -> (Option<Handshake>, io::Result<Self>) {
        let made = |stream, handshake: Option<Handshake>| Self {
            stream,
            endpoint: endpoint.clone(),
            timeout,
            is_over: false,
            max_answer_bytes: MAX_CLIENT_ANSWER_BYTES,
            handshake,
            connect_time: started.elapsed(),
        };
        let deadline = started + timeout;
        if !endpoint.is_https {
            return (None, Ok(made(Box::new(Limited::new(socket, deadline)), None)));
        }
        let (handshake, stream) = tls::connect(socket, endpoint.host_name(), trust, deadline);
        let client = stream.map(|stream| made(Box::new(stream), handshake.clone()));
        (handshake, client)
    }

    /// POSTs JSON to a call such as `/health`, signed if there is a signer.
    ///
    /// # Errors
    /// The network fails, or the answer is not HTTP.
    pub fn call(&mut self, signer: Option<&Signer>, call: &str, body: &str) -> io::Result<Answer> {
        let path = self.endpoint.path(call);
        let host = self.endpoint.host_header();
        let body = body.as_bytes();
        let signed =
            signer.map(|signer| signer.sign("POST", &host, &path, body, SystemTime::now()));
        let content_type = "application/json";
        self.send(&OutgoingRequest { method: "POST", path: &path, content_type, signed, body })
    }

    /// GETs `path`, as the last request on this connection.
    ///
    /// # Errors
    /// The network fails, or the answer is not HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let host = self.endpoint.host_header();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.exchange(request.as_bytes())
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The network fails, or the answer is not HTTP.
    pub fn send(&mut self, request: &OutgoingRequest<'_>) -> io::Result<Answer> {
        let bytes = request.encode(&self.endpoint.host_header());
        self.exchange(&bytes)
    }

    /// Sends the bytes of a complete request and reads the answer. After an error the connection is
    /// unusable.
    ///
    /// # Errors
    /// The network fails, or the answer is not HTTP.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let started = Instant::now();
        self.is_over = true;
        self.stream.set_deadline(started + self.timeout);
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let mut received = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        loop {
            let count = self.read(&mut piece)?;
            received.extend_from_slice(&piece[..count]);
            if received.len() > self.max_answer_bytes {
                return Err(UnusableAnswer::error("the answer is too large"));
            }
            let Some((mut answer, taken)) = Answer::parse(&received, count == 0)? else { continue };
            answer.time = started.elapsed();
            if taken < received.len() {
                return Err(UnusableAnswer::error("more bytes came than the answer has"));
            }
            self.is_over = answer.is_last() || count == 0;
            return Ok(answer);
        }
    }

    /// Returns whether the connection accepts no further call.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Reads a piece. If the peer ends TLS without close_notify, that counts as the end of the
    /// input.
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

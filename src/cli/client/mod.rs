//! A blocking HTTPS client for trying a proxy out: one connection, one call at a time.

pub mod signer;
mod tls;

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant, SystemTime};

pub use self::signer::Signer;
pub use self::tls::Trust;
use crate::limits::MAX_CLIENT_ANSWER_BYTES;

/// Where a proxy is: `http[s]://host[:port][/prefix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether to speak TLS.
    pub is_https: bool,
    /// A name or an address, IPv6 in brackets.
    pub host: String,
    /// By default 443 or 80.
    pub port: u16,
    /// The store's path prefix; may be empty.
    pub prefix: String,
}

impl Endpoint {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(format!("{text}: begins with neither https:// nor http://")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| format!("{text}: {port} is no port"))?;
                (host, port)
            }
            _ => (authority, if is_https { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(format!("{text}: there is no host"));
        }
        let prefix = path.trim_end_matches('/');
        let prefix = prefix.strip_suffix("/kms/xks/v1").unwrap_or(prefix);
        Ok(Self { is_https, host: host.to_owned(), port, prefix: prefix.to_owned() })
    }

    /// The Host header field: the port only where it is not the scheme's own.
    #[must_use]
    pub fn host_header(&self) -> String {
        let default = if self.is_https { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// An open connection.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    endpoint: Endpoint,
    /// What was agreed on, for instance "TLSv1_3, TLS13_AES_256_GCM_SHA384".
    pub tls: Option<String>,
    /// How long connecting and shaking hands took.
    pub connect_time: Duration,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// From the request's first byte to the answer's last.
    pub time: Duration,
}

impl Client {
    /// Connects, allowing `timeout` for it and for each read and write afterwards.
    ///
    /// # Errors
    /// What the network or TLS says.
    pub fn connect(endpoint: &Endpoint, trust: &Trust, timeout: Duration) -> io::Result<Self> {
        let started = Instant::now();
        let name = endpoint.host.trim_matches(['[', ']']);
        let address = (name, endpoint.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other(format!("{name} has no address")))?;
        let tcp = TcpStream::connect_timeout(&address, timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(timeout))?;
        tcp.set_write_timeout(Some(timeout))?;
        let (stream, tls): (Box<dyn Stream>, _) = if endpoint.is_https {
            let (stream, tls) = tls::connect(tcp, name, trust)?;
            (Box::new(stream), Some(tls))
        } else {
            (Box::new(tcp), None)
        };
        Ok(Self {
            stream: BufReader::new(stream),
            endpoint: endpoint.clone(),
            tls,
            connect_time: started.elapsed(),
        })
    }

    /// POSTs JSON, signed if there is a signer; `path` follows the prefix and `/kms/xks/v1`.
    ///
    /// # Errors
    /// What the network says, or that the answer is no HTTP.
    pub fn call(&mut self, signer: Option<&Signer>, path: &str, body: &str) -> io::Result<Answer> {
        let host = self.endpoint.host_header();
        let path = format!("{}/kms/xks/v1{path}", self.endpoint.prefix);
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n",
            body.len()
        );
        if let Some(signer) = signer {
            let signed = signer.sign(&host, &path, body.as_bytes(), SystemTime::now());
            request.push_str(&format!(
                "X-Amz-Date: {}\r\nAuthorization: {}\r\n",
                signed.date, signed.authorization
            ));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.exchange(request.as_bytes())
    }

    /// Sends a whole request and reads its answer.
    ///
    /// # Errors
    /// What the network says, or that the answer is no HTTP.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let started = Instant::now();
        let stream = self.stream.get_mut();
        stream.write_all(request)?;
        stream.flush()?;
        let mut received = Vec::new();
        loop {
            if let Some(mut answer) = parse(&received)? {
                answer.time = started.elapsed();
                return Ok(answer);
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&piece[..count]);
            if received.len() > MAX_CLIENT_ANSWER_BYTES {
                return Err(io::Error::other("the answer is too large"));
            }
        }
    }
}

/// A whole answer, delimited by its Content-Length; `None` means that more is needed.
fn parse(received: &[u8]) -> io::Result<Option<Answer>> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut slots);
    let head = match response.parse(received) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::other(format!("the answer is no HTTP: {error}"))),
    };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|field| {
            let value = String::from_utf8_lossy(field.value).trim().to_owned();
            (field.name.to_ascii_lowercase(), value)
        })
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse::<usize>().ok())
        .ok_or_else(|| io::Error::other("the answer has no Content-Length"))?;
    let Some(body) = received.get(head..head.saturating_add(length)) else {
        return Ok(None);
    };
    Ok(Some(Answer {
        status: response.code.unwrap_or(0),
        headers,
        body: body.to_vec(),
        time: Duration::ZERO,
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What an administrator may paste, the console's path included.
    #[test]
    fn endpoints() {
        let endpoint = Endpoint::parse("https://xks.example.com/p/kms/xks/v1").unwrap();
        assert_eq!((endpoint.port, endpoint.prefix.as_str()), (443, "/p"));
        assert_eq!(endpoint.host_header(), "xks.example.com");
        let endpoint = Endpoint::parse("http://[::1]:8080/").unwrap();
        assert_eq!((endpoint.host_header().as_str(), endpoint.prefix.as_str()), ("[::1]:8080", ""));
        for wrong in ["xks.example.com", "ftp://a", "https://", "https://a:x"] {
            assert!(Endpoint::parse(wrong).unwrap_err().contains(wrong));
        }
    }

    /// An answer is whole when its body is.
    #[test]
    fn answers() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}";
        for end in 0..wire.len() {
            assert!(parse(&wire[..end]).unwrap().is_none());
        }
        let answer = parse(wire).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
        assert!(parse(b"SSH-2.0\r\n").is_err());
    }
}

//! A minimal blocking HTTP/1.1 client, in which tests control every byte sent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

/// Upper bound of the time that the proxy takes to answer in a test.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, by its Content-Length.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the value of a header field that occurs once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(field, _)| field == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {self:?}");
        value
    }

    /// The body.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that the status is 200, and returns the body.
    #[track_caller]
    pub fn ok(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Asserts that this is the specification's error `name` with `status`, and that its body has
    /// the specification's form.
    #[track_caller]
    pub fn assert_error(&self, status: u16, name: &str) {
        let body = self.json();
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]);
        assert_eq!((self.status, body["errorName"].as_str()), (status, Some(name)), "{text}");
        for (member, value) in body.as_object().expect("an object") {
            match member.as_str() {
                "errorName" => {}
                "errorMessage" => {
                    let message = value.as_str().expect("a string");
                    let is_printable = message.bytes().all(|b| (0x20..=0x7e).contains(&b));
                    assert!(is_printable && message.len() < 512, "{text}");
                }
                _ => panic!("{member} is in no error: {text}"),
            }
        }
    }
}

trait Stream: Read + Write {
    fn tls(&self) -> Option<&ClientConnection>;
    fn end_sending(&mut self) -> io::Result<()>;
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tls(&self) -> Option<&ClientConnection> {
        None
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn tls(&self) -> Option<&ClientConnection> {
        Some(&self.conn)
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.shutdown(Shutdown::Write)
    }

    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

/// An open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes read that are not part of an answer yet.
    received: Vec<u8>,
}

impl Connection {
    /// Opens a connection. With `tls`, the handshake is complete when this returns. (In TLS 1.3 the
    /// first answer shows whether the server accepts a client certificate.)
    pub fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, TIMEOUT)?, tls)
    }

    /// Opens a connection from a given loopback address.
    pub fn open_from(source: [u8; 4], address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        Self::over(socket.into(), None)
    }

    /// Opens a connection with a small receive buffer in the kernel.
    pub fn open_small(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        Self::over(socket.into(), tls)
    }

    /// Uses a connected socket, on which bytes may have been exchanged already.
    pub fn over(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(config) => {
                let name = "localhost".try_into().unwrap();
                let connection =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(connection, socket);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Box::new(stream)
            }
        };
        Ok(Self { stream, received: Vec::new() })
    }

    /// Returns its TLS session.
    pub fn tls(&self) -> &ClientConnection {
        self.stream.tls().expect("a TLS connection")
    }

    /// Bounds the time that [`Self::send`] waits for a peer that does not read.
    pub fn set_write_timeout(&self, timeout: Duration) {
        self.stream.socket().set_write_timeout(Some(timeout)).unwrap();
    }

    /// Sends bytes unchanged.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Shuts down the sending side and keeps receiving.
    pub fn end_sending(&mut self) -> io::Result<()> {
        self.stream.end_sending()
    }

    /// Sends a request with Host and Content-Length.
    pub fn send_request(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            write!(bytes, "{name}: {value}\r\n")?;
        }
        write!(bytes, "content-length: {}\r\n\r\n", body.len())?;
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    /// Receives the next answer.
    pub fn receive(&mut self) -> io::Result<Response> {
        self.receive_after("POST")
    }

    /// Receives the next answer, to a request with `method`. An answer to HEAD has no body.
    pub fn receive_after(&mut self, method: &str) -> io::Result<Response> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(&self.received).map_err(io::Error::other)? {
                httparse::Status::Partial => self.read_more()?,
                httparse::Status::Complete(head_length) => {
                    let headers: Vec<_> = head
                        .headers
                        .iter()
                        .map(|field| {
                            let value = String::from_utf8_lossy(field.value).into_owned();
                            (field.name.to_ascii_lowercase(), value)
                        })
                        .collect();
                    let status = head.code.unwrap_or(0);
                    let length = headers
                        .iter()
                        .find(|(name, _)| name == "content-length")
                        .map_or(Ok(0), |(_, value)| value.parse())
                        .map_err(io::Error::other)?;
                    let length = if method == "HEAD" || status == 100 { 0 } else { length };
                    while self.received.len() < head_length + length {
                        self.read_more()?;
                    }
                    let rest = self.received.split_off(head_length + length);
                    let body = std::mem::replace(&mut self.received, rest).split_off(head_length);
                    return Ok(Response { status, headers, body });
                }
            }
        }
    }

    /// Returns whether the peer closes the connection now without sending anything more.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        if !self.received.is_empty() {
            return Ok(false);
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => Ok(false),
            // Without close_notify, or by a reset if bytes were left unread.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}

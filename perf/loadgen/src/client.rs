//! A simple blocking client for calls that are not measured, made one at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use crate::response;
use crate::target::Target;

const TIMEOUT: Duration = Duration::from_secs(10);

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// One connection, opened when needed.
pub struct Client {
    target: Arc<Target>,
    stream: Option<Box<dyn ReadWrite>>,
}

impl Client {
    /// Makes a client that is not yet connected.
    #[must_use]
    pub fn new(target: &Arc<Target>) -> Self {
        Self { target: Arc::clone(target), stream: None }
    }

    /// Sends a request and returns status and body of the answer.
    ///
    /// # Errors
    /// Error of the connection, after a second attempt on a new one, or of an answer that is not
    /// HTTP.
    pub fn call(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let was_open = self.stream.is_some();
        match self.try_call(request) {
            // The server may have closed a connection that was idle for a long time.
            Err(_) if was_open => self.try_call(request),
            result => result,
        }
    }

    fn try_call(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        stream.write_all(request)?;
        stream.flush()?;
        let mut received = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let bytes = stream.read(&mut chunk)?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&chunk[..bytes]);
            let malformed = |_| io::Error::other("the answer is not HTTP with a Content-Length");
            if let Some(answer) = response::parse(&received).map_err(malformed)? {
                if !answer.close {
                    self.stream = Some(stream);
                }
                return Ok((answer.status, answer.body.to_vec()));
            }
        }
    }

    fn open(&self) -> io::Result<Box<dyn ReadWrite>> {
        let socket = TcpStream::connect_timeout(&self.target.address, TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        Ok(match &self.target.tls {
            None => Box::new(socket),
            Some(tls) => {
                let config = Arc::clone(&tls.config);
                let session = ClientConnection::new(config, tls.server_name.clone())
                    .map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, socket))
            }
        })
    }
}

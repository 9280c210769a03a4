//! A non-blocking connection, plain or TLS, with at most one request under way.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;

use crate::response::MAX_ANSWER_BYTES;
use crate::target::Target;

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No socket.
    Closed,
    /// TCP or TLS handshake under way.
    Opening,
    /// Open, nothing under way.
    Idle,
    /// A request was sent.
    Busy,
}

/// See the module.
pub struct Connection {
    /// Set by the event loop; [`Connection::open`] and [`Connection::close`] reset it.
    pub state: State,
    /// The request: unchanged until the next one, so that its answer can be checked.
    pub request: Vec<u8>,
    /// Bytes received so far, decrypted.
    pub received: Vec<u8>,
    socket: Option<TcpStream>,
    session: Option<Box<ClientConnection>>,
    /// Of `request`, what the socket took (plain only; TLS holds its own records).
    written: usize,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            state: State::Closed,
            request: Vec::new(),
            received: Vec::new(),
            socket: None,
            session: None,
            written: 0,
        }
    }
}

impl Connection {
    /// Begins to connect.
    ///
    /// # Errors
    /// Of `socket`, `connect`, `epoll_ctl` or rustls.
    pub fn open(&mut self, target: &Target, registry: &Registry, token: Token) -> io::Result<()> {
        let mut socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Some(socket);
        self.session = match &target.tls {
            None => None,
            Some(tls) => Some(Box::new(
                ClientConnection::new(tls.config.clone(), tls.server_name.clone())
                    .map_err(io::Error::other)?,
            )),
        };
        self.state = State::Opening;
        Ok(())
    }

    /// Lets the socket go.
    pub fn close(&mut self) {
        // Closing the descriptor takes it off the epoll set.
        self.socket = None;
        self.session = None;
        self.state = State::Closed;
        self.received.clear();
        self.request.clear();
        self.written = 0;
    }

    /// While [`State::Opening`]: whether the handshakes are done, TCP's and TLS's.
    ///
    /// # Errors
    /// The connection could not be made.
    pub fn is_open(&mut self) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        self.flush()?;
        let in_handshake =
            |session: &ClientConnection| session.is_handshaking() || session.wants_write();
        Ok(!self.session.as_deref().is_some_and(in_handshake))
    }

    /// Sends [`Self::request`], as much of it as the socket takes now.
    ///
    /// # Errors
    /// Of the socket or rustls.
    pub fn send(&mut self) -> io::Result<()> {
        self.state = State::Busy;
        self.received.clear();
        self.written = 0;
        if let Some(session) = &mut self.session {
            session.writer().write_all(&self.request)?;
            self.written = self.request.len();
        }
        self.flush()
    }

    /// Writes what is left to write.
    ///
    /// # Errors
    /// Of the socket or rustls.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        loop {
            let result = match &mut self.session {
                Some(session) if session.wants_write() => session.write_tls(socket),
                None if self.written < self.request.len() => {
                    socket.write(&self.request[self.written..])
                }
                _ => return Ok(()),
            };
            match result {
                Ok(bytes) if self.session.is_none() => self.written += bytes,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what there is into [`Self::received`], by way of `scratch`. False at the stream's
    /// end. `is_read_closed` is what the event said: then reading goes on to the end.
    ///
    /// # Errors
    /// Of the socket or rustls, or the answer is too large.
    pub fn receive(&mut self, scratch: &mut [u8], is_read_closed: bool) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(true) };
        loop {
            let bytes = match socket.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match &mut self.session {
                None => self.received.extend_from_slice(&scratch[..bytes]),
                Some(session) => decrypt(session, &scratch[..bytes], &mut self.received)?,
            }
            if self.received.len() > MAX_ANSWER_BYTES {
                return Err(io::Error::other("the answer is too large"));
            }
            // A short read has emptied the socket; what comes later is a new event (epoll(7)).
            if bytes < scratch.len() && !is_read_closed {
                return Ok(true);
            }
        }
    }
}

fn decrypt(
    session: &mut ClientConnection,
    mut records: &[u8],
    plaintext: &mut Vec<u8>,
) -> io::Result<()> {
    while !records.is_empty() {
        session.read_tls(&mut records)?;
        let state = session.process_new_packets().map_err(io::Error::other)?;
        let start = plaintext.len();
        plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
        session.reader().read_exact(&mut plaintext[start..])?;
    }
    Ok(())
}

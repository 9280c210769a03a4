//! A non-blocking socket of the admin listener, with or without TLS.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use super::tls::TlsStream;

/// A connected socket. Operations that would block fail with [`ErrorKind::WouldBlock`].
pub(super) enum Stream {
    /// Without TLS.
    Plain(PlainStream),
    /// With TLS; the handshake happens while reading.
    Tls(Box<TlsStream>),
}

/// A socket without TLS.
pub(super) struct PlainStream {
    socket: TcpStream,
    has_received: bool,
}

impl Stream {
    /// Uses the socket without TLS.
    pub(super) fn plain(socket: TcpStream) -> Self {
        Self::Plain(PlainStream { socket, has_received: false })
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => &stream.socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Returns whether the peer has sent anything.
    pub(super) fn has_received(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_received,
            Self::Tls(stream) => stream.has_received(),
        }
    }

    /// Returns whether bytes of the handshake wait for room in the socket.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.wants_write(),
        }
    }

    /// Reads what the peer has sent; 0 bytes at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => {
                let count = stream.socket.read(buffer)?;
                stream.has_received |= count > 0;
                Ok(count)
            }
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    /// Writes some of the bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Sends what is still to be sent, and ends this side of the connection. To be repeated if it
    /// would have blocked.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            stream.finish()?;
        }
        self.shut_down()
    }

    /// Ends this side of the connection, so that the peer reads to the end of what was sent.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// Drops up to `left` bytes that the peer has sent, and returns how many more may follow; `None`
    /// at the end.
    pub(super) fn drop_input(&mut self, mut left: usize) -> io::Result<Option<usize>> {
        let mut bytes = [0; 1024];
        loop {
            match self.socket().read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) if count >= left => return Ok(None),
                Ok(count) => left -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(left)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

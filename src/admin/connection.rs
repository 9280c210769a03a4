//! One connection to the admin listener: a request, its answer, the end. It never blocks.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::PollFlags;

use super::http::{Answer, Parsed, RequestHead, parse};
use super::stream::Stream;
use super::tls::Acceptor;
use crate::limits::{ADMIN_FIRST_BYTE_TIMEOUT, ADMIN_REQUEST_TIMEOUT, MAX_HEAD_BYTES};

enum Phase {
    /// The request's head is arriving.
    Receiving { head: Vec<u8> },
    /// The answer is being sent.
    Sending { answer: Vec<u8>, sent: usize },
    /// All has been sent. Input is read and dropped until the peer closes its side, up to `left`
    /// bytes: with unread bytes left, the kernel would reset the connection before the peer has
    /// read the answer (RFC 9112, 9.6).
    Ending { left: usize },
}

/// A connection for a single request.
pub(super) struct Connection {
    stream: Stream,
    accepted: Instant,
    phase: Phase,
}

impl Connection {
    /// Makes the state of an accepted connection.
    pub(super) fn new(socket: TcpStream, tls: Option<&Acceptor>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::plain(socket),
            Some(acceptor) => Stream::Tls(Box::new(acceptor.accept(socket)?)),
        };
        let phase = Phase::Receiving { head: Vec::new() };
        Ok(Self { stream, accepted: Instant::now(), phase })
    }

    /// Returns whether its request is not complete yet.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Receiving { .. })
    }

    /// Returns whether it holds an answer that the peer has not taken yet.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Sending { .. })
    }

    /// Time at which it ends, whatever it has been doing.
    pub(super) fn deadline(&self) -> Instant {
        let is_silent = self.is_receiving() && !self.stream.has_received();
        let limit = if is_silent { ADMIN_FIRST_BYTE_TIMEOUT } else { ADMIN_REQUEST_TIMEOUT };
        self.accepted + limit
    }

    /// The events that it waits for.
    pub(super) fn interest(&self) -> PollFlags {
        match self.phase {
            Phase::Sending { .. } => PollFlags::OUT,
            Phase::Receiving { .. } if self.stream.wants_write() => PollFlags::OUT,
            Phase::Receiving { .. } | Phase::Ending { .. } => PollFlags::IN,
        }
    }

    /// Continues as far as the socket allows, and returns whether the connection stays open.
    pub(super) fn advance(&mut self, answer: impl Fn(&RequestHead) -> Answer) -> bool {
        loop {
            let step = match &mut self.phase {
                Phase::Receiving { head } => {
                    receive(&mut self.stream, head).map(|parsed| match parsed {
                        Parsed::Whole(request) => Some(sending(&answer(&request))),
                        Parsed::Invalid => Some(sending(&refusal(400, "this is not HTTP/1.1\n"))),
                        Parsed::Partial if head.len() < MAX_HEAD_BYTES => None,
                        Parsed::Partial => {
                            Some(sending(&refusal(431, "the request head is too large\n")))
                        }
                    })
                }
                Phase::Sending { answer, sent } => send(&mut self.stream, answer, sent)
                    .map(|is_sent| is_sent.then_some(Phase::Ending { left: MAX_HEAD_BYTES })),
                Phase::Ending { left } => match self.stream.drop_input(*left) {
                    Ok(Some(rest)) => {
                        *left = rest;
                        return true;
                    }
                    // Errors are caused by the peer and not logged.
                    Ok(None) | Err(_) => return false,
                },
            };
            match step {
                Ok(Some(phase)) => self.phase = phase,
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return false,
                // The peer should be able to read the alert, if there is one.
                Err(_) if self.is_receiving() && self.stream.shut_down().is_ok() => {
                    self.phase = Phase::Ending { left: MAX_HEAD_BYTES };
                }
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads once, and parses what has arrived so far.
fn receive(stream: &mut Stream, head: &mut Vec<u8>) -> io::Result<Parsed> {
    let mut bytes = [0; MAX_HEAD_BYTES];
    let room = bytes.get_mut(head.len()..).unwrap_or_default();
    let count = stream.read(room)?;
    if count == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    head.extend_from_slice(room.get(..count).unwrap_or_default());
    Ok(parse(head))
}

/// Writes once, or ends this side once all is written; returns whether it has ended.
fn send(stream: &mut Stream, answer: &[u8], sent: &mut usize) -> io::Result<bool> {
    let rest = answer.get(*sent..).unwrap_or_default();
    if rest.is_empty() {
        return stream.finish().map(|()| true);
    }
    match stream.write(rest)? {
        0 => Err(ErrorKind::WriteZero.into()),
        count => {
            *sent += count;
            Ok(false)
        }
    }
}

fn sending(answer: &Answer) -> Phase {
    Phase::Sending { answer: answer.bytes(), sent: 0 }
}

fn refusal(status: u16, text: &str) -> Answer {
    Answer::text(status, text)
}

//! The socket between two processes of which one takes the audit log over from the other.
//!
//! ```text
//!  the process that has the log                the process that takes over
//!  ◄──────────────────────────────────────────  asks for the log, naming its state file
//!  writes the lines it has, and an event;
//!  saves the state and releases its lock  ───►  "released": resumes the chain
//!  further lines, as they come  ─────────────►  chains and writes them with its own
//!  "end"  ───────────────────────────────────►
//! ```
//!
//! One process has the chain at a time, the one that holds the lock on its state file. A message is
//! a unit (unix(7), SOCK_SEQPACKET) and holds whole lines. If the receiver ends, the sender takes
//! the log back. If the sender ends without "end", the receiver records that lines may be missing.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::limits::AUDIT_HANDOVER_MESSAGE_BYTES;

const ASK: &[u8] = b"audit log ";
const RELEASED: &[u8] = b"released";
const END: &[u8] = b"end";
/// First byte of a line in the queue, whose number is not known yet.
const LINE: u8 = b',';

/// The identity of a log: device and inode of its state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogId(u64, u64);

impl LogId {
    /// Returns the identity of the log with this state file.
    ///
    /// # Errors
    /// The file is missing, or its directory cannot be searched.
    pub(super) fn of(state_file: &Path) -> io::Result<Self> {
        fs::metadata(state_file).map(|metadata| Self::of_metadata(&metadata))
    }

    /// Returns the identity of the log whose state file has this metadata.
    pub(super) fn of_metadata(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    fn text(self) -> String {
        format!("{}:{}", self.0, self.1)
    }
}

/// A message from the other process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It asks for the log with that identity, or another one.
    Ask { is_same_log: bool },
    /// It has released the log.
    Released,
    /// So many bytes of whole lines, at the beginning of the buffer.
    Lines(usize),
    /// There are no more lines.
    End,
    /// It has ended, or closed the socket.
    Closed,
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Returns whether the other process has ended or closed its end.
    pub(super) fn is_closed(&self) -> bool {
        // POLLHUP and POLLERR are reported without having been asked for.
        self.is_ready(PollFlags::empty(), Duration::ZERO)
    }

    fn is_ready(&self, flags: PollFlags, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.0, flags)];
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        poll(&mut fds, Some(&timeout)).is_ok_and(|count| count > 0)
    }

    pub(super) fn ask(&self, log: LogId) -> io::Result<()> {
        let message = [ASK, log.text().as_bytes()].concat();
        Ok(send(&self.0, &message, SendFlags::NOSIGNAL).map(drop)?)
    }

    pub(super) fn send_released(&self) -> io::Result<()> {
        Ok(send(&self.0, RELEASED, SendFlags::NOSIGNAL).map(drop)?)
    }

    pub(super) fn send_end(&self) -> io::Result<()> {
        Ok(send(&self.0, END, SendFlags::NOSIGNAL).map(drop)?)
    }

    /// Sends whole lines in one message, and returns whether it was sent: false if the other
    /// process takes none at present.
    ///
    /// # Errors
    /// The other process has ended or takes no more lines.
    pub(super) fn send_lines(&self, lines: &[u8], timeout: Duration) -> io::Result<bool> {
        // A full socket is not ready to be written to even if the other end refuses more.
        Ok(self.try_send(lines)?
            || self.is_ready(PollFlags::OUT, timeout) && self.try_send(lines)?)
    }

    fn try_send(&self, lines: &[u8]) -> io::Result<bool> {
        match send(&self.0, lines, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the next message; `None` if there is none within `timeout`.
    ///
    /// # Errors
    /// The message is unknown, or a system call failed.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8; AUDIT_HANDOVER_MESSAGE_BYTES],
        log: LogId,
        timeout: Duration,
    ) -> io::Result<Option<Message>> {
        if !self.is_ready(PollFlags::IN, timeout) {
            return Ok(None);
        }
        let length = match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        let message = buffer.get(..length).unwrap_or_default();
        Ok(Some(match message {
            [] => Message::Closed,
            [LINE, .., b'\n'] => Message::Lines(length),
            RELEASED => Message::Released,
            END => Message::End,
            other => match other.strip_prefix(ASK) {
                Some(asked) => Message::Ask { is_same_log: asked == log.text().as_bytes() },
                None => return Err(io::Error::new(ErrorKind::InvalidData, "unknown message")),
            },
        }))
    }

    /// Refuses further lines; those that have been sent can still be received.
    pub(super) fn refuse_more(&self) {
        let _ = shutdown(&self.0, Shutdown::Read);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    const LOG: LogId = LogId(1, 2);
    const NO_TIME: Duration = Duration::ZERO;

    fn pair() -> (Link, Link) {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Link::new(one), Link::new(other))
    }

    /// Each message arrives as it was sent, and another log is told apart.
    #[test]
    fn messages() {
        let (one, other) = pair();
        let mut buffer = Box::new([0; AUDIT_HANDOVER_MESSAGE_BYTES]);
        let mut receive = || other.receive(&mut buffer, LOG, NO_TIME).unwrap();
        assert_eq!(receive(), None);
        one.ask(LOG).unwrap();
        one.ask(LogId(1, 22)).unwrap();
        one.send_released().unwrap();
        assert!(one.send_lines(b",\"a\":1\n,\"b\":2\n", NO_TIME).unwrap());
        one.send_end().unwrap();
        assert_eq!(receive(), Some(Message::Ask { is_same_log: true }));
        assert_eq!(receive(), Some(Message::Ask { is_same_log: false }));
        assert_eq!(receive(), Some(Message::Released));
        assert_eq!(receive(), Some(Message::Lines(14)));
        assert_eq!(receive(), Some(Message::End));
        assert!(!other.is_closed());
        send(&one.0, b"rubbish", SendFlags::NOSIGNAL).unwrap();
        drop(one);
        let mut buffer = Box::new([0; AUDIT_HANDOVER_MESSAGE_BYTES]);
        assert!(other.receive(&mut buffer, LOG, NO_TIME).is_err());
        assert_eq!(other.receive(&mut buffer, LOG, NO_TIME).unwrap(), Some(Message::Closed));
        assert!(other.is_closed());
    }

    /// A sender learns that its lines are refused, and those sent before are not lost. One whose
    /// lines are not taken in time keeps them.
    #[test]
    fn refusing_and_filling() {
        let (one, other) = pair();
        let line = [&[LINE][..], &[b'x'; AUDIT_HANDOVER_MESSAGE_BYTES - 2], b"\n"].concat();
        let mut sent = 0;
        while one.send_lines(&line, NO_TIME).unwrap() {
            sent += 1;
        }
        assert!((1..10_000).contains(&sent), "{sent}");
        other.refuse_more();
        assert!(one.send_lines(&line, NO_TIME).is_err());
        let mut buffer = Box::new([0; AUDIT_HANDOVER_MESSAGE_BYTES]);
        for _ in 0..sent {
            let message = other.receive(&mut buffer, LOG, NO_TIME).unwrap();
            assert_eq!(message, Some(Message::Lines(line.len())));
        }
        assert_eq!(other.receive(&mut buffer, LOG, NO_TIME).unwrap(), Some(Message::Closed));
    }
}

//! The new process's side of an upgrade. The old process's side is [`super::upgrade`].
//!
//! ```text
//!  old                                          new
//!  ├─ starts it, a socket as its standard input ─► starts
//!  ├─ names, and a descriptor of each listener ──► checks them against its settings
//!  │  goes on accepting                            logs in to the HSM; once a token works:
//!  │                                               accepts
//!  ◄────────────────────────────────── "serving" ─┤
//!  ├─ "go on": has stopped accepting ────────────► is the service
//!  │  drains                                       asks for the audit log (observe::audit::link)
//!  ├─ the lines of its last calls ───────────────► writes them with its own
//!  ends
//! ```
//!
//! Both processes have the same listening sockets, so none is ever closed while connections wait in
//! it. Only standard input, output and error are inherited: the descriptors arrive as messages (unix(7), SCM_RIGHTS),
//! and are close-on-exec from the start.

use std::env;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send,
};

use super::inherited::{self, Given};
use crate::hsm::pkcs11::ffi::close_inherited_descriptors;
use crate::limits::{MAX_INHERITED_SOCKETS, UPGRADE_ANSWER_TIMEOUT};

/// Environment variable with the id of the process to take over from.
pub(super) const VARIABLE: &str = "XKS_PROXY_UPGRADE_FROM";
/// Message: the new process accepts connections.
pub(super) const SERVING: &[u8] = b"serving";
/// Message: the old process no longer accepts connections.
pub(super) const GO_ON: &[u8] = b"go on";
/// Upper bound of the length of all names in one message, each with a separator.
pub(super) const MAX_NAMES_BYTES: usize = 16 * MAX_INHERITED_SOCKETS;

/// The process to take over from.
pub(super) struct Takeover {
    socket: OwnedFd,
    /// Process id, as stated by the old process.
    pub(super) from: String,
}

/// Receives the sockets from the previous process, if there is one. Must be called before any file
/// is opened.
pub(super) fn from_environment() -> Option<Result<(Takeover, Vec<Given>), String>> {
    let from = env::var(VARIABLE).ok()?;
    // Descriptors that the old process's module opened without O_CLOEXEC. Nothing has been opened
    // here yet.
    close_inherited_descriptors();
    Some(receive(from).map_err(|error| format!("{VARIABLE}: nothing is handed over: {error}")))
}

fn receive(from: String) -> io::Result<(Takeover, Vec<Given>)> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Standard input is replaced, so that no other code reads from the socket.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut names = vec![0; MAX_NAMES_BYTES];
    let mut space =
        vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_INHERITED_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut names)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let names = String::from_utf8_lossy(names.get(..message.bytes).unwrap_or_default());
    let mut names = names.split(':');
    let mut given = Vec::new();
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
        for descriptor in descriptors {
            let name = names.next().unwrap_or_default().to_owned();
            given.push(Given { name, socket: inherited::listening(TcpListener::from(descriptor)) });
        }
    }
    if given.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no sockets came"));
    }
    Ok((Takeover { socket, from }, given))
}

impl Takeover {
    /// Returns whether the old process has ended: then no other process serves, regardless of the
    /// state of the HSM.
    pub(super) fn is_alone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let has_ended = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        has_ended.is_ok_and(|count| count > 0)
    }

    /// Returns another handle of the socket, for the audit log.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Tells the old process that this one accepts connections, and waits until the old one has
    /// stopped accepting, which it does immediately. If the old process has ended, returns at once.
    /// Returns the socket, for the audit log.
    pub(super) fn finish(self) -> OwnedFd {
        if send(&self.socket, SERVING, SendFlags::NOSIGNAL).is_ok() {
            let _ = answer(&self.socket, UPGRADE_ANSWER_TIMEOUT);
        }
        self.socket
    }
}

/// Returns the other process's next message. It is empty if that process has ended, and `None` if
/// no message arrives within `timeout`.
///
/// # Errors
/// A system call failed.
pub(super) fn answer(socket: &OwnedFd, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut message = vec![0; 64];
    let (length, _) = recv(socket, message.as_mut_slice(), RecvFlags::empty())?;
    message.truncate(length);
    Ok(Some(message))
}

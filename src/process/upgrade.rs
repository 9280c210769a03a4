//! The old process's side of an upgrade (SIGUSR2). The new process's side is [`super::takeover`],
//! which shows the order of events.
//!
//! The new process is started like this one, from the file that the path now leads to. It is never
//! a mere fork: a PKCS#11 module cannot be used in a forked child (PKCS#11, C_Initialize).

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    send, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::inherited;
use super::notify::Notifier;
use super::takeover::{GO_ON, SERVING, VARIABLE, answer};
use crate::admin::Admin;
use crate::hsm::pkcs11::ffi::close_descriptors_on_exec;
use crate::limits::{UPGRADE_ABORT_TIMEOUT, UPGRADE_TIMEOUT};
use crate::proto::Listener;
use crate::server::Server;
use crate::settings::Settings;

/// Interval between checks for an abandoned attempt.
const POLL: Duration = Duration::from_millis(20);
/// Time from when a process closes its descriptors until it ends.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// Listening sockets with their names ([`super::inherited::API`] and others), kept open for a
/// process that takes over. Drop them before the event loops close their own.
pub(super) struct Sockets(Vec<(&'static str, OwnedFd)>);

impl Sockets {
    /// Duplicates the sockets of all listeners.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(super) fn of(server: &mut Server, admin: Option<&Admin>) -> io::Result<Self> {
        let name = |listener| match listener {
            Listener::Api => inherited::API,
            Listener::Ping => inherited::PING,
        };
        let sockets = server.take_sockets().into_iter();
        let mut sockets: Vec<_> = sockets.map(|(it, socket)| (name(it), socket)).collect();
        if let Some(admin) = admin {
            sockets.push((inherited::ADMIN, admin.socket()?));
        }
        Ok(Self(sockets))
    }
}

/// Path, arguments and environment of this process, for the next one.
pub(super) struct Program {
    path: OsString,
    arguments: Vec<OsString>,
    /// Variables that this process has set itself, from its settings.
    unset: Vec<String>,
    notifier: Notifier,
    refusal: Option<&'static str>,
}

/// A new process that is not serving yet.
pub(super) struct Attempt {
    is_abandoned: Arc<AtomicBool>,
}

/// A new process that is serving.
#[derive(Debug)]
pub(super) struct Successor {
    /// Process id.
    pub(super) pid: u32,
    socket: OwnedFd,
}

impl Program {
    pub(super) fn new(settings: &Settings, notifier: &Notifier) -> Self {
        let mut arguments = env::args_os();
        // This is not /proc/self/exe, which is the old file after an update.
        let path = arguments.next().unwrap_or_else(|| "xks-proxy".into());
        let refusal = if settings.confinement.landlock.is_some() {
            Some(
                "[security] landlock = true: a new process would be confined to what this one may \
                 open; restart it, with systemd holding its sockets",
            )
        } else if getpid() == Pid::INIT {
            Some("this is process 1 of a container, which ends with it; start another container")
        } else {
            None
        };
        Self {
            path,
            arguments: arguments.collect(),
            unset: settings.pkcs11.environment.iter().map(|(name, _)| name.clone()).collect(),
            notifier: notifier.clone(),
            refusal,
        }
    }

    /// Starts the program again and hands `sockets` to it. Calls `done` from another thread with
    /// the outcome: that the new process serves, or, once it has ended, the reason why it does not.
    ///
    /// # Errors
    /// The program cannot be started; the error is the reason.
    pub(super) fn start(
        &self,
        sockets: &Sockets,
        done: impl FnOnce(Result<Successor, String>) + Send + 'static,
    ) -> Result<Attempt, String> {
        if let Some(refusal) = self.refusal {
            return Err(refusal.to_owned());
        }
        let (child, socket) = self
            .spawn(sockets)
            .map_err(|error| format!("{} cannot be started: {error}", self.path.display()))?;
        tracing::info!(pid = child.id(), program = %self.path.display(), "upgrade: started");
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let wait = {
            let is_abandoned = Arc::clone(&is_abandoned);
            move || done(wait(child, socket, &is_abandoned))
        };
        let thread = thread::Builder::new().name("upgrade".to_owned()).spawn(wait);
        thread.map_err(|error| format!("no thread: {error}"))?;
        Ok(Attempt { is_abandoned })
    }

    fn spawn(&self, sockets: &Sockets) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Sent before the process exists, because the kernel keeps the message.
        send_sockets(&ours, sockets)?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::from(theirs));
        for name in &self.unset {
            command.env_remove(name);
        }
        let variables = self.notifier.variables().iter();
        command.envs(variables.map(|(name, value)| (name, value)));
        command.env(VARIABLE, std::process::id().to_string());
        // Not in the child: running code there would take a fork, with the handlers that modules
        // have registered for one. What another thread opens in between is closed by the new
        // process.
        close_descriptors_on_exec();
        Ok((command.spawn()?, ours))
    }
}

fn send_sockets(to: &OwnedFd, Sockets(sockets): &Sockets) -> io::Result<()> {
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    sendmsg(to, &[IoSlice::new(names.join(":").as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits until the new process serves or has ended.
fn wait(mut child: Child, socket: OwnedFd, is_abandoned: &AtomicBool) -> Result<Successor, String> {
    let end = Instant::now() + UPGRADE_TIMEOUT;
    let problem = loop {
        match answer(&socket, POLL) {
            Ok(Some(message)) if message == SERVING => {
                return Ok(Successor { pid: child.id(), socket });
            }
            Ok(Some(message)) if message.is_empty() => {
                has_ended(&mut child, ENDING_TIMEOUT);
                break "it ended before it served; its reasons are in the log or on standard error"
                    .to_owned();
            }
            Ok(Some(_)) => break "it sent an unknown message".to_owned(),
            Err(error) => break format!("its socket cannot be read: {error}"),
            Ok(None) if is_abandoned.load(Ordering::Relaxed) => {
                break "this process is to end".to_owned();
            }
            Ok(None) if Instant::now() >= end => {
                break format!("it did not serve within {UPGRADE_TIMEOUT:?}");
            }
            Ok(None) => {}
        }
    };
    match end_of(&mut child) {
        Ok(status) => Err(format!("{problem} ({status})")),
        Err(error) => Err(format!("{problem}; it cannot be ended: {error}")),
    }
}

/// Waits for a process to end, and returns whether it has ended.
fn has_ended(child: &mut Child, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Ends a new process with SIGTERM first, in case it has just begun to serve.
fn end_of(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && child.try_wait()?.is_none()
    {
        // Even if it has ended, its id is not reused until it has been waited for.
        let _ = kill_process(pid, Signal::TERM);
    }
    if !has_ended(child, UPGRADE_ABORT_TIMEOUT) {
        child.kill()?;
    }
    child.wait()
}

impl Attempt {
    /// Ends the new process unless it already serves. The outcome is reported as usual.
    pub(super) fn abandon(self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }
}

impl Successor {
    /// Tells the new process that this one has stopped accepting. Returns the socket, on which the
    /// new process may ask for the audit log.
    pub(super) fn go_on(self) -> OwnedFd {
        // The new process may have ended.
        let _ = send(&self.socket, GO_ON, SendFlags::NOSIGNAL);
        self.socket
    }
}

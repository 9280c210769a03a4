//! Messages to systemd (sd_notify(3)): datagrams to the socket that `NOTIFY_SOCKET` names. Without
//! that variable, nothing is sent.
//!
//! The crate `sd-notify` does not fit: it reads the variable for each message, but this process
//! removes it at the start; and it has no timeout, but neither the start nor the end may wait for
//! systemd.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::output::errln;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Variables that [`Notifier::from_environment`] reads. They are then removed, so that child
/// processes and vendor libraries cannot send messages on behalf of this process.
pub(super) const VARIABLES: [&str; 3] = [NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID];

/// The channel to the service manager.
#[derive(Clone, Debug)]
pub(super) struct Notifier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    channel: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// The variables' original values, for a process that replaces this one.
    variables: Vec<(&'static str, OsString)>,
    /// True once another process sends messages for the service.
    is_silent: AtomicBool,
}

impl Notifier {
    /// Reads the environment.
    pub(super) fn from_environment() -> Self {
        let socket = env::var_os(NOTIFY_SOCKET);
        let channel = socket.as_ref().and_then(|name| match channel(name.as_bytes()) {
            Ok(channel) => Some(channel),
            Err(error) => {
                errln!("{NOTIFY_SOCKET}: {error}; systemd will not be notified");
                None
            }
        });
        let is_for_another = env::var(WATCHDOG_PID)
            .is_ok_and(|pid| pid.parse::<u32>().ok() != Some(std::process::id()));
        let watchdog = env::var(WATCHDOG_USEC).ok().and_then(|usec| usec.parse().ok());
        let watchdog = watchdog.filter(|usec| *usec > 0 && !is_for_another && channel.is_some());
        // WATCHDOG_PID is the id of this process, so it is not passed to the next one.
        let variables = [NOTIFY_SOCKET, WATCHDOG_USEC]
            .into_iter()
            .filter_map(|name| Some((name, env::var_os(name)?)))
            .filter(|(name, _)| *name != WATCHDOG_USEC || watchdog.is_some())
            .collect();
        Self(Arc::new(Inner {
            channel,
            watchdog: watchdog.map(Duration::from_micros),
            variables,
            is_silent: AtomicBool::new(false),
        }))
    }

    /// Returns the time that systemd waits for [`Self::watchdog`] before it considers the process
    /// hung (`WatchdogSec=`).
    pub(super) fn watchdog_period(&self) -> Option<Duration> {
        self.0.watchdog
    }

    /// Returns whether systemd is notified through an abstract socket.
    pub(super) fn is_abstract(&self) -> bool {
        let channel = self.0.channel.as_ref();
        channel.is_some_and(|(_, address)| address.as_abstract_name().is_some())
    }

    /// Returns the environment variables for a process that replaces this one.
    pub(super) fn variables(&self) -> &[(&'static str, OsString)] {
        &self.0.variables
    }

    /// Reports that the process serves its listeners. `systemctl status` shows `status`. Call this
    /// at the start and after each [`Self::reloading`], whether the new settings were accepted or
    /// refused.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that a reload begins.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        // Both must be in one message (sd_notify(3), RELOADING=1).
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading the settings"));
    }

    /// Reports that the process is draining and ends within that time, during which systemd must not
    /// kill it, whatever the unit's `TimeoutStopSec=`.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.send(&format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    /// Reports that every event loop is making progress.
    pub(super) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Sets the status text.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Reports that the process with that id is now the service, and sends nothing after that.
    pub(super) fn hand_over_to(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
        self.0.is_silent.store(true, Ordering::Relaxed);
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.0.channel else { return };
        if !self.0.is_silent.load(Ordering::Relaxed)
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(%error, "systemd cannot be notified");
        }
    }
}

fn channel(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        _ => {
            let problem = "it is neither an absolute path nor an abstract socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    };
    // Neither the start nor the end may wait for systemd indefinitely.
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(crate::limits::NOTIFY_TIMEOUT))?;
    Ok((socket, address))
}

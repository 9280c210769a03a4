//! Events that the main thread waits for while it serves: signals, and the outcome of an upgrade.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::notify::Notifier;
use super::retry_login;
use super::takeover::Takeover;
use super::upgrade::{Attempt, Program, Sockets, Successor};
use crate::hsm::Hsm;
use crate::limits::UPGRADE_ABORT_TIMEOUT;
use crate::observe::audit::Audit;
use crate::observe::log::Log;

/// Interval between checks for a working token during a takeover.
const TAKEOVER_POLL: Duration = Duration::from_millis(10);

/// An event for the main thread.
enum Event {
    /// SIGTERM, SIGINT or SIGUSR2.
    Signal(i32),
    /// The outcome of an attempt to upgrade.
    Upgrade(Result<Successor, String>),
}

/// The queue of events.
pub(super) struct Events {
    receiver: Receiver<Event>,
    sender: SyncSender<Event>,
}

impl Events {
    /// Starts the thread that turns signals into events. The second value receives a message for
    /// each SIGHUP, which requests a reload; requests that arrive while one is pending are merged
    /// with it. The thread itself handles SIGUSR1 and the signal of `hsm retry-login`.
    pub(super) fn of_signals(log: &Arc<Log>, audit: &Audit) -> io::Result<(Self, Receiver<()>)> {
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, retry_login::SIGNAL])?;
        let (sender, receiver) = mpsc::sync_channel(4);
        let (reload_sender, reload) = mpsc::sync_channel(1);
        let (log, audit) = (Arc::clone(log), audit.clone());
        let of_signals = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                // If the queue is full, it already contains the same signal.
                match signal {
                    SIGHUP => drop(reload_sender.try_send(())),
                    SIGUSR1 => reopen(&log, &audit),
                    retry_login::SIGNAL => retry_login::on_signal(),
                    signal => drop(of_signals.try_send(Event::Signal(signal))),
                }
            }
        })?;
        Ok((Self { receiver, sender }, reload))
    }

    /// Waits until a signal ends the process, or until another process serves in its place.
    pub(super) fn until_the_end(
        &self,
        program: &Program,
        sockets: &Sockets,
        notifier: &Notifier,
    ) -> Option<Successor> {
        let mut attempt: Option<Attempt> = None;
        loop {
            match self.receiver.recv() {
                Ok(Event::Signal(SIGUSR2)) if attempt.is_some() => {
                    tracing::warn!("upgrade refused: one is under way already");
                }
                Ok(Event::Signal(SIGUSR2)) => {
                    let sender = self.sender.clone();
                    let done = move |outcome| {
                        let _ = sender.send(Event::Upgrade(outcome));
                    };
                    match program.start(sockets, done) {
                        Ok(started) => {
                            notifier.status("serving; an upgrade is under way");
                            attempt = Some(started);
                        }
                        Err(error) => refuse_upgrade(notifier, &error),
                    }
                }
                Ok(Event::Upgrade(Err(error))) => {
                    attempt = None;
                    refuse_upgrade(notifier, &error);
                }
                Ok(Event::Upgrade(Ok(successor))) => return Some(successor),
                Ok(Event::Signal(signal)) => {
                    tracing::info!(signal = signal_name(signal), "received a signal to end");
                    attempt?.abandon();
                    return self.outcome();
                }
                Err(_) => return None,
            }
        }
    }

    /// Returns the successor of an abandoned attempt, if any: the new process may have begun to
    /// serve just before.
    fn outcome(&self) -> Option<Successor> {
        let end = Instant::now() + 2 * UPGRADE_ABORT_TIMEOUT;
        loop {
            match self.receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Upgrade(outcome)) => return outcome.ok(),
                Ok(Event::Signal(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until a token works, since until then the process that now serves is better able to
    /// answer. Returns false if this process is to end.
    pub(super) fn wait_for_token(&self, hsm: &Hsm, takeover: &Takeover) -> bool {
        tracing::info!(from = takeover.from, "upgrade: taking over once a token works");
        while !hsm.health().can_serve() && !takeover.is_alone() {
            if self.wait_for_end(TAKEOVER_POLL) {
                return false;
            }
        }
        true
    }

    /// Waits for at most `timeout`, and returns whether a signal to end the process arrived.
    pub(super) fn wait_for_end(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            match self.receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal(SIGUSR2)) => {
                    tracing::warn!("upgrade refused: the process is about to start or stop serving")
                }
                Ok(Event::Signal(_)) => return true,
                Ok(Event::Upgrade(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Reopens the log files by name after logrotate has moved them. Does not wait for the disk.
fn reopen(log: &Log, audit: &Audit) {
    tracing::info!("log files reopened");
    log.reopen();
    audit.reopen();
}

fn refuse_upgrade(notifier: &Notifier, reason: &str) {
    tracing::error!(reason, "upgrade failed; this process continues to serve");
    notifier.status("serving; the last upgrade failed, see the log");
}

fn signal_name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}

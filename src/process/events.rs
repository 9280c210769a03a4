//! What the main thread waits for while others serve: signals, and the outcome of an upgrade.

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

/// How often to look whether a token works that the upgrade waits for.
const TAKEOVER_POLL: Duration = Duration::from_millis(10);

/// What the main thread waits for while it serves.
enum Event {
    /// SIGTERM, SIGINT or SIGUSR2.
    Signal(i32),
    /// How an attempt to upgrade has ended.
    Upgrade(Result<Successor, String>),
}

/// Events, as they come.
pub(super) struct Events {
    receiver: Receiver<Event>,
    sender: SyncSender<Event>,
}

impl Events {
    /// What signals ask for, as they come; and, for SIGHUP, that the settings be read again: what
    /// comes while one waits is the same. SIGUSR1, and the one of `hsm retry-login`, are
    /// dealt with at once.
    pub(super) fn of_signals(log: &Arc<Log>, audit: &Audit) -> io::Result<(Self, Receiver<()>)> {
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, retry_login::SIGNAL])?;
        let (sender, receiver) = mpsc::sync_channel(4);
        let (reload_sender, reload) = mpsc::sync_channel(1);
        let (log, audit) = (Arc::clone(log), audit.clone());
        let of_signals = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                // Whoever sends more than we can wait for has been heard.
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

    /// Serves until a signal ends it, or until another process serves.
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
                    tracing::warn!("upgrade: one is under way already");
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
                    tracing::info!(signal = signal_name(signal), "told to end");
                    attempt?.give_up();
                    return self.outcome();
                }
                Err(_) => return None,
            }
        }
    }

    /// Of an attempt that was given up: the new process may have come to serve just before.
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

    /// Waits until a token works: before, requests are better off with the process that serves now.
    /// Gives false if this process is to end.
    pub(super) fn wait_for_token(&self, hsm: &Hsm, takeover: &Takeover) -> bool {
        tracing::info!(from = takeover.from, "upgrade: taking over once a token works");
        while !hsm.health().can_serve() && !takeover.is_alone() {
            if self.wait_for_end(TAKEOVER_POLL) {
                return false;
            }
        }
        true
    }

    /// Whether a signal comes in that time that ends the process.
    pub(super) fn wait_for_end(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            match self.receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal(SIGUSR2)) => tracing::warn!("upgrade: not now"),
                Ok(Event::Signal(_)) => return true,
                Ok(Event::Upgrade(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// All files that are written for long are opened anew, by their names: logrotate has moved them
/// away. Does not wait for a disk.
fn reopen(log: &Log, audit: &Audit) {
    tracing::info!("log files are opened anew");
    log.reopen();
    audit.reopen();
}

fn refuse_upgrade(notifier: &Notifier, reason: &str) {
    tracing::error!(reason, "upgrade: it failed; this process goes on");
    notifier.status("serving; the last upgrade failed, see the log");
}

fn signal_name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}

//! Shutdown: from serving to the exit code.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::events::Events;
use super::run::Running;
use super::upgrade::Successor;
use crate::exit::{EXIT_SOFTWARE, Failed};
use crate::limits::{HSM_STOP_TIMEOUT, MAX_DRAIN_LAST_PART, STOP_TIME};

/// Interval between checks for event loops that are still running.
const POLL: Duration = Duration::from_millis(2);

/// The state in which serving ended.
pub(super) enum End {
    Clean,
    /// A call to the HSM has not returned.
    Stuck,
    /// A call to the HSM has not returned, and the supervisor should start a new process.
    Wedged,
}

/// Ends readiness, then accepting, then the remaining connections, then the HSM sessions.
///
/// # Errors
/// [`Failed`]: an event loop ended by itself.
pub(super) fn drain(
    running: Running,
    successor: Option<Successor>,
    events: &Events,
) -> Result<End, Failed> {
    let (delay, timeout) = {
        let server = &running.in_use.settings.load().server;
        (server.drain_delay, server.drain_timeout)
    };
    announce(&running, successor, delay, timeout);
    let last_part = (delay / 2).min(MAX_DRAIN_LAST_PART);
    // A second signal ends the delay, a third one the wait for requests in flight.
    if !events.wait_for_end(delay - last_part) {
        running.lifecycle.send_away();
        events.wait_for_end(last_part);
    }
    tracing::info!(?timeout, "accepting ends");
    drop(running.sockets);
    running.lifecycle.stop_within(timeout);
    if !have_ended(&running.loops, timeout, events) {
        tracing::warn!(
            "connections were still open at the end of drain_timeout_milli, or at a signal"
        );
    }
    // Holding the lock prevents a reload from replacing the tokens.
    let _no_reload = running.reloader.try_lock_for(HSM_STOP_TIMEOUT);
    let is_stuck = !running.in_use.hsm.load().stop(HSM_STOP_TIMEOUT);
    if is_stuck {
        tracing::warn!("a call to the HSM is still outstanding; its module is not finalised");
    } else {
        running.usage.close();
    }
    if running.has_failed.load(Ordering::Relaxed) {
        return Err(Failed::new(EXIT_SOFTWARE, "an event loop ended by itself".to_owned()));
    }
    Ok(match (running.has_wedged.load(Ordering::Relaxed), is_stuck) {
        (true, _) => End::Wedged,
        (false, true) => End::Stuck,
        (false, false) => End::Clean,
    })
}

/// Informs load balancers, the service manager, and the process that takes over.
fn announce(running: &Running, successor: Option<Successor>, delay: Duration, timeout: Duration) {
    match successor {
        Some(successor) => {
            running.lifecycle.hand_over();
            running.notifier.hand_over_to(successor.pid);
            let pid = successor.pid;
            running.audit.hand_over(successor.go_on());
            tracing::info!(pid, ?delay, "draining: another process serves");
        }
        None => {
            running.notifier.stopping(delay + timeout + STOP_TIME);
            tracing::info!(?delay, "draining: no longer ready; another signal ends the delay");
            running.lifecycle.drain();
        }
    }
}

/// Returns whether all event loops end within `timeout`, and before another signal.
fn have_ended(loops: &[JoinHandle<()>], timeout: Duration, events: &Events) -> bool {
    let end = Instant::now() + timeout;
    while !loops.iter().all(JoinHandle::is_finished) {
        if Instant::now() >= end || events.wait_for_end(POLL) {
            return false;
        }
    }
    true
}

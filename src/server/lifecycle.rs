//! The process's state between start and end, and the liveness of its event loops.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::limits::DRAIN_QUIET_TIME;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use mio::Waker;

/// The state that all event loops share. It only moves forward.
#[derive(Default)]
pub struct Lifecycle {
    state: AtomicU8,
    is_handed_over: AtomicBool,
    /// Time for which quiet connections are kept once the process stops; 0 until it is set.
    quiet_milli: AtomicU64,
    loops: Mutex<Vec<WatchedLoop>>,
}

const DRAINING: u8 = 1;
const SENDING_AWAY: u8 = 2;
const STOPPING: u8 = 3;

/// An event loop, as seen by other threads.
struct WatchedLoop {
    waker: Arc<Waker>,
    /// Dropped with the loop.
    heartbeat: Weak<Heartbeat>,
}

/// Number of turns that an event loop has made.
#[derive(Default)]
pub(super) struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// Counts the start of a turn.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A check that all event loops are alive.
pub struct Round(Vec<(Weak<Heartbeat>, u64)>);

impl Round {
    /// Returns whether each loop has made a turn since the check began, or has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let has_turned = |(heartbeat, before): &(Weak<Heartbeat>, u64)| {
            heartbeat.upgrade().is_none_or(|heartbeat| heartbeat.count() != *before)
        };
        self.0.iter().all(has_turned)
    }
}

impl Lifecycle {
    /// Starts draining: readiness becomes false and answers close the connections that are open, so
    /// that load balancers send their traffic elsewhere. New connections are still served.
    pub fn drain(&self) {
        self.advance(DRAINING);
    }

    /// Makes answers close the connections too that were made while draining: accepting ends soon.
    pub fn send_away(&self) {
        self.advance(SENDING_AWAY);
    }

    /// Stops accepting; requests in flight are finished, as are those that arrive within a while
    /// on connections that are open.
    pub fn stop(&self) {
        self.stop_within(Duration::MAX);
    }

    /// Does the same as [`Self::stop`] for a process that ends after `timeout` in any case, so
    /// that quiet connections are closed properly before that.
    pub fn stop_within(&self, timeout: Duration) {
        let quiet = DRAIN_QUIET_TIME.min(timeout - timeout / 4);
        self.quiet_milli.store(u64::try_from(quiet.as_millis()).unwrap_or(0), Ordering::Relaxed);
        self.advance(STOPPING);
    }

    /// Stops accepting in favour of another process that has the same sockets. Connections in their
    /// backlogs are not closed by this process.
    pub fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Relaxed);
        self.advance(DRAINING);
    }

    /// Returns whether [`Self::drain`] or [`Self::stop`] has been called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state() >= DRAINING
    }

    /// Returns whether [`Self::send_away`] or [`Self::stop`] has been called.
    #[must_use]
    pub fn is_sending_away(&self) -> bool {
        self.state() >= SENDING_AWAY
    }

    /// Time for which quiet connections are kept, from [`Self::stop`] on.
    pub(super) fn quiet_time(&self) -> Duration {
        Duration::from_millis(self.quiet_milli.load(Ordering::Relaxed))
    }

    /// Returns whether [`Self::stop`] has been called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.state() >= STOPPING
    }

    fn state(&self) -> u8 {
        // Acquire, with the Release of `advance`: whoever sees a state also sees what was stored
        // before it, on machines that reorder loads too: the hand-over, and the time of a stop.
        self.state.load(Ordering::Acquire)
    }

    /// Returns whether [`Self::hand_over`] has been called.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Relaxed)
    }

    /// Wakes every event loop to check that it still makes turns.
    #[must_use]
    pub fn round(&self) -> Round {
        let count = |watched: &WatchedLoop| {
            let count = watched.heartbeat.upgrade().map_or(0, |heartbeat| heartbeat.count());
            (watched.heartbeat.clone(), count)
        };
        let round = Round(self.loops.lock().iter().map(count).collect());
        self.wake();
        round
    }

    pub(super) fn add_loop(&self, waker: Arc<Waker>) -> Arc<Heartbeat> {
        let heartbeat = Arc::new(Heartbeat::default());
        self.loops.lock().push(WatchedLoop { waker, heartbeat: Arc::downgrade(&heartbeat) });
        heartbeat
    }

    fn advance(&self, state: u8) {
        // Release: see `state`.
        self.state.fetch_max(state, Ordering::Release);
        self.wake();
    }

    /// Makes each event loop take a turn.
    pub(super) fn wake(&self) {
        for watched in self.loops.lock().iter() {
            // A waker fails only when the loop's descriptor, and so the loop, is gone.
            let _ = watched.waker.wake();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    /// A round is over once every loop has made a turn: a hung loop is detected, an idle one is
    /// woken, and one that has ended is not waited for.
    #[test]
    fn rounds() {
        let lifecycle = Lifecycle::default();
        let mut polls: Vec<Poll> = (0..3).map(|_| Poll::new().unwrap()).collect();
        let add = |poll: &Poll| {
            let waker = Waker::new(poll.registry(), Token(0)).unwrap();
            lifecycle.add_loop(Arc::new(waker))
        };
        let (idle, hung, ended) = (add(&polls[0]), add(&polls[1]), add(&polls[2]));
        drop(ended);

        let round = lifecycle.round();
        let mut events = Events::with_capacity(1);
        polls[0].poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        assert!(!events.is_empty(), "woken");
        idle.beat();
        assert!(!round.is_over());
        hung.beat();
        assert!(round.is_over());
        assert!(!lifecycle.round().is_over());
    }
}

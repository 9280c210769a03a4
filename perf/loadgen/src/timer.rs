//! A nanosecond timer for the event loop: epoll's own time-out counts milliseconds, too coarse for
//! requests that are due some hundred microseconds apart.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::schedule::Nanos;

/// A timerfd(2). It is edge-triggered and never read: each expiry is a separate event.
pub struct Timer {
    descriptor: OwnedFd,
    set_to: Option<Nanos>,
}

impl Timer {
    /// Makes a timer registered as `token`.
    ///
    /// # Errors
    /// Error from `timerfd_create` or `epoll_ctl`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let source = descriptor.as_raw_fd();
        registry.register(&mut SourceFd(&source), token, Interest::READABLE)?;
        Ok(Self { descriptor, set_to: None })
    }

    /// Schedules an event for `at`, or for now if that is past; a new one replaces the previous
    /// one.
    ///
    /// # Errors
    /// Error from `timerfd_settime`.
    pub fn set(&mut self, at: Nanos, now: Nanos) -> io::Result<()> {
        if self.set_to == Some(at) {
            return Ok(());
        }
        self.set_to = Some(at);
        // 0 would disarm the timer.
        let wait = at.saturating_sub(now).max(1);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(wait / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(wait % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

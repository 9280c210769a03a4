//! A timer of nanoseconds for the event loop: epoll's own time-out counts milliseconds, too
//! coarse for requests that are to be sent some hundred microseconds apart.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::schedule::Nanos;

/// A timerfd(2). It is edge-triggered and never read: each expiry is an event of its own.
pub struct Timer {
    descriptor: OwnedFd,
    set_to: Option<Nanos>,
}

impl Timer {
    /// Registered as `token`.
    ///
    /// # Errors
    /// Of `timerfd_create` or `epoll_ctl`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let source = descriptor.as_raw_fd();
        registry.register(&mut SourceFd(&source), token, Interest::READABLE)?;
        Ok(Self { descriptor, set_to: None })
    }

    /// Makes an event at `at`, or at once if that is past; one at a time.
    ///
    /// # Errors
    /// Of `timerfd_settime`.
    pub fn set(&mut self, at: Nanos, now: Nanos) -> io::Result<()> {
        if self.set_to == Some(at) {
            return Ok(());
        }
        self.set_to = Some(at);
        // 0 would stop the timer.
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

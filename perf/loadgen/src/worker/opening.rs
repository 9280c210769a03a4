//! Opening and closing of connections.

use std::io;
use std::time::Duration;

use mio::{Events, Token};

use super::{Expiry, MAX_OPENING, OPEN_TIMEOUT, REOPEN_DELAY, Worker};
use crate::connection::State;
use crate::schedule::{Nanos, nanos};

impl Worker<'_> {
    /// Opens all connections before the run.
    pub(super) fn open_all(&mut self) -> Result<(), String> {
        let total = self.connections.len();
        let mut events = Events::with_capacity(1024);
        let mut begun = 0;
        loop {
            let opening = self.count(State::Opening);
            let open = self.count(State::Idle);
            if open == total {
                return Ok(());
            }
            let failed = self.stats.connections.failed_to_open;
            if failed > 0 {
                let error = self.stats.last_error.as_deref().unwrap_or("it took too long");
                return Err(format!("only {open} of {total} connections could be opened: {error}"));
            }
            let until = total.min(begun + MAX_OPENING.saturating_sub(opening));
            for connection in begun..until {
                self.open(connection);
            }
            begun = until.max(begun);
            self.poll(&mut events, Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
            let now = self.now();
            self.expire(now);
        }
    }

    pub(super) fn count(&self, state: State) -> usize {
        self.connections.iter().filter(|connection| connection.state == state).count()
    }

    pub(super) fn open(&mut self, index: usize) {
        self.serials[index] += 1;
        let connection = &mut self.connections[index];
        match connection.open(&self.plan.target, self.poll.registry(), Token(index)) {
            Ok(()) => {
                let at = self.now() + nanos(OPEN_TIMEOUT);
                self.opening.push_back(Expiry {
                    at,
                    connection: index,
                    serial: self.serials[index],
                });
            }
            Err(error) => self.failed_to_open(index, &error),
        }
    }

    pub(super) fn failed_to_open(&mut self, index: usize, error: &io::Error) {
        self.connections[index].close();
        self.note(None, "connect", 0, 0, &error.to_string());
        self.serials[index] += 1;
        self.stats.connections.failed_to_open += 1;
        self.stats.last_error = Some(error.to_string());
        self.to_reopen.push_back((self.now() + nanos(REOPEN_DELAY), index));
    }

    pub(super) fn opened(&mut self, index: usize) {
        self.serials[index] += 1;
        self.connections[index].state = State::Idle;
        self.stats.connections.opened += 1;
        self.answers[index] = 0;
        if index < self.share.connections {
            self.free.push_back(index);
        }
    }

    /// Replaces a connection that ended while idle, unless it was one without load.
    pub(super) fn replace(&mut self, index: usize) {
        self.connections[index].close();
        if index < self.share.connections {
            self.open(index);
        } else {
            self.stats.connections.idle_closed += 1;
        }
    }

    pub(super) fn reopen(&mut self, now: Nanos) {
        while let Some((at, index)) = self.to_reopen.front().copied() {
            if at > now {
                return;
            }
            self.to_reopen.pop_front();
            self.open(index);
        }
    }
}

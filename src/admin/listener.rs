//! The loop of the admin listener: one thread serves a limited number of connections, and waits for
//! none of them.
//!
//! A peer that says nothing holds nothing but its place, for half a second. If all places are taken,
//! the oldest connection without a complete request makes room, so no number of silent or slow peers
//! delays those that ask for metrics or readiness.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::Connection;
use super::http::{Answer, RequestHead};
use super::tls::Acceptor;
use crate::limits::{
    ADMIN_ACCEPT_PAUSE, ADMIN_ACCEPT_POLL, MAX_ADMIN_ANSWERS, MAX_ADMIN_CONNECTIONS,
};

/// The listening socket and the connections accepted from it.
pub(super) struct Listening<A> {
    /// Closed once another process accepts from the socket.
    socket: Option<TcpListener>,
    tls: Option<Acceptor>,
    /// Answers a request.
    answer: A,
    /// In the order in which they were accepted.
    connections: Vec<Connection>,
    /// End of a pause in accepting.
    paused_until: Option<Instant>,
}

impl<A: Fn(&RequestHead) -> Answer> Listening<A> {
    pub(super) fn new(socket: TcpListener, tls: Option<Acceptor>, answer: A) -> Self {
        let connections = Vec::with_capacity(MAX_ADMIN_CONNECTIONS);
        Self { socket: Some(socket), tls, answer, connections, paused_until: None }
    }

    /// Serves until another process has taken over and the last connection has ended.
    pub(super) fn serve(mut self, is_handed_over: impl Fn() -> bool) {
        loop {
            if is_handed_over() {
                self.socket = None;
                if self.connections.is_empty() {
                    return;
                }
            }
            if !self.wait() {
                // Trying again at once would only spin.
                std::thread::sleep(ADMIN_ACCEPT_PAUSE);
            }
            self.accept();
            let now = Instant::now();
            self.connections.retain(|connection| connection.deadline() > now);
            self.limit_answers();
        }
    }

    /// Waits for events, and serves the connections that have one. Returns false if the system
    /// cannot wait.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        let deadlines = self.connections.iter().map(Connection::deadline);
        let until = deadlines.chain(self.paused_until).min();
        let wait = until.map_or(ADMIN_ACCEPT_POLL, |until| {
            until.saturating_duration_since(now).min(ADMIN_ACCEPT_POLL)
        });
        let listener =
            self.socket.as_ref().filter(|_| self.paused_until.is_none_or(|until| until <= now));
        let mut fds: Vec<PollFd<'_>> = self
            .connections
            .iter()
            .map(|connection| PollFd::new(connection, connection.interest()))
            .chain(listener.map(|listener| PollFd::new(listener, PollFlags::IN)))
            .collect();
        match poll(&mut fds, timespec(wait).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut is_ready = is_ready.into_iter();
        let answer = &self.answer;
        self.connections.retain_mut(|connection| {
            !is_ready.next().unwrap_or(false) || advance(connection, answer)
        });
        true
    }

    /// Accepts the connections that wait, up to as many as there are places, so that those already
    /// accepted have their turn.
    fn accept(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.paused_until = None;
        for _ in 0..MAX_ADMIN_CONNECTIONS {
            let Some(socket) = &self.socket else { return };
            match socket.accept() {
                Ok((stream, _)) => self.add(Connection::new(stream, self.tls.as_ref())),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    // There may be no free descriptor, for example.
                    _ => {
                        self.paused_until = Some(now + ADMIN_ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Adds a connection, after the oldest one without a complete request has made room if there is
    /// none. What it has sent already is read at once.
    fn add(&mut self, connection: io::Result<Connection>) {
        let Ok(mut connection) = connection else { return };
        if !advance(&mut connection, &self.answer) {
            return;
        }
        if self.connections.len() >= MAX_ADMIN_CONNECTIONS {
            let oldest = self.connections.iter().position(Connection::is_receiving);
            self.connections.remove(oldest.unwrap_or(0));
        }
        self.connections.push(connection);
    }

    /// Ends the oldest connections whose peers do not take their answers, if many answers are held.
    fn limit_answers(&mut self) {
        let held = self.connections.iter().filter(|connection| connection.is_sending()).count();
        let mut surplus = held.saturating_sub(MAX_ADMIN_ANSWERS);
        self.connections.retain(|connection| {
            let ends = surplus > 0 && connection.is_sending();
            surplus -= usize::from(ends);
            !ends
        });
    }
}

/// Lets a connection continue, and returns whether it stays open.
fn advance(connection: &mut Connection, answer: impl Fn(&RequestHead) -> Answer) -> bool {
    // The panic hook counts and logs a panic; the other connections continue.
    catch_unwind(AssertUnwindSafe(|| connection.advance(answer))).unwrap_or(false)
}

fn timespec(wait: Duration) -> Option<Timespec> {
    Timespec::try_from(wait).ok()
}

//! Readiness of connections, and the outcome of their requests.

use std::io;
use std::time::Duration;

use mio::{Events, Token};

use super::{InFlight, Worker};
use crate::check::{has_right_integrity_value, is_right};
use crate::ciphertext::CIPHERTEXT_METADATA;
use crate::connection::State;
use crate::request::Sent;
use crate::response::{self, string_member};
use crate::schedule::Nanos;

impl Worker<'_> {
    pub(super) fn poll(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in events.iter() {
            let Token(index) = event.token();
            // A connection of this batch may have been replaced in the meantime: then its state
            // shows that there is nothing to do, or the socket returns WouldBlock.
            match self.connections.get(index).map(|connection| connection.state) {
                Some(State::Opening) => self.continue_opening(index, event.is_read_closed()),
                Some(State::Idle) => self.idle_event(index, event.is_read_closed()),
                Some(State::Busy) => self.busy_event(index, event),
                Some(State::Closed) | None => {}
            }
        }
        Ok(())
    }

    pub(super) fn continue_opening(&mut self, index: usize, is_read_closed: bool) {
        let connection = &mut self.connections[index];
        let result = connection.is_open().and_then(|is_open| {
            if is_open || connection.receive(&mut self.scratch, is_read_closed)? {
                connection.is_open()
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        });
        match result {
            Ok(true) => self.opened(index),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => self.failed_to_open(index, &error),
        }
    }

    pub(super) fn idle_event(&mut self, index: usize, is_read_closed: bool) {
        let connection = &mut self.connections[index];
        // Session tickets, or the end of the stream.
        let is_alive = connection.receive(&mut self.scratch, is_read_closed).unwrap_or(false);
        if !is_alive || !connection.received.is_empty() {
            self.stats.connections.closed_by_server += u64::from(index < self.share.connections);
            self.replace(index);
        }
    }

    pub(super) fn busy_event(&mut self, index: usize, event: &mio::event::Event) {
        let connection = &mut self.connections[index];
        let flushed = if event.is_writable() { connection.flush() } else { Ok(()) };
        let received = match flushed {
            Ok(()) if event.is_readable() || event.is_read_closed() => {
                connection.receive(&mut self.scratch, event.is_read_closed())
            }
            Ok(()) => return,
            Err(error) => Err(error),
        };
        let now = self.now();
        let is_alive = matches!(received, Ok(true));
        // Taken out while the answer borrows from it.
        let bytes = std::mem::take(&mut self.connections[index].received);
        match response::parse(&bytes) {
            Ok(Some(answer)) if answer.extra_bytes == 0 => {
                self.answered(index, now, &answer);
                if answer.close || !is_alive {
                    self.stats.connections.closed_by_server += 1;
                    self.replace(index);
                } else if self.is_to_be_renewed() {
                    self.stats.connections.renewed += 1;
                    self.replace(index);
                } else {
                    self.connections[index].state = State::Idle;
                    self.free.push_back(index);
                }
            }
            Ok(None) if is_alive => {
                self.connections[index].received = bytes;
                return;
            }
            Ok(None) => self.lost(index, received.err().as_ref()),
            Ok(Some(_)) | Err(_) => {
                self.stats.connections.given_up += 1;
                self.end(index, Some((0, "malformed answer")));
                self.replace(index);
            }
        }
        // Put back, so that its memory is reused.
        self.connections[index].received = bytes;
        self.connections[index].received.clear();
    }

    /// Decides at random, so that connections opened together are not all renewed at once.
    fn is_to_be_renewed(&mut self) -> bool {
        let requests = self.plan.requests_per_connection;
        requests.is_some_and(|requests| self.random.u32(..requests) == 0)
    }

    pub(super) fn answered(&mut self, index: usize, now: Nanos, answer: &response::Answer<'_>) {
        let Some(InFlight { sent, intended, phase }) = self.in_flight[index].take() else { return };
        self.busy -= 1;
        self.serials[index] += 1;
        let latency = now.saturating_sub(intended);
        let operation = sent.operation;
        if answer.status != 200 {
            let name = string_member(answer.body, "\"errorName\"").unwrap_or(b"no errorName");
            let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
            self.note(Some(index), operation.name(), latency, answer.status, &name);
            self.stats.record(operation, phase, latency, Some((answer.status, &name)));
        } else if self.plan.is_checked && !self.is_right(index, &sent, answer.body) {
            self.note(Some(index), operation.name(), latency, 200, "wrong answer");
            self.stats.record(operation, phase, latency, Some((200, "wrong answer")));
        } else {
            self.stats.record(operation, phase, latency, None);
            if let Some(current) = self.current_phase {
                self.stats.answered[current] += 1;
            }
            if operation.is_encrypt() && self.plan.is_checked {
                let request = &self.connections[index].request;
                self.samples.offer(&sent, request, answer.body);
                self.requests.offer(&sent, request, answer.body);
            }
            if self.plan.has_round_trips && phase.is_some() {
                let metadata = match &sent.ciphertext {
                    Some(ciphertext) => ciphertext.metadata.as_slice(),
                    None => string_member(answer.body, CIPHERTEXT_METADATA).unwrap_or_default(),
                };
                self.stats.record_metadata(operation, metadata);
            }
        }
        self.answers[index] += 1;
    }

    /// Returns whether a 200 is right. Round trips also check each CDIV, at the cost of a hash.
    fn is_right(&self, index: usize, sent: &Sent, body: &[u8]) -> bool {
        let request = &self.connections[index].request;
        let aad = request.get(sent.aad.clone()).unwrap_or_default();
        is_right(sent, body)
            && (!self.plan.has_round_trips || has_right_integrity_value(sent, aad, body))
    }

    pub(super) fn lost(&mut self, index: usize, error: Option<&io::Error>) {
        self.stats.connections.lost += 1;
        self.stats.last_error = error.map(ToString::to_string).or(self.stats.last_error.take());
        self.end(index, Some((0, "connection lost")));
        self.replace(index);
    }

    /// Handles the end of a request without an answer.
    pub(super) fn end(&mut self, index: usize, failure: Option<(u16, &str)>) {
        let Some(InFlight { sent, intended, phase }) = self.in_flight[index].take() else { return };
        self.busy -= 1;
        self.serials[index] += 1;
        let latency = self.now().saturating_sub(intended);
        if let Some((status, name)) = failure {
            self.note(Some(index), sent.operation.name(), latency, status, name);
        }
        self.stats.record(sent.operation, phase, latency, failure);
    }
}

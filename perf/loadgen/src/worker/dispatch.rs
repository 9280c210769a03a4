//! Sends requests that are due and abandons those that took too long.

use std::io;

use super::{Expiry, InFlight, Worker};
use crate::connection::State;
use crate::request::{Operation, Sent};
use crate::schedule::{Nanos, Pace, nanos};

impl Worker<'_> {
    /// Moves requests that are due to the backlog; returns the time of the next.
    pub(super) fn admit(&mut self, now: Nanos) -> Option<Nanos> {
        if self.remaining == 0 {
            self.backlog.clear();
            return None;
        }
        while let Some((intended, phase)) = self.arrivals.peek() {
            if intended > now {
                return Some(intended);
            }
            self.arrivals.advance();
            self.backlog.push_back((intended, phase));
            if self.plan.phases[phase].is_measured {
                self.stats.lateness.saturating_record(now - intended);
            }
        }
        None
    }

    /// Sends from the backlog or, in a closed loop, on every free connection.
    pub(super) fn dispatch(&mut self, phase: Option<(usize, Nanos)>) {
        let closed_loop = phase
            .map(|(phase, _)| phase)
            .filter(|phase| self.plan.phases[*phase].pace == Pace::Closed);
        while self.remaining > 0 && (closed_loop.is_some() || !self.backlog.is_empty()) {
            let Some(index) = self.free.pop_front() else { return };
            if self.connections[index].state != State::Idle {
                continue;
            }
            let sent = self.next_request(index);
            let now = self.now();
            let due = match self.plan.is_newest_first {
                true => self.backlog.pop_back(),
                false => self.backlog.pop_front(),
            };
            let (intended, phase) = match due {
                Some((intended, phase)) => {
                    if self.plan.phases[phase].is_measured {
                        self.stats.wait.saturating_record(now.saturating_sub(intended));
                    }
                    (intended, phase)
                }
                None => (now, closed_loop.unwrap_or(0)),
            };
            self.remaining -= 1;
            self.busy += 1;
            self.serials[index] += 1;
            let phase = self.plan.phases[phase].is_measured.then_some(phase);
            self.in_flight[index] = Some(InFlight { sent, intended, phase });
            self.timeouts.push_back(Expiry {
                at: intended + nanos(self.plan.timeout),
                connection: index,
                serial: self.serials[index],
            });
            if let Err(error) = self.connections[index].send() {
                self.lost(index, Some(&error));
            }
        }
    }

    /// Puts a request into a connection, using one that was signed ahead if possible.
    pub(super) fn next_request(&mut self, index: usize) -> Sent {
        if let Some((mut request, sent)) = self.prepared.pop_front() {
            std::mem::swap(&mut request, &mut self.connections[index].request);
            self.spare.push(request);
            return sent;
        }
        let operation = self.next_operation();
        self.requests.build(operation, &mut self.connections[index].request)
    }

    /// Signs one request ahead if there is room. Returns whether it did.
    pub(super) fn prepare_one(&mut self) -> bool {
        if self.prepared.len() >= self.max_prepared {
            return false;
        }
        let mut request = self.spare.pop().unwrap_or_default();
        let operation = self.next_operation();
        let sent = self.requests.build(operation, &mut request);
        self.prepared.push_back((request, sent));
        true
    }

    pub(super) fn next_operation(&mut self) -> Operation {
        let sum: u32 = self.plan.mix.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.random.u32(..sum.max(1));
        for (operation, weight) in &self.plan.mix {
            if drawn < *weight {
                return *operation;
            }
            drawn -= weight;
        }
        self.plan.mix[0].0
    }

    /// Abandons requests under way, unsent requests and handshakes that have timed out.
    pub(super) fn expire(&mut self, now: Nanos) {
        while self.timeouts.front().is_some_and(|expiry| expiry.at <= now || self.is_past(expiry)) {
            let Some(expiry) = self.timeouts.pop_front() else { break };
            if !self.is_past(&expiry) {
                self.stats.connections.given_up += 1;
                self.end(expiry.connection, Some((0, "timeout")));
                self.replace(expiry.connection);
            }
        }
        while let Some((intended, phase)) = self.backlog.front().copied() {
            let age = now.saturating_sub(intended);
            if age < nanos(self.plan.timeout) {
                break;
            }
            self.backlog.pop_front();
            let phase = self.plan.phases[phase].is_measured.then_some(phase);
            let operation = self.next_operation();
            self.note(None, operation.name(), age, 0, "timeout before sending");
            self.stats.record(operation, phase, age, Some((0, "timeout before sending")));
        }
        while self.opening.front().is_some_and(|expiry| expiry.at <= now || self.is_past(expiry)) {
            let Some(expiry) = self.opening.pop_front() else { break };
            if !self.is_past(&expiry) {
                let error = io::Error::other("connecting and TLS took too long");
                self.failed_to_open(expiry.connection, &error);
            }
        }
    }

    pub(super) fn is_past(&self, expiry: &Expiry) -> bool {
        self.serials[expiry.connection] != expiry.serial
    }
}

//! One accepted connection: its socket, its TLS session and its protocol state.

mod ending;
mod proxied;
mod sending;

use std::io::{self, ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;

use super::admission::ConnectionPermit;
use super::config::ProxyProtocol;
#[cfg(test)]
use super::faults::{self, PanicPoint};
use super::loop_context::LoopContext;
use super::tls::{TlsError, TlsSession};
use super::unsent::Unsent;
use super::waiting::List;
use crate::job::{Completion, Failure};
use crate::limits::{MAX_READ_PER_TURN_BYTES, MAX_UNKEYED_FLIGHT_BYTES, READ_SCRATCH_BYTES};
use crate::proto::{Connection, Listener, Step, Wait};

/// The next state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It stays open, and waits for an event or a deadline.
    Stays,
    /// It stays open, and has more to read or more requests than one turn allows.
    Again,
    /// It stays open, and waits until its TLS handshake is allowed.
    Handshake,
    /// It ends.
    Ends,
}

enum Phase {
    /// A load balancer sends a PROXY header first, by this rule.
    Proxy { since: Instant, rule: ProxyProtocol },
    /// The TLS handshake is under way. `is_answered`: the expensive first flight has been sent.
    Handshake { since: Instant, is_answered: bool },
    /// Requests and answers are exchanged.
    Open,
    /// The last answer has been sent. Further input is dropped, so that the kernel does not reset
    /// the connection before the peer has read the answer (RFC 9112, 9.6).
    Linger { until: Instant, left: usize },
}

/// One accepted connection.
pub(super) struct Peer {
    stream: TcpStream,
    address: SocketAddr,
    permit: ConnectionPermit,
    /// Number that is unique among the loop's connections.
    number: u64,
    accepted: Instant,
    /// Time at which it entered the loop's list of ready connections, if it is in that list.
    pub(super) ready_since: Option<Instant>,
    /// It is in the loop's list of waiting handshakes.
    pub(super) awaits_handshake: bool,
    /// It is in the loop's list of connections to be ended because their peers have given up.
    pub(super) is_given_up: bool,
    tls: Option<TlsSession>,
    connection: Connection,
    /// Bytes that have not been written to the socket yet.
    unsent: Unsent,
    phase: Phase,
    /// The kernel has reported that the socket is writable again.
    is_writable: bool,
    /// The socket may have bytes: edge-triggered readiness is remembered until a read is short.
    is_readable: bool,
    /// The kernel has reported that the peer closed its side: after a short read, the end of the
    /// input is still to be read.
    is_read_closed: bool,
    /// The end of the input has been read.
    is_eof: bool,
}

enum Filled {
    Bytes(usize),
    Nothing,
    Eof,
}

impl Peer {
    /// Makes the state of an accepted connection. `headers` is the rule for a PROXY header at its
    /// beginning, if the peer may send one.
    pub(super) fn new(
        (stream, address): (TcpStream, SocketAddr),
        permit: ConnectionPermit,
        headers: Option<ProxyProtocol>,
        number: u64,
        tls: Option<TlsSession>,
        connection: Connection,
        now: Instant,
    ) -> Self {
        let phase = match (headers, &tls) {
            (Some(rule), _) => Phase::Proxy { since: now, rule },
            (None, Some(_)) => Phase::Handshake { since: now, is_answered: false },
            (None, None) => Phase::Open,
        };
        Self {
            stream,
            address,
            permit,
            number,
            accepted: now,
            ready_since: None,
            awaits_handshake: false,
            is_given_up: false,
            tls,
            connection,
            unsent: Unsent::default(),
            phase,
            is_writable: false,
            is_readable: false,
            is_read_closed: false,
            is_eof: false,
        }
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Address of the other end: the client's, once a PROXY header has named it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Time at which the current wait times out.
    pub(super) fn deadline(&self, context: &LoopContext) -> Instant {
        let timeouts = &context.loop_state.service.options.timeouts;
        let unless_quiet_at_the_end =
            |at: Instant| context.quiet_until.map_or(at, |until| until.min(at));
        match self.phase {
            Phase::Proxy { since, .. } | Phase::Handshake { since, .. } => {
                unless_quiet_at_the_end(since + timeouts.handshake)
            }
            Phase::Linger { until, .. } => until,
            Phase::Open => match self.connection.wait() {
                Wait::Idle(since) => unless_quiet_at_the_end(since + timeouts.idle),
                Wait::Head(since) => since + timeouts.head,
                Wait::Body(since) => since + timeouts.body,
                Wait::Hsm(until) => until,
                Wait::Send(since) => since + timeouts.write,
            },
        }
    }

    /// Returns whether it waits for the completion with this serial number.
    pub(super) fn waits_for(&self, serial: u64) -> bool {
        self.connection.waits_for(serial)
    }

    /// Returns whether it is open and every request has been answered.
    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Open) && matches!(self.connection.wait(), Wait::Idle(_))
    }

    /// Number that is unique among the loop's connections.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The listener that accepted it.
    pub(super) fn listener(&self) -> Listener {
        self.permit.listener
    }

    /// Memory that it holds besides its receive buffer.
    pub(super) fn held_bytes(&self) -> usize {
        self.unsent.held_bytes() + self.tls.as_ref().map_or(0, TlsSession::held_bytes)
    }

    /// Memory that it holds although no authentic request has come from it.
    pub(super) fn unproven_bytes(&self) -> usize {
        // A request at the HSM is authentic.
        if self.connection.is_proven() || matches!(self.connection.wait(), Wait::Hsm(_)) {
            return 0;
        }
        self.held_bytes() + self.connection.buffer_bytes()
    }

    /// Returns whether it holds memory that others may need.
    pub(super) fn holds_memory(&self) -> bool {
        self.held_bytes() > 0 || self.connection.holds_buffer()
    }

    /// Its rank among the connections that may be evicted; the lowest goes first. Connections
    /// without an authentic request rank lowest, by age, followed by idle ones, by idle time.
    /// `None` if it must not be evicted: its request is at the HSM, or it has sent an authentic
    /// request and is not idle.
    pub(super) fn key_status(&self) -> Option<(bool, Instant)> {
        let wait = self.connection.wait();
        match self.phase {
            Phase::Linger { .. } => Some((false, self.accepted)),
            Phase::Open if matches!(wait, Wait::Hsm(_)) => None,
            _ if !self.connection.is_proven() => Some((false, self.accepted)),
            _ => match wait {
                Wait::Idle(since) => Some((true, since)),
                _ => None,
            },
        }
    }

    /// Records an event of the socket, and returns whether there is something to do.
    pub(super) fn note_event(&mut self, event: &Event) -> bool {
        let is_closed = event.is_read_closed() || event.is_error();
        self.is_read_closed |= is_closed;
        self.is_readable |= event.is_readable() || is_closed;
        self.is_writable |= event.is_writable() && !self.unsent.is_empty();
        self.is_readable || self.is_writable
    }

    /// The list in which it waits for its turn. Load balancers' checks on the port of `/ping`, which
    /// has few connections, are as important as customers: while they fail, nobody is served.
    pub(super) fn list(&self) -> List {
        match self.listener() {
            Listener::Ping => List::Proven,
            Listener::Api if self.connection.is_proven() => List::Proven,
            Listener::Api => List::Unproven,
        }
    }

    /// Returns whether the peer has closed its side and expects no answer to a request that has been
    /// read. (One that closes its side and still wants an answer to what it has sent looks alike.)
    pub(super) fn has_given_up(&self) -> bool {
        let is_at_input =
            matches!(self.connection.wait(), Wait::Idle(_) | Wait::Head(_) | Wait::Body(_));
        let is_lingering = matches!(self.phase, Phase::Linger { .. });
        self.is_read_closed && self.unsent.is_empty() && is_at_input && !is_lingering
    }

    /// Reads bytes that have arrived, without waiting for the kernel to report them.
    pub(super) fn read_at_once(&mut self, context: &mut LoopContext) -> Fate {
        self.is_readable = true;
        self.resume(context)
    }

    /// Continues after an event, or with work that exceeded the last turn's share.
    pub(super) fn resume(&mut self, context: &mut LoopContext) -> Fate {
        if std::mem::take(&mut self.is_writable) {
            match self.on_writable(context) {
                Fate::Stays => {}
                fate => return fate,
            }
        }
        let is_answered = matches!(self.connection.wait(), Wait::Send(_));
        if matches!(self.phase, Phase::Open) && is_answered && self.unsent.is_empty() {
            let step = self.connection.sent(&mut context.loop_state, &context.snapshot);
            return self.drive_and_read_on(step, context);
        }
        self.read_on(context)
    }

    /// Handles a socket that has become writable again.
    fn on_writable(&mut self, context: &mut LoopContext) -> Fate {
        if self.unsent.is_empty() {
            return Fate::Stays;
        }
        match self.flush() {
            Err(_) => Fate::Ends,
            Ok(false) => Fate::Stays,
            Ok(true) => match self.phase {
                Phase::Open => {
                    let step = self.connection.sent(&mut context.loop_state, &context.snapshot);
                    self.drive_and_read_on(step, context)
                }
                // Nothing was read while bytes were unsent.
                _ => self.read_on(context),
            },
        }
    }

    /// Handles the HSM's answer.
    pub(super) fn on_completion(
        &mut self,
        completion: Completion,
        context: &mut LoopContext,
    ) -> Fate {
        #[cfg(test)]
        faults::at(PanicPoint::Completion, self.address);
        let step = self.connection.complete(&mut context.loop_state, &context.snapshot, completion);
        self.drive_and_read_on(step, context)
    }

    /// Handles the refusal of a job by the HSM side.
    pub(super) fn on_refusal(&mut self, failure: Failure, context: &mut LoopContext) -> Fate {
        let step = self.connection.reject(&mut context.loop_state, &context.snapshot, failure);
        self.drive_and_read_on(step, context)
    }

    /// Handles the expiry of [`Self::deadline`].
    pub(super) fn on_deadline(&mut self, context: &mut LoopContext) -> Fate {
        #[cfg(test)]
        faults::at(PanicPoint::Deadline, self.address);
        match self.phase {
            Phase::Proxy { .. } | Phase::Handshake { .. } | Phase::Linger { .. } => Fate::Ends,
            // No answer is under way that the peer could miss.
            Phase::Open if context.snapshot.is_stopping && self.is_idle() => self.leave(context),
            Phase::Open => {
                let step = self.connection.timed_out(&mut context.loop_state, &context.snapshot);
                self.drive_and_read_on(step, context)
            }
        }
    }

    /// Closes the connection and returns its memory to the pools.
    pub(super) fn close(self, context: &mut LoopContext) {
        context.count_unfinished_handshake(self.tls.as_ref());
        self.connection.close(&mut context.loop_state);
    }

    fn drive_and_read_on(&mut self, step: Step, context: &mut LoopContext) -> Fate {
        match self.drive(step, context) {
            Fate::Stays if self.is_readable => self.read_on(context),
            fate => fate,
        }
    }

    /// Reads until the socket is empty, a request is complete, or the turn's share is used up.
    fn read_on(&mut self, context: &mut LoopContext) -> Fate {
        let mut budget = MAX_READ_PER_TURN_BYTES;
        while self.is_readable && !self.is_eof {
            match self.phase {
                Phase::Proxy { since, rule } => {
                    match self.take_proxy_header(since, rule, context) {
                        None => continue,
                        Some(fate) => return fate,
                    }
                }
                // The peer has given up or will not see the answer, so no work is done for it.
                Phase::Handshake { is_answered: false, .. } if self.is_read_closed => {
                    return Fate::Ends;
                }
                Phase::Handshake { is_answered: false, .. } if !context.may_handshake => {
                    return Fate::Handshake;
                }
                Phase::Linger { .. } => return self.drop_input(context),
                Phase::Handshake { .. } | Phase::Open => {}
            }
            let room = self.room(context);
            if room == 0 {
                return Fate::Stays;
            }
            if budget == 0 {
                return Fate::Again;
            }
            let step = match self.fill(room.min(budget), context) {
                Ok(Filled::Nothing) => return Fate::Stays,
                Ok(Filled::Bytes(count)) => {
                    budget -= count;
                    self.connection.step(&mut context.loop_state, &context.snapshot)
                }
                Ok(Filled::Eof) => {
                    self.is_eof = true;
                    self.connection.peer_closed(&mut context.loop_state, &context.snapshot)
                }
                Err(error) => {
                    self.note(&error, context);
                    return match error {
                        // The peer should see the alert.
                        PeerError::Tls(_) => self.linger(context),
                        PeerError::Io(_) => Fate::Ends,
                    };
                }
            };
            match self.drive(step, context) {
                Fate::Stays => {}
                fate => return fate,
            }
        }
        Fate::Stays
    }

    /// Number of bytes that may be read now. Zero while an answer is unsent: nothing is read from a
    /// peer that does not read its answers.
    fn room(&self, context: &LoopContext) -> usize {
        let room =
            if self.unsent.is_empty() { self.connection.room(&context.loop_state) } else { 0 };
        let partial = self.tls.as_ref().map_or(0, |tls| tls.partial().len());
        room.min(READ_SCRATCH_BYTES).saturating_sub(partial)
    }

    /// Reads once, and decrypts into the connection's buffer.
    fn fill(&mut self, max_bytes: usize, context: &mut LoopContext) -> Result<Filled, PeerError> {
        let scratch = &mut context.scratch;
        let partial = self.tls.as_ref().map_or(&[][..], TlsSession::partial);
        let offset = partial.len();
        scratch[..offset].copy_from_slice(partial);
        let into = &mut scratch[offset..offset + max_bytes];
        let count = loop {
            match self.stream.read(into) {
                Ok(0) => {
                    self.is_readable = false;
                    return Ok(Filled::Eof);
                }
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(Filled::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(PeerError::Io(error)),
            }
        };
        // A short read has emptied the socket (epoll(7), question 9), and later bytes cause another
        // event.
        if count < max_bytes && !self.is_read_closed {
            self.is_readable = false;
        }
        let filled = self.decrypt(offset, count, context);
        #[cfg(test)]
        faults::at(PanicPoint::Received, self.address);
        // The scratch memory holds plaintext. (These stores are not dead: the next read may leave
        // some of it unchanged.)
        context.scratch[..offset + count].fill(0);
        filled
    }

    /// Passes on the bytes that have been read: `count` bytes of the scratch memory after `offset`
    /// bytes of an incomplete TLS record.
    fn decrypt(
        &mut self,
        offset: usize,
        count: usize,
        context: &mut LoopContext,
    ) -> Result<Filled, PeerError> {
        let LoopContext { scratch, loop_state, snapshot, outgoing, admission, .. } = context;
        let ready_since = context.ready_since;
        let Some(tls) = &mut self.tls else {
            self.connection.receive(loop_state, ready_since, &scratch[..count]);
            return Ok(Filled::Bytes(count));
        };
        let connection = &mut self.connection;
        let received = tls.receive(&mut scratch[..offset + count], outgoing, |plaintext| {
            connection.receive(loop_state, ready_since, plaintext);
        });
        let is_handshaking = tls.is_handshaking();
        if let Phase::Handshake { is_answered, .. } = &mut self.phase
            && !*is_answered
            && outgoing.filled().len() > MAX_UNKEYED_FLIGHT_BYTES
        {
            *is_answered = true;
            if let Some(rate) = &admission.handshakes {
                rate.charge(snapshot.now);
            }
        }
        if !outgoing.filled().is_empty() {
            self.send_outgoing(outgoing).map_err(PeerError::Io)?;
        }
        let received = received.map_err(PeerError::Tls)?;
        if matches!(self.phase, Phase::Handshake { .. }) && !is_handshaking {
            self.phase = Phase::Open;
            loop_state.metrics.tls_handshakes.add(1);
        }
        if received.is_closed {
            self.is_readable = false;
            return Ok(Filled::Eof);
        }
        Ok(Filled::Bytes(count))
    }

    /// Carries out the protocol core's steps until it has to wait.
    fn drive(&mut self, mut step: Step, context: &mut LoopContext) -> Fate {
        loop {
            if !context.loop_state.out.is_empty() {
                #[cfg(test)]
                faults::at(PanicPoint::Answer, self.address);
                let sent = self.send(context);
                context.loop_state.clear_out();
                if sent.is_err() {
                    return Fate::Ends;
                }
            }
            step = match step {
                Step::Receive => return Fate::Stays,
                Step::Submit(job) => {
                    context.submit(job);
                    return Fate::Stays;
                }
                Step::Send if self.unsent.is_empty() => {
                    if context.answers_left == 0 {
                        return Fate::Again;
                    }
                    context.answers_left -= 1;
                    self.connection.sent(&mut context.loop_state, &context.snapshot)
                }
                Step::Send => return Fate::Stays,
                Step::Close => return self.begin_close(context),
            };
        }
    }

    /// Logs a broken connection, which is normal, at a low level, and a failed handshake at a
    /// higher one.
    fn note(&self, error: &PeerError, context: &mut LoopContext) {
        match (error, &self.phase) {
            (PeerError::Tls(error), Phase::Handshake { .. }) => {
                context.note_failed_handshake(self.address, error);
            }
            (PeerError::Tls(error), _) => {
                tracing::debug!(peer = %self.address, %error, "TLS session broken");
            }
            (PeerError::Io(error), _) => {
                tracing::debug!(peer = %self.address, %error, "connection broken");
            }
        }
    }
}

enum PeerError {
    Io(io::Error),
    Tls(TlsError),
}

//! One peer's connection: an explicit state machine, resumed with each piece of input.
//!
//! The shell feeds bytes, completions and timeouts, and does what the returned [`Step`] says.
//! Anything appended to [`LoopState::out`] must be sent, whichever step is returned. Requests are
//! handled one at a time: those that a pipelining peer sends ahead wait in the buffer, so answers
//! keep their order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::buffer::Buffer;
use super::exchange::{self, Answer, AnswerSource, Exchange, Next, Origin, Outcome};
use super::http::HttpError;
use super::http::body::{Progress, Whole};
use super::http::{request, response};
use super::loop_state::{LoopState, Snapshot};
use super::route::Listener;
use super::xks::encode;
use crate::job::{Completion, Failure, Job, ReplyTo, Request, Success};
use crate::limits::MIN_AGE_TO_SEND_AWAY;

/// The shell's next task.
#[must_use]
pub enum Step {
    /// Wait for more bytes, until [`Connection::wait`] ends.
    Receive,
    /// Hand this to the HSM and wait for its completion. No bytes are wanted until then.
    Submit(Job),
    /// Send the answer in [`LoopState::out`], then call [`Connection::sent`].
    Send,
    /// Close the connection.
    Close,
}

/// The event that a connection waits for, with the start of the wait (for the HSM, its end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The start of a request.
    Idle(Instant),
    /// The rest of a request's head.
    Head(Instant),
    /// The rest of its body.
    Body(Instant),
    /// The HSM's answer, until this time; then the request is answered without it.
    Hsm(Instant),
    /// An answer to be sent.
    Send(Instant),
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State {
    /// A head is arriving; it does not end within the first `searched` bytes.
    Head { searched: usize },
    /// A body is arriving after a head of `head_bytes`. `max_bytes` is the limit on it in the
    /// settings that applied when it began.
    Body { head_bytes: usize, max_bytes: usize, progress: Progress },
    /// The HSM is working.
    Waiting { exchange: Exchange, request: Arc<Request>, serial: u64, deadline: Instant },
    /// The answer is being sent.
    Answered { close: bool },
}

/// One peer's connection.
pub struct Connection {
    listener: Listener,
    peer: Option<IpAddr>,
    buffer: Buffer,
    state: State,
    /// Time of the request's first byte; while idle, the time at which the last answer had been
    /// sent.
    started: Instant,
    /// Start of the current state.
    since: Instant,
    /// Time at which the connection was made.
    opened: Instant,
    /// The peer will send no more.
    is_half_closed: bool,
    /// Number of requests answered.
    answered: u64,
    /// At least one of them was authentic.
    is_proven: bool,
    /// The connection was made while the process was draining.
    came_late: bool,
}

impl Connection {
    /// A new connection.
    #[must_use]
    pub fn new(listener: Listener, peer: Option<IpAddr>, snapshot: &Snapshot) -> Self {
        Self {
            listener,
            peer,
            buffer: Buffer::default(),
            state: State::Head { searched: 0 },
            started: snapshot.now,
            since: snapshot.now,
            opened: snapshot.now,
            is_half_closed: false,
            answered: 0,
            is_proven: false,
            came_late: snapshot.is_draining,
        }
    }

    /// Replaces the peer's address by the one that a load balancer has named.
    pub fn set_peer(&mut self, peer: IpAddr) {
        self.peer = Some(peer);
    }

    /// Returns whether it holds a buffer of the pool.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Size of the buffer of the pool that it holds.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Returns whether the peer has sent an authentic request: a signed one, if signatures are
    /// required.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// The event that it waits for. The configuration limits the duration.
    #[must_use]
    pub fn wait(&self) -> Wait {
        match self.state {
            State::Head { .. } if self.buffer.is_empty() => Wait::Idle(self.since),
            State::Head { .. } => Wait::Head(self.started),
            State::Body { .. } => Wait::Body(self.since),
            State::Waiting { deadline, .. } => Wait::Hsm(deadline),
            State::Answered { .. } => Wait::Send(self.since),
        }
    }

    /// Number of bytes that [`Self::receive`] accepts now. Zero while an answer is pending: a peer
    /// that sends ahead waits.
    #[must_use]
    pub fn room(&self, loop_state: &LoopState) -> usize {
        match self.state {
            State::Head { .. } | State::Body { .. } => {
                loop_state.buffers.large_bytes().saturating_sub(self.buffer.len())
            }
            _ => 0,
        }
    }

    /// Receives bytes, no more than [`Self::room`], that have been readable since `since`.
    pub fn receive(&mut self, loop_state: &mut LoopState, since: Instant, bytes: &[u8]) {
        if self.buffer.is_empty() && !bytes.is_empty() {
            self.started = since;
        }
        let taken = self.buffer.receive(bytes, &mut loop_state.buffers);
        debug_assert_eq!(taken, bytes.len());
    }

    /// Handles the end of the peer's input. Complete requests, including those sent ahead, are
    /// still answered (RFC 9112, 9.3.2 and 9.6); then the connection ends.
    pub fn peer_closed(&mut self, loop_state: &mut LoopState, snapshot: &Snapshot) -> Step {
        self.is_half_closed = true;
        match &self.state {
            State::Head { .. } | State::Body { .. } => self.step(loop_state, snapshot),
            State::Waiting { .. } | State::Answered { .. } => Step::Receive,
        }
    }

    /// Continues with the bytes received so far.
    pub fn step(&mut self, loop_state: &mut LoopState, snapshot: &Snapshot) -> Step {
        loop {
            match &mut self.state {
                State::Head { searched } => {
                    let empty_lines = request::leading_empty_lines(self.buffer.filled());
                    if empty_lines > 0 {
                        self.buffer.consume(empty_lines, &mut loop_state.buffers);
                        *searched = 0;
                    }
                    let received = self.buffer.filled();
                    let Some(end) = request::find_end(received, *searched) else {
                        if let Some(error) = request::too_large(received) {
                            return self.refuse(loop_state, snapshot, error);
                        }
                        if request::has_lone_line_end(received, *searched) {
                            return self.refuse(loop_state, snapshot, request::LONE_LINE_END);
                        }
                        *searched = received.len();
                        return self.receive_more();
                    };
                    match self.begin(loop_state, snapshot, end) {
                        Ok(Some(outcome)) => return self.proceed(loop_state, snapshot, outcome),
                        Ok(None) => {}
                        Err(error) => return self.refuse(loop_state, snapshot, error),
                    }
                }
                State::Body { head_bytes, max_bytes, progress } => {
                    let (head_bytes, max_bytes) = (*head_bytes, *max_bytes);
                    let (_, body, received) = self.buffer.split_mut(head_bytes);
                    match progress.advance(&mut body[..received], max_bytes) {
                        Ok(Some(whole)) => {
                            return match self.check(loop_state, snapshot, head_bytes, whole) {
                                Ok(outcome) => self.proceed(loop_state, snapshot, outcome),
                                Err(error) => self.refuse(loop_state, snapshot, error),
                            };
                        }
                        Ok(None) => {
                            if let Some((at, spent)) = progress.take_spent() {
                                self.buffer.remove(head_bytes + at, spent);
                            }
                            return self.receive_more();
                        }
                        Err(error) => return self.refuse(loop_state, snapshot, error),
                    }
                }
                State::Waiting { .. } => return Step::Receive,
                State::Answered { .. } => return Step::Send,
            }
        }
    }

    /// The next step if more input is needed: to receive it, or to close after the end of the
    /// input.
    fn receive_more(&self) -> Step {
        if self.is_half_closed { Step::Close } else { Step::Receive }
    }

    fn origin(&self) -> Origin {
        Origin { listener: self.listener, peer: self.peer, started: self.started }
    }

    /// Handles a request whose head ends at `head_bytes`. Usually the whole body has arrived with
    /// it, and the head is parsed only here.
    fn begin(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head_bytes: usize,
    ) -> Result<Option<Outcome>, HttpError> {
        let origin = self.origin();
        let max_bytes = loop_state.service.max_body_bytes();
        let (head, body, received) = self.buffer.split_mut(head_bytes);
        let mut slots = request::header_slots();
        let head = request::parse(head, &mut slots)?;
        let mut progress = Progress::new(head.framing, max_bytes)?;
        if let Some(whole) = progress.advance(&mut body[..received], max_bytes)? {
            return Ok(Some(origin.check(loop_state, snapshot, &head, head_bytes, body, whole)));
        }
        if head.expects_continue && received == 0 {
            loop_state.out.extend_from_slice(response::CONTINUE);
        }
        self.state = State::Body { head_bytes, max_bytes, progress };
        self.since = snapshot.now;
        Ok(None)
    }

    /// Checks a request whose body came in pieces and is now complete.
    fn check(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head_bytes: usize,
        whole: Whole,
    ) -> Result<Outcome, HttpError> {
        let origin = self.origin();
        let (head, body, _) = self.buffer.split_mut(head_bytes);
        let mut slots = request::header_slots();
        let head = request::parse(head, &mut slots)?;
        Ok(origin.check(loop_state, snapshot, &head, head_bytes, body, whole))
    }

    /// Continues with a request that has been checked.
    fn proceed(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        outcome: Outcome,
    ) -> Step {
        let (exchange, checked) = outcome;
        match checked {
            Ok(AnswerSource::Text(status, text)) => {
                loop_state.body.extend_from_slice(text.as_bytes());
                self.finish(loop_state, snapshot, &exchange, Answer::Text(status))
            }
            Ok(AnswerSource::Health) => {
                let fleet_size = loop_state.service.options.fleet_size;
                encode::health(&mut loop_state.body, &loop_state.health, fleet_size);
                self.finish(loop_state, snapshot, &exchange, Answer::Json)
            }
            Ok(AnswerSource::Hsm(request)) => self.submit(loop_state, snapshot, exchange, request),
            Err(error) => self.finish(loop_state, snapshot, &exchange, Answer::Error(&error)),
        }
    }

    #[inline]
    fn submit(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        mut exchange: Exchange,
        request: Arc<Request>,
    ) -> Step {
        exchange.note_queued(snapshot.now);
        let serial = loop_state.take_serial();
        let deadline = self.started + loop_state.service.options.timeouts.request;
        let job = Job {
            request: Arc::clone(&request),
            output: loop_state.take_output(),
            reply_to: ReplyTo { event_loop: loop_state.event_loop, slot: 0, serial },
            queued_at: snapshot.now,
            deadline,
        };
        loop_state.metrics.in_flight.increment();
        self.state = State::Waiting { exchange, request, serial, deadline };
        Step::Submit(job)
    }

    /// Returns whether the connection waits for the completion with that serial number.
    #[must_use]
    pub fn waits_for(&self, awaited: u64) -> bool {
        matches!(self.state, State::Waiting { serial, .. } if serial == awaited)
    }

    /// Handles the completion of the job that [`Self::waits_for`] names.
    pub fn complete(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        completion: Completion,
    ) -> Step {
        let Some(mut exchange) = self.take_waiting(loop_state) else {
            loop_state.recycle_output(completion.output);
            return Step::Receive;
        };
        exchange.note_completion(&completion);
        let step = match exchange.after(loop_state, &completion.outcome, self.buffer.filled()) {
            Next::Succeed(success) => {
                exchange.encode(&mut loop_state.body, success, &completion.output);
                self.finish(loop_state, snapshot, &exchange, Answer::Json)
            }
            Next::Report(attributes) => {
                let described = Success::Described(attributes);
                exchange.encode(&mut loop_state.body, &described, &completion.output);
                self.finish(loop_state, snapshot, &exchange, Answer::Json)
            }
            Next::Fail(error) => {
                self.finish(loop_state, snapshot, &exchange, Answer::Error(&error))
            }
            Next::Describe(key) => match exchange::describe(loop_state, key) {
                Ok(request) => self.submit(loop_state, snapshot, exchange, request),
                Err(error) => self.finish(loop_state, snapshot, &exchange, Answer::Error(&error)),
            },
        };
        loop_state.recycle_output(completion.output);
        step
    }

    /// Handles the refusal of the job by the HSM side.
    pub fn reject(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        failure: Failure,
    ) -> Step {
        let Some(exchange) = self.take_waiting(loop_state) else {
            return Step::Receive;
        };
        let error = exchange.failed(failure);
        self.finish(loop_state, snapshot, &exchange, Answer::Error(&error))
    }

    /// Handles a [`Self::wait`] that has timed out.
    pub fn timed_out(&mut self, loop_state: &mut LoopState, snapshot: &Snapshot) -> Step {
        match &self.state {
            State::Head { .. } if self.buffer.is_empty() => Step::Close,
            State::Head { .. } => {
                let error = HttpError::Timeout("the request head took too long to arrive");
                self.refuse(loop_state, snapshot, error)
            }
            State::Body { .. } => {
                let error = HttpError::Timeout("the request body took too long to arrive");
                self.refuse(loop_state, snapshot, error)
            }
            State::Waiting { .. } => self.reject(loop_state, snapshot, Failure::TimedOut),
            State::Answered { .. } => Step::Close,
        }
    }

    /// Handles the end of sending: all of [`LoopState::out`] has been sent.
    pub fn sent(&mut self, loop_state: &mut LoopState, snapshot: &Snapshot) -> Step {
        if let State::Answered { close } = self.state {
            if close {
                return Step::Close;
            }
            self.state = State::Head { searched: 0 };
            self.since = snapshot.now;
            self.started = snapshot.now;
        }
        self.step(loop_state, snapshot)
    }

    /// Returns the connection's memory to the pools, wiped.
    pub fn close(mut self, loop_state: &mut LoopState) {
        if let State::Waiting { exchange, .. } = &self.state {
            exchange.abandon(loop_state, self.buffer.filled());
        }
        self.buffer.clear(&mut loop_state.buffers);
        if let State::Waiting { request, .. } = self.state {
            loop_state.metrics.in_flight.decrement();
            loop_state.recycle_request(request);
        }
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Answered { close: true })
    }

    /// Removes the exchange that waits for the HSM, if there is one, and returns its request to the
    /// pool.
    fn take_waiting(&mut self, loop_state: &mut LoopState) -> Option<Exchange> {
        match self.take_state() {
            State::Waiting { exchange, request, .. } => {
                loop_state.metrics.in_flight.decrement();
                loop_state.recycle_request(request);
                Some(exchange)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Answers input that is not a request, and ends the connection: the start of the next request
    /// cannot be known.
    fn refuse(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        error: HttpError,
    ) -> Step {
        let exchange = Exchange::unreadable(self.origin(), self.buffer.len());
        self.finish(loop_state, snapshot, &exchange, Answer::Error(&error.into()))
    }

    /// Appends the answer, whose body is in [`LoopState::body`] unless it is an error; then logs it
    /// and wipes the request.
    fn finish(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        exchange: &Exchange,
        answer: Answer<'_>,
    ) -> Step {
        let is_last = self.is_half_closed && exchange.consumed() >= self.buffer.len();
        // Connections made while draining are kept at first: their peers were sent here because
        // nothing else serves yet or the load balancer has not reacted yet, and would need a new
        // handshake for each request. Shortly before the end that is better than to cut them off
        // with a request on its way.
        let is_sent_away = snapshot.is_draining && (!self.came_late || snapshot.is_sending_away);
        self.answered += 1;
        self.is_proven |= exchange.is_authenticated();
        let max_requests = loop_state.service.options.max_requests_per_connection;
        let is_worn = max_requests > 0 && self.answered >= max_requests;
        let close = exchange.must_close()
            || is_sent_away
            || snapshot.is_stopping
            || is_last
            || is_worn
            || (!snapshot.is_ready && self.may_fare_better_elsewhere(snapshot, &answer));
        exchange.write_answer(loop_state, snapshot, &answer, close, self.buffer.filled());
        let consumed = if close { self.buffer.len() } else { exchange.consumed() };
        self.buffer.consume(consumed, &mut loop_state.buffers);
        self.state = State::Answered { close };
        self.since = snapshot.now;
        Step::Send
    }

    /// Returns whether the answer reports a failure of the HSM, on a connection that is not new. If
    /// the proxy is not ready, the client's next connection can come to one that is, without a wait
    /// until a load balancer has noticed and has ended the open connections; some leave those alone.
    fn may_fare_better_elsewhere(&self, snapshot: &Snapshot, answer: &Answer<'_>) -> bool {
        let age = snapshot.now.saturating_duration_since(self.opened);
        matches!(answer, Answer::Error(error) if error.name.is_of_the_hsm())
            && age >= MIN_AGE_TO_SEND_AWAY
    }
}

//! One peer's connection: an explicit state, resumed with each piece of input.
//!
//! The shell feeds bytes, completions and the end of waits, and does what the returned [`Step`]
//! says; whatever has been appended to [`LoopState::out`] is to be sent in any case. Requests are
//! taken one at a time: what a pipelining peer sends ahead waits in the buffer, so answers keep
//! their order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::buffer::Buffer;
use super::exchange::{Answer, AnswerSource, Exchange, Origin, Outcome};
use super::http::HttpError;
use super::http::body::{Progress, Whole};
use super::http::{request, response};
use super::loop_state::{LoopState, Snapshot};
use super::route::Listener;
use super::xks::encode;
use crate::job::{Completion, Failure, Job, ReplyTo, Request};

/// What the shell has to do next.
#[must_use]
pub enum Step {
    /// Wait for more bytes, until [`Connection::wait`] ends.
    Receive,
    /// Hand this to the HSM and wait for its completion. No bytes are wanted meanwhile.
    Submit(Job),
    /// The answer is in [`LoopState::out`]: when it has been sent, call [`Connection::sent`].
    Send,
    /// Close the connection.
    Close,
}

/// What a connection waits for, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For a request to begin.
    Idle(Instant),
    /// For the rest of a request's head.
    Head(Instant),
    /// For the rest of its body.
    Body(Instant),
    /// For the HSM; the time is when the request has to be answered, whatever came of it.
    Hsm(Instant),
    /// For an answer to be sent.
    Send(Instant),
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State {
    /// Bytes up to `searched` hold no end of a head.
    Head { searched: usize },
    /// The head ends at `head_bytes`. The body may be as long as the settings said then.
    Body { head_bytes: usize, max_bytes: usize, progress: Progress },
    /// The HSM works.
    Waiting { exchange: Exchange, request: Arc<Request>, serial: u64, deadline: Instant },
    /// The answer is on its way.
    Answered { close: bool },
}

/// One peer's connection.
pub struct Connection {
    listener: Listener,
    peer: Option<IpAddr>,
    buffer: Buffer,
    state: State,
    /// When the request's first byte came; while idle, when the last answer had gone.
    started: Instant,
    /// When the present state began.
    since: Instant,
    /// The peer will send no more.
    is_half_closed: bool,
    /// Requests answered.
    answered: u64,
    /// One of them was authentic.
    is_proven: bool,
    /// It was made while the process drained.
    came_late: bool,
}

impl Connection {
    /// A connection that has just been made.
    #[must_use]
    pub fn new(listener: Listener, peer: Option<IpAddr>, snapshot: &Snapshot) -> Self {
        Self {
            listener,
            peer,
            buffer: Buffer::default(),
            state: State::Head { searched: 0 },
            started: snapshot.now,
            since: snapshot.now,
            is_half_closed: false,
            answered: 0,
            is_proven: false,
            came_late: snapshot.is_draining,
        }
    }

    /// The peer's address turned out to be another: a load balancer has said whom it speaks for.
    pub fn set_peer(&mut self, peer: IpAddr) {
        self.peer = Some(peer);
    }

    /// Whether a buffer of the pool's is in use for it.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether the peer has sent an authentic request: one that was signed, where signatures are
    /// asked for.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// What is waited for. What it means for how long is the service's to say.
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

    /// How many bytes [`Self::receive`] takes now. None while an answer is pending: a peer that
    /// sends ahead waits.
    #[must_use]
    pub fn room(&self, loop_state: &LoopState) -> usize {
        match self.state {
            State::Head { .. } | State::Body { .. } => {
                loop_state.buffers.large_bytes().saturating_sub(self.buffer.len())
            }
            _ => 0,
        }
    }

    /// Takes bytes in, no more than [`Self::room`], that have been there to be read since `since`.
    pub fn receive(&mut self, loop_state: &mut LoopState, since: Instant, bytes: &[u8]) {
        if self.buffer.is_empty() && !bytes.is_empty() {
            self.started = since;
        }
        let taken = self.buffer.receive(bytes, &mut loop_state.buffers);
        debug_assert_eq!(taken, bytes.len());
    }

    /// The peer has ended its side. What it has asked until then is still answered, requests that
    /// it sent ahead included (RFC 9112, 9.3.2 and 9.6); then the connection ends.
    pub fn peer_closed(&mut self, loop_state: &mut LoopState, snapshot: &Snapshot) -> Step {
        self.is_half_closed = true;
        match &self.state {
            State::Head { .. } | State::Body { .. } => self.step(loop_state, snapshot),
            State::Waiting { .. } | State::Answered { .. } => Step::Receive,
        }
    }

    /// Goes on with what has been received.
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

    /// The end of the input is the end of a connection that has no whole request.
    fn receive_more(&self) -> Step {
        if self.is_half_closed { Step::Close } else { Step::Receive }
    }

    fn origin(&self) -> Origin {
        Origin { listener: self.listener, peer: self.peer, started: self.started }
    }

    /// The head ends at `head_bytes`. If the whole body is behind it, as it nearly always is,
    /// the head is parsed this once.
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

    /// The body has come in pieces, and is whole now.
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

    /// A whole request has been checked.
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
            Ok(AnswerSource::Hsm(request)) => {
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
            Err(error) => self.finish(loop_state, snapshot, &exchange, Answer::Error(&error)),
        }
    }

    /// Whether the connection waits for the completion of that serial number.
    #[must_use]
    pub fn waits_for(&self, awaited: u64) -> bool {
        matches!(self.state, State::Waiting { serial, .. } if serial == awaited)
    }

    /// The HSM side's answer to the job that [`Self::waits_for`] names.
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
        let step = match &completion.outcome {
            Ok(success) => {
                exchange.encode(&mut loop_state.body, success, &completion.output);
                self.finish(loop_state, snapshot, &exchange, Answer::Json)
            }
            Err(failure) => {
                self.finish(loop_state, snapshot, &exchange, Answer::Error(&(*failure).into()))
            }
        };
        loop_state.recycle_output(completion.output);
        step
    }

    /// The HSM side would not take the job.
    pub fn reject(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        failure: Failure,
    ) -> Step {
        let Some(exchange) = self.take_waiting(loop_state) else {
            return Step::Receive;
        };
        self.finish(loop_state, snapshot, &exchange, Answer::Error(&failure.into()))
    }

    /// What [`Self::wait`] named has lasted too long.
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

    /// All of [`LoopState::out`] has been sent.
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

    /// Gives the connection's memory back, wiped.
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

    /// The exchange that waits for the HSM, if one does; its request goes back to the pool.
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

    /// Answers what is not a request, and ends the connection: where the next one would begin
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

    /// Appends the answer, whose body is in [`LoopState::body`] unless it is an error; logs it,
    /// and wipes the request.
    fn finish(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        exchange: &Exchange,
        answer: Answer<'_>,
    ) -> Step {
        let is_last = self.is_half_closed && exchange.consumed() >= self.buffer.len();
        // A peer that is sent here all the same, since nothing else serves yet or the load balancer
        // has not noticed, would be here again with the next request: a handshake for each.
        let is_sent_away = snapshot.is_draining && !self.came_late;
        self.answered += 1;
        self.is_proven |= exchange.is_authenticated();
        let max_requests = loop_state.service.options.max_requests_per_connection;
        let is_worn = max_requests > 0 && self.answered >= max_requests;
        let close =
            exchange.must_close() || is_sent_away || snapshot.is_stopping || is_last || is_worn;
        exchange.write_answer(loop_state, snapshot, &answer, close, self.buffer.filled());
        let consumed = if close { self.buffer.len() } else { exchange.consumed() };
        self.buffer.consume(consumed, &mut loop_state.buffers);
        self.state = State::Answered { close };
        self.since = snapshot.now;
        Step::Send
    }
}

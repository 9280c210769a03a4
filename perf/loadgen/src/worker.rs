//! One thread's event loop: sends what is due, checks what comes back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::check::{Sample, Samples, is_right};
use crate::connection::{Connection, State};
use crate::corpus::Ciphertext;
use crate::request::{Operation, Requests, Sent, Sizes};
use crate::response::{self, string_member};
use crate::schedule::{Arrivals, Nanos, Pace, Phase, nanos, phase_at};
use crate::stats::{Interval, Stats};
use crate::target::Target;
use crate::timer::Timer;

/// Connections of one thread that are being opened at the same time before the run.
const MAX_OPENING: usize = 64;
/// For TCP's and TLS's handshake of one connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a connection that could not be opened is tried again.
const REOPEN_DELAY: Duration = Duration::from_millis(50);
/// Requests that are signed ahead, at the most, and never more than a second's worth.
const MAX_PREPARED: usize = 32;
const SCRATCH_BYTES: usize = 64 * 1024;
const TIMER: Token = Token(usize::MAX);

/// What all threads are to do.
pub struct Plan {
    /// Where to.
    pub target: Arc<Target>,
    /// For decrypts.
    pub ciphertexts: Arc<[Ciphertext]>,
    /// For encrypts.
    pub sizes: Sizes,
    /// What is asked, by weight; the weights' sum is not 0.
    pub mix: Vec<(Operation, u32)>,
    /// One after the other.
    pub phases: Vec<Phase>,
    /// Open loop: random arrivals.
    pub is_poisson: bool,
    /// From the intended send time on.
    pub timeout: Duration,
    /// Whether answers' contents are checked.
    pub is_checked: bool,
    /// Length of an interval of the figures over time.
    pub interval: Duration,
    /// Number of threads.
    pub threads: usize,
    /// Unique to the run.
    pub run_id: u64,
}

/// One thread's part of it.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which thread.
    pub thread: usize,
    /// Connections under load.
    pub connections: usize,
    /// Connections beside the load.
    pub idle_connections: usize,
    /// Encrypts kept to be decrypted after the run.
    pub samples: usize,
    /// Requests, at the most.
    pub max_requests: u64,
}

/// What a thread tells.
pub enum Report {
    /// Its connections are open, or why not.
    Opened(Result<(), String>),
    /// That thread's interval is over.
    Interval(usize, Interval),
    /// The run is over.
    Finished(Box<Stats>, Vec<Sample>),
}

/// Opens the connections, waits for the start and does the thread's share.
pub fn run(plan: &Plan, share: Share, reports: &Sender<Report>, start: &Receiver<Instant>) {
    // A send fails when the main thread is gone: then there is nobody to tell.
    let mut worker = match Worker::new(plan, share) {
        Ok(worker) => worker,
        Err(error) => {
            let _ = reports.send(Report::Opened(Err(error.to_string())));
            return;
        }
    };
    let opened = worker.open_all();
    let is_ready = opened.is_ok();
    let _ = reports.send(Report::Opened(opened));
    if !is_ready {
        return;
    }
    let Ok(start) = start.recv() else { return };
    worker.start = start;
    match worker.load(reports) {
        Ok(()) => {}
        Err(error) => worker.stats.last_error = Some(error.to_string()),
    }
    let _ = reports.send(Report::Finished(Box::new(worker.stats), worker.samples.drawn));
}

/// A request under way.
struct InFlight {
    sent: Sent,
    intended: Nanos,
    /// `None` during a warm-up.
    phase: Option<usize>,
}

/// When something of a connection is over, if its serial is still that one.
struct Expiry {
    at: Nanos,
    connection: usize,
    serial: u64,
}

struct Worker<'p> {
    plan: &'p Plan,
    share: Share,
    start: Instant,
    poll: Poll,
    timer: Timer,
    scratch: Vec<u8>,
    requests: Requests,
    random: fastrand::Rng,
    prepared: VecDeque<(Vec<u8>, Sent)>,
    max_prepared: usize,
    spare: Vec<Vec<u8>>,
    /// Those under load, then those beside it.
    connections: Vec<Connection>,
    in_flight: Vec<Option<InFlight>>,
    /// Counted up when a connection begins something else.
    serials: Vec<u64>,
    /// Connections that were idle when they were put in.
    free: VecDeque<usize>,
    backlog: VecDeque<(Nanos, usize)>,
    timeouts: VecDeque<Expiry>,
    opening: VecDeque<Expiry>,
    to_reopen: VecDeque<(Nanos, usize)>,
    arrivals: Arrivals,
    /// The phase under way when events were last looked at.
    current_phase: Option<usize>,
    remaining: u64,
    busy: usize,
    stats: Stats,
    samples: Samples,
}

impl<'p> Worker<'p> {
    fn new(plan: &'p Plan, share: Share) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let connections = share.connections + share.idle_connections;
        let ahead = plan.phases.iter().map(|phase| match phase.pace {
            Pace::Closed => 0,
            // Truncated: a thread of less than two a second signs one ahead.
            Pace::Open(rate) => usize::try_from(Duration::from_secs_f64(rate).as_secs())
                .unwrap_or(MAX_PREPARED)
                .div_ceil(plan.threads)
                .clamp(1, MAX_PREPARED),
        });
        Ok(Self {
            plan,
            share,
            start: Instant::now(),
            poll,
            timer,
            scratch: vec![0; SCRATCH_BYTES],
            requests: Requests::new(
                &plan.target,
                &plan.ciphertexts,
                plan.sizes,
                plan.run_id,
                share.thread,
            ),
            random: fastrand::Rng::new(),
            prepared: VecDeque::new(),
            max_prepared: ahead.min().unwrap_or(0),
            spare: Vec::new(),
            connections: (0..connections).map(|_| Connection::default()).collect(),
            in_flight: (0..connections).map(|_| None).collect(),
            serials: vec![0; connections],
            free: VecDeque::new(),
            backlog: VecDeque::new(),
            timeouts: VecDeque::new(),
            opening: VecDeque::new(),
            to_reopen: VecDeque::new(),
            arrivals: Arrivals::new(&plan.phases, share.thread, plan.threads, plan.is_poisson),
            current_phase: None,
            remaining: share.max_requests,
            busy: 0,
            stats: Stats::new(plan.phases.len()),
            samples: Samples::new(share.samples),
        })
    }

    /// Nanoseconds since the start; 0 before it.
    fn now(&self) -> Nanos {
        nanos(self.start.elapsed())
    }

    // ---- Opening

    /// Opens all connections before the run.
    fn open_all(&mut self) -> Result<(), String> {
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

    fn count(&self, state: State) -> usize {
        self.connections.iter().filter(|connection| connection.state == state).count()
    }

    fn open(&mut self, index: usize) {
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

    fn failed_to_open(&mut self, index: usize, error: &io::Error) {
        self.connections[index].close();
        self.serials[index] += 1;
        self.stats.connections.failed_to_open += 1;
        self.stats.last_error = Some(error.to_string());
        self.to_reopen.push_back((self.now() + nanos(REOPEN_DELAY), index));
    }

    fn opened(&mut self, index: usize) {
        self.serials[index] += 1;
        self.connections[index].state = State::Idle;
        self.stats.connections.opened += 1;
        if index < self.share.connections {
            self.free.push_back(index);
        }
    }

    /// A connection came to its end with nothing under way: another takes its place, unless it
    /// was one beside the load.
    fn replace(&mut self, index: usize) {
        self.connections[index].close();
        if index < self.share.connections {
            self.open(index);
        } else {
            self.stats.connections.idle_closed += 1;
        }
    }

    // ---- The run

    fn load(&mut self, reports: &Sender<Report>) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        if let Some(early) = self.start.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        let interval = nanos(self.plan.interval).max(1);
        loop {
            let now = self.now();
            if now / interval > self.stats.interval.index {
                let ended = self.stats.next_interval(now / interval);
                if reports.send(Report::Interval(self.share.thread, ended)).is_err() {
                    return Ok(());
                }
            }
            let next_arrival = self.admit(now);
            let phase = phase_at(&self.plan.phases, now);
            self.current_phase = phase.map(|(phase, _)| phase);
            self.dispatch(phase);
            self.expire(now);
            if phase.is_some() {
                self.reopen(now);
            }
            let is_over = phase.is_none() || self.remaining == 0;
            if is_over && self.busy == 0 && self.backlog.is_empty() {
                let last = self.stats.next_interval(u64::MAX);
                let _ = reports.send(Report::Interval(self.share.thread, last));
                return Ok(());
            }
            let mut wake_at = (now / interval + 1) * interval;
            let ends = phase.map(|(_, end)| end);
            let coarse = [
                ends,
                self.timeouts.front().map(|expiry| expiry.at),
                self.opening.front().map(|expiry| expiry.at),
                self.backlog.front().map(|(intended, _)| intended + nanos(self.plan.timeout)),
                self.to_reopen.front().map(|(at, _)| *at).filter(|_| phase.is_some()),
            ];
            for at in coarse.into_iter().flatten() {
                wake_at = wake_at.min(at);
            }
            let mut wait = Duration::from_nanos(wake_at.saturating_sub(now));
            if let Some(at) = next_arrival {
                // epoll counts whole milliseconds: the timer wakes us in time.
                self.timer.set(at, self.now())?;
                if self.prepare_one() {
                    wait = Duration::ZERO;
                }
            }
            self.poll(&mut events, Some(wait))?;
        }
    }

    /// Moves what is due to the backlog; returns when the next is.
    fn admit(&mut self, now: Nanos) -> Option<Nanos> {
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

    /// Sends from the backlog, and in a closed loop on every free connection.
    fn dispatch(&mut self, phase: Option<(usize, Nanos)>) {
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
            let (intended, phase) = match self.backlog.pop_front() {
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

    /// Puts a request into a connection, one that was signed ahead if there is one.
    fn next_request(&mut self, index: usize) -> Sent {
        if let Some((mut request, sent)) = self.prepared.pop_front() {
            std::mem::swap(&mut request, &mut self.connections[index].request);
            self.spare.push(request);
            return sent;
        }
        let operation = self.next_operation();
        self.requests.build(operation, &mut self.connections[index].request)
    }

    /// Signs one request ahead if there is room: whether it did.
    fn prepare_one(&mut self) -> bool {
        if self.prepared.len() >= self.max_prepared {
            return false;
        }
        let mut request = self.spare.pop().unwrap_or_default();
        let operation = self.next_operation();
        let sent = self.requests.build(operation, &mut request);
        self.prepared.push_back((request, sent));
        true
    }

    fn next_operation(&mut self) -> Operation {
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

    /// Gives up what has taken too long: requests under way, requests not sent, handshakes.
    fn expire(&mut self, now: Nanos) {
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

    fn is_past(&self, expiry: &Expiry) -> bool {
        self.serials[expiry.connection] != expiry.serial
    }

    fn reopen(&mut self, now: Nanos) {
        while let Some((at, index)) = self.to_reopen.front().copied() {
            if at > now {
                return;
            }
            self.to_reopen.pop_front();
            self.open(index);
        }
    }

    // ---- Events

    fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in events.iter() {
            let Token(index) = event.token();
            // A connection of this batch may have been replaced meanwhile: then its state says
            // that there is nothing to do, or the socket says WouldBlock.
            match self.connections.get(index).map(|connection| connection.state) {
                Some(State::Opening) => self.continue_opening(index, event.is_read_closed()),
                Some(State::Idle) => self.idle_event(index, event.is_read_closed()),
                Some(State::Busy) => self.busy_event(index, event),
                Some(State::Closed) | None => {}
            }
        }
        Ok(())
    }

    fn continue_opening(&mut self, index: usize, is_read_closed: bool) {
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

    fn idle_event(&mut self, index: usize, is_read_closed: bool) {
        let connection = &mut self.connections[index];
        // Session tickets, or the end.
        let is_alive = connection.receive(&mut self.scratch, is_read_closed).unwrap_or(false);
        if !is_alive || !connection.received.is_empty() {
            self.stats.connections.closed_by_server += u64::from(index < self.share.connections);
            self.replace(index);
        }
    }

    fn busy_event(&mut self, index: usize, event: &mio::event::Event) {
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
        // Taken out for as long as the answer is borrowed from it.
        let bytes = std::mem::take(&mut self.connections[index].received);
        match response::parse(&bytes) {
            Ok(Some(answer)) if answer.extra_bytes == 0 => {
                self.answered(index, now, &answer);
                if answer.close || !is_alive {
                    self.stats.connections.closed_by_server += 1;
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
        // Its memory is used again.
        self.connections[index].received = bytes;
        self.connections[index].received.clear();
    }

    fn answered(&mut self, index: usize, now: Nanos, answer: &response::Answer<'_>) {
        let Some(InFlight { sent, intended, phase }) = self.in_flight[index].take() else { return };
        self.busy -= 1;
        self.serials[index] += 1;
        let latency = now.saturating_sub(intended);
        let operation = sent.operation;
        if answer.status != 200 {
            let name = string_member(answer.body, "\"errorName\"").unwrap_or(b"no errorName");
            let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
            self.stats.record(operation, phase, latency, Some((answer.status, &name)));
        } else if self.plan.is_checked && !is_right(&sent, &self.plan.ciphertexts, answer.body) {
            self.stats.record(operation, phase, latency, Some((200, "wrong answer")));
        } else {
            self.stats.record(operation, phase, latency, None);
            if let Some(current) = self.current_phase {
                self.stats.answered[current] += 1;
            }
            if operation.is_encrypt() && self.plan.is_checked {
                self.samples.offer(&sent, &self.connections[index].request, answer.body);
            }
        }
    }

    fn lost(&mut self, index: usize, error: Option<&io::Error>) {
        self.stats.connections.lost += 1;
        self.stats.last_error = error.map(ToString::to_string).or(self.stats.last_error.take());
        self.end(index, Some((0, "connection lost")));
        self.replace(index);
    }

    /// A request ended without an answer.
    fn end(&mut self, index: usize, failure: Option<(u16, &str)>) {
        let Some(InFlight { sent, intended, phase }) = self.in_flight[index].take() else { return };
        self.busy -= 1;
        self.serials[index] += 1;
        let latency = self.now().saturating_sub(intended);
        self.stats.record(sent.operation, phase, latency, failure);
    }
}

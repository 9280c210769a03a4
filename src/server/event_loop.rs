//! One event loop: readiness, completions and deadlines in; reads, writes and jobs out.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::lifecycle::Lifecycle;
use super::peer::{Fate, Peer};
use super::timer::Timers;
use super::tls::Acceptor;
use super::turn::Turn;
use crate::hsm::Hsm;
use crate::job::{Completion, CompletionQueue, Failure, FleetHealth, Job};
use crate::limits::{
    ACCEPT_PAUSE, LISTEN_BACKLOG, MAX_ACCEPTS_PER_TURN, MAX_EVENTS_PER_POLL, MAX_JOBS_PER_SUBMIT,
};
use crate::observe::access_log::AccessLog;
use crate::proto::{Connection, Listener, Moment, Protocol, Service};

const WAKER: Token = Token(usize::MAX);
/// Tokens of listeners count down from here, those of connections up from 0.
const FIRST_LISTENER: usize = usize::MAX - 1;

/// A listening socket and what comes in by it.
pub(super) struct Listening {
    pub(super) socket: TcpListener,
    pub(super) listener: Listener,
    pub(super) tls: Option<Acceptor>,
    /// Connections may be waiting: edge-triggered readiness is remembered.
    is_ready: bool,
    /// After a failure, for instance for want of descriptors, when to try again.
    paused_until: Option<Instant>,
}

impl Listening {
    pub(super) fn new(socket: TcpListener, listener: Listener, tls: Option<Acceptor>) -> Self {
        Self { socket, listener, tls, is_ready: false, paused_until: None }
    }
}

/// Connections of all loops together.
pub(super) struct Quota {
    pub(super) open: AtomicUsize,
    pub(super) max: usize,
}

impl Quota {
    fn take(&self) -> bool {
        let taken = self.open.fetch_add(1, Ordering::Relaxed) < self.max;
        if !taken {
            self.give_back();
        }
        taken
    }

    fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What exists before the HSM side does: sockets, and the inbox that it answers to.
pub(super) struct EventLoop {
    poll: Poll,
    listeners: Vec<Listening>,
    completions: Arc<CompletionQueue>,
    lifecycle: Arc<Lifecycle>,
    quota: Arc<Quota>,
}

impl EventLoop {
    pub(super) fn new(
        mut listeners: Vec<Listening>,
        lifecycle: Arc<Lifecycle>,
        quota: Arc<Quota>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        for (index, listening) in listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER - index);
            poll.registry().register(&mut listening.socket, token, Interest::READABLE)?;
        }
        lifecycle.add_waker(Arc::clone(&waker));
        let completions = Arc::new(CompletionQueue::new(move || {
            // A waker fails only when the loop's descriptor is gone, and so the loop.
            let _ = waker.wake();
        }));
        Ok(Self { poll, listeners, completions, lifecycle, quota })
    }

    pub(super) fn completions(&self) -> Arc<CompletionQueue> {
        Arc::clone(&self.completions)
    }

    /// Serves until the lifecycle says stop and the last connection has ended.
    ///
    /// # Errors
    /// What epoll says; nothing that a peer does.
    pub(super) fn run(
        self,
        index: u16,
        service: Arc<Service>,
        hsm: Arc<Hsm>,
        access_log: AccessLog,
    ) -> io::Result<()> {
        let protocol = Protocol::new(service, index, access_log);
        let moment =
            Moment { now: Instant::now(), unix_secs: 0, is_ready: false, is_draining: false };
        let running = Running {
            poll: self.poll,
            listeners: self.listeners,
            completions: self.completions,
            lifecycle: self.lifecycle,
            quota: self.quota,
            peers: Slab::new(),
            timers: Timers::default(),
            turn: Turn::new(moment, protocol, hsm),
            again: Vec::new(),
            spare: Vec::new(),
            answers: Vec::new(),
            refused: Vec::new(),
            health: Arc::default(),
            is_stopping: false,
            is_submitting: false,
        };
        running.serve()
    }
}

/// The loop at work.
struct Running {
    poll: Poll,
    listeners: Vec<Listening>,
    completions: Arc<CompletionQueue>,
    lifecycle: Arc<Lifecycle>,
    quota: Arc<Quota>,
    peers: Slab<Peer>,
    timers: Timers,
    turn: Turn,
    /// Slots whose sockets have more than one turn allows.
    again: Vec<usize>,
    /// Memory for the next `again`.
    spare: Vec<usize>,
    /// Completions taken from the inbox; memory for the next taking.
    answers: Vec<Completion>,
    /// Jobs that the HSM side did not take.
    refused: Vec<(Job, Failure)>,
    /// What the last turn saw.
    health: Arc<FleetHealth>,
    is_stopping: bool,
    is_submitting: bool,
}

impl Running {
    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(MAX_EVENTS_PER_POLL);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.look_around();
            self.take_completions();
            self.go_on();
            for event in &events {
                self.on_event(event);
            }
            self.accept();
            self.expire();
            self.submit();
            self.turn.protocol.access_log.flush();
            if self.is_stopping && self.peers.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads on where the last turn stopped.
    fn go_on(&mut self) {
        let mut again = std::mem::replace(&mut self.again, std::mem::take(&mut self.spare));
        for slot in again.drain(..) {
            self.with_peer(slot, |peer, turn| peer.on_readable(false, turn));
        }
        self.spare = again;
    }

    /// How long the kernel may keep us waiting.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() || !self.turn.jobs.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut until = self.timers.next();
        for listening in self.listeners.iter().filter(|listening| listening.is_ready) {
            match listening.paused_until {
                None => return Some(Duration::ZERO),
                Some(at) => until = Some(until.map_or(at, |until| until.min(at))),
            }
        }
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// The time, and what the rest of the process is doing.
    fn look_around(&mut self) {
        let health = self.turn.hsm.health();
        if !Arc::ptr_eq(&health, &self.health) {
            self.turn.protocol.token_labels =
                health.tokens.iter().map(|token| token.label.as_str().into()).collect();
            self.health = health;
        }
        let unix_secs = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.turn.moment = Moment {
            now: Instant::now(),
            unix_secs,
            is_ready: self.health.can_serve(),
            is_draining: self.lifecycle.is_draining(),
        };
        if self.lifecycle.is_stopping() && !self.is_stopping {
            self.is_stopping = true;
            self.end_accepting();
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            Token(token) if token > FIRST_LISTENER - 16 => {
                if let Some(listening) = self.listeners.get_mut(FIRST_LISTENER - token) {
                    listening.is_ready = true;
                }
            }
            Token(slot) => {
                let is_closed = event.is_read_closed() || event.is_error();
                let is_readable = event.is_readable() || is_closed;
                let is_writable = event.is_writable();
                self.with_peer(slot, |peer, turn| {
                    if is_writable && peer.on_writable(turn) == Fate::Ends {
                        return Fate::Ends;
                    }
                    if is_readable { peer.on_readable(is_closed, turn) } else { Fate::Stays }
                });
            }
        }
    }

    /// Lets one connection work, then sees to its deadline or its end. Should that panic, this
    /// connection alone ends.
    fn with_peer(&mut self, slot: usize, work: impl FnOnce(&mut Peer, &mut Turn) -> Fate) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let turn = &mut self.turn;
        turn.slot = slot;
        let fate = catch_unwind(AssertUnwindSafe(|| work(peer, turn))).unwrap_or_else(|_| {
            tracing::error!("a connection ended because handling it panicked; this is a defect");
            turn.protocol.reset();
            turn.outgoing.clear();
            Fate::Ends
        });
        if fate == Fate::Ends {
            self.end(slot);
        } else {
            if fate == Fate::Again {
                self.again.push(slot);
            }
            let deadline = peer.deadline(turn);
            // An entry that comes too early is set anew then, which is rarer than a change.
            if self.timers.get(slot).is_none_or(|at| deadline < at) {
                self.timers.set(slot, deadline);
            }
        }
        if self.turn.jobs.len() >= MAX_JOBS_PER_SUBMIT && !self.is_submitting {
            self.submit();
        }
    }

    fn end(&mut self, slot: usize) {
        self.timers.cancel(slot);
        if let Some(peer) = self.peers.try_remove(slot) {
            // Closing the descriptor takes it out of the epoll set.
            peer.close(&mut self.turn);
            self.quota.give_back();
        }
    }

    fn take_completions(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.completions.take(&mut answers);
        for completion in answers.drain(..) {
            let slot = completion.reply_to.slot as usize;
            let serial = completion.reply_to.serial;
            if self.peers.get(slot).is_some_and(|peer| peer.waits_for(serial)) {
                self.with_peer(slot, |peer, turn| peer.on_completion(completion, turn));
            } else {
                self.turn.protocol.recycle_output(completion.output);
            }
        }
        self.answers = answers;
    }

    /// Hands the gathered jobs to the HSM side, and answers those that it does not take. What
    /// such an answer leads to, the connection's next request, is for the next time.
    fn submit(&mut self) {
        if self.turn.jobs.is_empty() {
            return;
        }
        self.is_submitting = true;
        let mut refused = std::mem::take(&mut self.refused);
        let hsm = Arc::clone(&self.turn.hsm);
        hsm.submit(&mut self.turn.jobs, &mut refused);
        for (job, failure) in refused.drain(..) {
            let (slot, serial) = (job.reply_to.slot as usize, job.reply_to.serial);
            self.turn.protocol.recycle_job(job);
            if self.peers.get(slot).is_some_and(|peer| peer.waits_for(serial)) {
                self.with_peer(slot, |peer, turn| peer.on_refusal(failure, turn));
            }
        }
        self.refused = refused;
        self.is_submitting = false;
    }

    fn expire(&mut self) {
        while let Some(slot) = self.timers.expire(self.turn.moment.now) {
            self.with_peer(slot, |peer, turn| {
                if peer.deadline(turn) <= turn.moment.now {
                    peer.on_deadline(turn)
                } else {
                    Fate::Stays
                }
            });
        }
    }

    fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..MAX_ACCEPTS_PER_TURN {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
    }

    /// Whether there may be another.
    fn accept_one(&mut self, index: usize) -> bool {
        let now = self.turn.moment.now;
        let Some(listening) = self.listeners.get_mut(index).filter(|listening| listening.is_ready)
        else {
            return false;
        };
        if listening.paused_until.is_some_and(|until| until > now) {
            return false;
        }
        listening.paused_until = None;
        // At the limit connections wait in the kernel's queue.
        if !self.quota.take() {
            listening.paused_until = Some(now + ACCEPT_PAUSE);
            return false;
        }
        let accepted = listening.socket.accept();
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.quota.give_back();
                match error.kind() {
                    ErrorKind::WouldBlock => listening.is_ready = false,
                    // The peer has gone again, or a signal came.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => return true,
                    // No descriptor or no memory: asking again at once would only spin.
                    _ => {
                        tracing::error!(%error, "accepting connections pauses");
                        listening.paused_until = Some(now + ACCEPT_PAUSE);
                    }
                }
                return false;
            }
        };
        let tls = match listening.tls.as_ref().map(Acceptor::accept).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                self.quota.give_back();
                tracing::error!(%error, "a TLS session cannot begin");
                return true;
            }
        };
        let connection = Connection::new(listening.listener, Some(address.ip()), now);
        let entry = self.peers.vacant_entry();
        let slot = entry.key();
        let peer = entry.insert(Peer::new(stream, address, tls, connection, now));
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(peer.stream(), Token(slot), interest) {
            tracing::error!(%error, "a connection cannot be watched");
            self.end(slot);
            return true;
        }
        // What the peer has sent already may be read at once.
        self.with_peer(slot, |peer, turn| peer.on_readable(false, turn));
        true
    }

    /// Takes in what waits in the listeners' queues, closes them, and ends idle connections.
    fn end_accepting(&mut self) {
        for listening in &mut self.listeners {
            listening.is_ready = true;
            listening.paused_until = None;
        }
        for index in 0..self.listeners.len() {
            // No more than the kernel's queue holds, or a flood of connections could go on.
            for _ in 0..LISTEN_BACKLOG {
                if !self.accept_one(index) {
                    break;
                }
            }
        }
        self.listeners.clear();
        let idle: Vec<usize> =
            self.peers.iter().filter(|(_, peer)| peer.is_idle()).map(|(slot, _)| slot).collect();
        for slot in idle {
            self.end(slot);
        }
    }
}

//! One event loop: readiness, completions and deadlines in; reads, writes and jobs out.

mod accept;
mod adopt;
mod eviction;
mod serve;

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::admission::Admission;
use super::changes::Changes;
use super::congestion::CongestionByList;
use super::lifecycle::{Heartbeat, Lifecycle};
use super::listening_socket::ListeningSocket;
use super::loop_context::LoopContext;
use super::peer::{Fate, Peer};
use super::shares::Shares;
use super::timer::Timers;
use super::waiting::{Entry, List, Lists};
use crate::hsm::Hsm;
use crate::job::{Completion, CompletionQueue, Failure, Job};
use crate::limits::{
    MAX_ANSWERS_PER_TURN, MAX_EVENTS_PER_POLL, MAX_EXPIRIES_PER_TURN, MAX_JOBS_PER_SUBMIT,
    MAX_LISTENERS_PER_LOOP,
};
use crate::observe::log::access_log::AccessLog;
use crate::observe::metrics::LoopMetrics;
use crate::proto::{LoopState, ServiceConfig, Snapshot};

const WAKER: Token = Token(usize::MAX);
/// Tokens of listeners count down from here; those of connections count up from 0.
const FIRST_LISTENER: usize = usize::MAX - 1;

/// State that a loop shares with the others.
pub(super) struct Shared {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) admission: Arc<Admission>,
    pub(super) changes: Arc<Changes>,
    /// This loop's share of the limit.
    pub(super) max_buffered_bytes: usize,
}

/// An event loop before the HSM side exists: its sockets, and the inbox for completions.
pub(super) struct EventLoop {
    poll: Poll,
    listeners: Vec<ListeningSocket>,
    completions: Arc<CompletionQueue>,
    shared: Shared,
    heartbeat: Arc<Heartbeat>,
}

impl EventLoop {
    pub(super) fn new(mut listeners: Vec<ListeningSocket>, shared: Shared) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        for (index, listening) in listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER - index);
            poll.registry().register(&mut listening.socket, token, Interest::READABLE)?;
        }
        let heartbeat = shared.lifecycle.add_loop(Arc::clone(&waker));
        let completions = Arc::new(CompletionQueue::new(move || {
            // A waker fails only when the loop's descriptor, and so the loop, is gone.
            let _ = waker.wake();
        }));
        Ok(Self { poll, listeners, completions, shared, heartbeat })
    }

    pub(super) fn completions(&self) -> Arc<CompletionQueue> {
        Arc::clone(&self.completions)
    }

    /// Serves until the server is stopped and the last connection has ended.
    ///
    /// # Errors
    /// An error of epoll; no peer can cause one.
    pub(super) fn run(
        self,
        index: u16,
        service: Arc<ServiceConfig>,
        hsm: Arc<Hsm>,
        access_log: AccessLog,
        metrics: Arc<LoopMetrics>,
    ) -> io::Result<()> {
        let mut loop_state = LoopState::new(service, index, access_log);
        loop_state.metrics = metrics;
        let snapshot = Snapshot {
            now: Instant::now(),
            unix_secs: 0,
            is_ready: false,
            is_clock_off: false,
            is_draining: false,
            is_sending_away: false,
            is_stopping: false,
            is_congested: false,
        };
        let running = Running {
            poll: self.poll,
            listeners: self.listeners,
            completions: self.completions,
            lifecycle: self.shared.lifecycle,
            changes: self.shared.changes,
            change_number: 0,
            heartbeat: self.heartbeat,
            // One connection must always fit, however large a request the settings allow.
            max_buffered_bytes: self
                .shared
                .max_buffered_bytes
                .max(2 * loop_state.max_held_bytes_per_connection()),
            peers: Slab::new(),
            next_number: 0,
            timers: Timers::default(),
            context: LoopContext::new(snapshot, loop_state, hsm, self.shared.admission),
            lists: Lists::default(),
            congestion: CongestionByList::default(),
            shares: Shares::default(),
            handshakes_done: 0,
            late_served: 0,
            answers: Vec::new(),
            refused: Vec::new(),
            is_submitting: false,
        };
        running.serve()
    }
}

/// A running event loop.
struct Running {
    poll: Poll,
    listeners: Vec<ListeningSocket>,
    completions: Arc<CompletionQueue>,
    lifecycle: Arc<Lifecycle>,
    changes: Arc<Changes>,
    /// Number of the last change that was adopted.
    change_number: u64,
    heartbeat: Arc<Heartbeat>,
    max_buffered_bytes: usize,
    peers: Slab<Peer>,
    /// Number of the newest connection.
    next_number: u64,
    timers: Timers,
    context: LoopContext,
    lists: Lists,
    congestion: CongestionByList,
    shares: Shares,
    handshakes_done: u32,
    late_served: u32,
    /// Completions taken from the inbox; the vector is kept to reuse its memory.
    answers: Vec<Completion>,
    /// Jobs that the HSM side refused.
    refused: Vec<(Job, Failure)>,
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
            self.adopt_changes();
            self.refresh_snapshot();
            for event in &events {
                self.on_event(event);
            }
            self.take_completions();
            self.serve_waiting();
            self.expire();
            self.submit();
            self.context.loop_state.access_log.flush();
            if self.context.snapshot.is_stopping && self.peers.is_empty() {
                return Ok(());
            }
        }
    }

    /// Maximum time to wait in the kernel for events.
    fn timeout(&self) -> Option<Duration> {
        if self.lists.has_ready() || !self.context.jobs.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut until = self.timers.next();
        if !self.lists.handshakes.is_empty() {
            let at = self.context.snapshot.now + self.handshake_wait();
            until = Some(until.map_or(at, |until| until.min(at)));
        }
        for listening in self.listeners.iter().filter(|listening| listening.is_ready) {
            match listening.paused_until {
                None => return Some(Duration::ZERO),
                Some(at) => until = Some(until.map_or(at, |until| until.min(at))),
            }
        }
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Updates the snapshot of the time and the process's state.
    fn refresh_snapshot(&mut self) {
        self.heartbeat.beat();
        let health = self.context.hsm.health();
        let can_serve = health.can_serve();
        self.context.loop_state.set_health(health);
        let (wall, now) = (SystemTime::now(), Instant::now());
        let unix_secs =
            wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let clock_skew = &self.context.loop_state.metrics.clock_skew;
        clock_skew.follow(now, wall);
        let is_clock_off = clock_skew.is_off();
        let was_stopping = self.context.snapshot.is_stopping;
        self.context.snapshot = Snapshot {
            now,
            unix_secs,
            is_clock_off,
            is_ready: can_serve && self.context.loop_state.access_log.audit.can_serve(),
            is_draining: self.lifecycle.is_draining(),
            is_sending_away: self.lifecycle.is_sending_away(),
            is_stopping: self.lifecycle.is_stopping(),
            is_congested: false,
        };
        if self.lifecycle.is_handed_over() {
            self.release_listeners();
        }
        if self.context.snapshot.is_stopping && !was_stopping {
            let quiet_until = self.context.snapshot.now + self.lifecycle.quiet_time();
            self.context.quiet_until = Some(quiet_until);
            self.end_accepting();
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            Token(token) if token > FIRST_LISTENER - MAX_LISTENERS_PER_LOOP => {
                if let Some(listening) = self.listeners.get_mut(FIRST_LISTENER - token) {
                    listening.note_ready(self.context.snapshot.now);
                }
            }
            Token(slot) => {
                if let Some(peer) = self.peers.get_mut(slot)
                    && peer.note_event(event)
                {
                    let list = peer.list();
                    // A proven connection that waits for nothing is closed as it is at other times.
                    let may_wait = peer.ready_since.is_some() || list == List::Unproven;
                    let has_given_up =
                        may_wait && peer.has_given_up() && self.congestion.is_congested(list);
                    self.list(slot, if has_given_up { List::GivenUp } else { list });
                }
            }
        }
    }

    /// Runs `work` on one connection, then updates its deadline or ends it. A panic ends only this
    /// connection.
    fn with_peer(&mut self, slot: usize, work: impl FnOnce(&mut Peer, &mut LoopContext) -> Fate) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let context = &mut self.context;
        context.slot = slot;
        context.ready_since = context.snapshot.now;
        context.answers_left = MAX_ANSWERS_PER_TURN;
        let (held_before, unproven_before) = (peer.held_bytes(), peer.unproven_bytes());
        let fate = catch_unwind(AssertUnwindSafe(|| work(peer, context))).unwrap_or_else(|_| {
            let peer = peer.address();
            tracing::error!(%peer, "a connection ended because handling it panicked");
            context.wipe();
            Fate::Ends
        });
        context.held_bytes = context.held_bytes + peer.held_bytes() - held_before;
        context.unproven_bytes = context.unproven_bytes + peer.unproven_bytes() - unproven_before;
        if fate == Fate::Ends {
            self.end(slot);
        } else {
            let deadline = peer.deadline(context);
            // Only an earlier deadline moves the timer. A timer that fires too early is set again
            // then, which happens less often than deadlines move.
            if self.timers.get(slot).is_none_or(|at| deadline < at) {
                self.timers.set(slot, deadline);
            }
            self.put_off(slot, fate);
            if self.has_too_much_buffered() {
                self.evict_for_memory(slot);
            }
        }
        if self.context.jobs.len() >= MAX_JOBS_PER_SUBMIT && !self.is_submitting {
            self.submit();
        }
    }

    /// Lists a connection that cannot continue in this turn.
    fn put_off(&mut self, slot: usize, fate: Fate) {
        match fate {
            Fate::Again => self.list(slot, List::Again),
            Fate::Handshake => self.list(slot, List::Handshakes),
            Fate::Stays | Fate::Ends => {}
        }
    }

    /// Adds a connection to a list, unless it is in one already.
    fn list(&mut self, slot: usize, list: List) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let is_listed = match list {
            List::Handshakes => std::mem::replace(&mut peer.awaits_handshake, true),
            List::GivenUp => std::mem::replace(&mut peer.is_given_up, true),
            List::Proven | List::Unproven | List::Again | List::Late => {
                let is_listed = peer.ready_since.is_some();
                peer.ready_since.get_or_insert(self.context.snapshot.now);
                is_listed
            }
        };
        if is_listed {
            return;
        }
        let entry = (slot, peer.number());
        self.push(list, entry);
    }

    fn push(&mut self, list: List, entry: Entry) {
        let peers = &self.peers;
        self.lists.of(list).push(entry, peers.len(), |(slot, number)| {
            peers.get(slot).is_some_and(|peer| peer.number() == number)
        });
    }

    fn end(&mut self, slot: usize) {
        self.timers.cancel(slot);
        if let Some(mut peer) = self.peers.try_remove(slot) {
            self.context.held_bytes -= peer.held_bytes();
            self.context.unproven_bytes -= peer.unproven_bytes();
            // Closing the descriptor removes it from the epoll set, but not while a child process
            // holds a copy between fork and exec (epoll(7), question 6): its events would be
            // mistaken for those of the slot's next connection. The error for one that was never
            // registered is ignored.
            let _ = self.poll.registry().deregister(peer.stream());
            peer.close(&mut self.context);
            self.context.loop_state.metrics.connections_closed.add(1);
        }
    }

    fn take_completions(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.completions.take(&mut answers);
        for completion in answers.drain(..) {
            let slot = completion.reply_to.slot as usize;
            let serial = completion.reply_to.serial;
            if self.peers.get(slot).is_some_and(|peer| peer.waits_for(serial)) {
                self.with_peer(slot, |peer, context| peer.on_completion(completion, context));
            } else {
                self.context.loop_state.recycle_output(completion.output);
            }
        }
        self.answers = answers;
    }

    /// Hands the collected jobs to the HSM side, and answers those that it refuses. If such an
    /// answer leads to the connection's next job, that one waits for the next call.
    fn submit(&mut self) {
        if self.context.jobs.is_empty() {
            return;
        }
        self.is_submitting = true;
        let mut refused = std::mem::take(&mut self.refused);
        let hsm = Arc::clone(&self.context.hsm);
        let jobs = &mut self.context.jobs;
        if catch_unwind(AssertUnwindSafe(|| hsm.submit(jobs, &mut refused))).is_err() {
            // A request whose job reached no queue is answered at its deadline.
            tracing::error!("requests are lost because handing them to the HSM panicked");
            jobs.clear();
        }
        for (job, failure) in refused.drain(..) {
            let (slot, serial) = (job.reply_to.slot as usize, job.reply_to.serial);
            self.context.loop_state.recycle_job(job);
            if self.peers.get(slot).is_some_and(|peer| peer.waits_for(serial)) {
                self.with_peer(slot, |peer, context| peer.on_refusal(failure, context));
            }
        }
        self.refused = refused;
        self.is_submitting = false;
    }

    fn expire(&mut self) {
        for _ in 0..MAX_EXPIRIES_PER_TURN {
            let Some(slot) = self.timers.expire(self.context.snapshot.now) else {
                return;
            };
            self.with_peer(slot, |peer, context| {
                if peer.deadline(context) <= context.snapshot.now {
                    peer.on_deadline(context)
                } else {
                    Fate::Stays
                }
            });
        }
    }
}

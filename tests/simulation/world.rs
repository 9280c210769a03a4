//! One event loop's connections around the protocol core, each beside its model: the simulated time,
//! sockets and HSM take the place of the real ones, and every step of the core is compared with the
//! step that the model expects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xks_proxy::job::{Completion, Failure, Job, Success};
use xks_proxy::limits::{
    ANSWER_OVERHEAD_BYTES, DRAIN_QUIET_TIME, MAX_CHUNK_LINE_BYTES, MAX_HEAD_BYTES, MAX_RECORD_BYTES,
};
use xks_proxy::observe::log::access_log::AccessLog;
use xks_proxy::observe::metrics::Metrics;
use xks_proxy::observe::metrics::labels::{CallLabel, OutcomeLabel};
use xks_proxy::proto::buffer::PADDING_BYTES;
use xks_proxy::proto::{Connection, Listener, LoopState, ServiceConfig, Snapshot, Wait};

use crate::answers::Results;
use crate::hsm::Hsm;
use crate::model::{Model, Shared};
use crate::requests::{Pool, Template};
use crate::rig::{self, NOON};
use crate::settings::Settings;
use crate::timer::Timers;

/// Connections at the same time.
pub const SLOTS: usize = 32;
/// Time from the end of accepting to the end of the process.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that a peer has ready to be sent.
const MAX_SCRIPT: usize = 6;

/// A peer and its connection.
pub struct Peer {
    pub core: Connection,
    pub model: Model,
    /// Requests to be sent, the first of them from `offset` on.
    script: VecDeque<&'static Template>,
    offset: usize,
    /// Bytes of answers that the socket has not accepted.
    pub unsent: usize,
    /// The socket accepts nothing at once.
    pub is_slow: bool,
    /// An answer has been written, and the rest waits for the loop's next turn.
    pub is_again: bool,
    /// The peer has closed its side.
    is_eof: bool,
    /// Buffer that it holds.
    pub held: usize,
}

/// Counts of what an episode has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub steps: u64,
    pub answers: u64,
    pub successes: u64,
    pub jobs: u64,
    pub late: u64,
    pub expired: u64,
    pub reloads: u64,
    pub cut_off: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.answers += other.answers;
        self.successes += other.successes;
        self.jobs += other.jobs;
        self.late += other.late;
        self.expired += other.expired;
        self.reloads += other.reloads;
        self.cut_off += other.cut_off;
    }
}

/// What an episode does besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Each step is printed.
    pub is_traced: bool,
    /// At the end, memory is searched for plaintexts, which takes some time.
    pub searches_memory: bool,
}

/// One event loop in a simulated process.
pub struct World {
    pub pool: &'static Pool,
    pub state: LoopState,
    pub shared: Shared,
    pub service: Arc<ServiceConfig>,
    pub metrics: Metrics,
    timers: Timers,
    pub peers: Vec<Option<Peer>>,
    pub hsm: Hsm,
    pub results: Results,
    scratch: Vec<u8>,
    start: Instant,
    /// Nominal time by the wall clock at `start`, plus what it has been set by.
    wall: u64,
    pub stopped: Option<Instant>,
    /// Serial number of the last job.
    pub serial: u64,
    /// Largest limits on memory so far.
    pub max_buffer: usize,
    pub max_out: usize,
    /// Jobs that the HSM side refuses when they are submitted next.
    pub refusal: Option<Failure>,
    pub refused: Vec<(Job, Failure)>,
    /// Sum of the buffers that connections hold.
    pub held: usize,
    /// Successful encryptions by the key's name.
    pub encryptions: BTreeMap<&'static str, u64>,
    pub seen: Seen,
    pub options: Options,
}

impl World {
    pub fn new(pool: &'static Pool, word: u64) -> Self {
        let start = Instant::now();
        let snapshot = Snapshot {
            now: start,
            unix_secs: NOON,
            is_ready: true,
            is_clock_off: false,
            is_draining: false,
            is_sending_away: false,
            is_stopping: false,
            is_congested: false,
        };
        let mut quotas = Vec::new();
        let settings = Settings::new(word, None, &mut quotas);
        let metrics = Metrics::new(1, Arc::default());
        let service = settings.service(None, &metrics);
        let mut state = LoopState::new(Arc::clone(&service), 0, AccessLog::default());
        state.metrics = metrics.of_loop(0);
        state.set_health(Arc::new(rig::fleet()));
        let counts = [[[0; OutcomeLabel::ALL.len()]; CallLabel::ALL.len()]; 3];
        let mut world = Self {
            pool,
            state,
            shared: Shared { snapshot, settings, quotas, in_flight: 0, counts },
            service,
            metrics,
            timers: Timers::default(),
            peers: (0..SLOTS).map(|_| None).collect(),
            hsm: Hsm::default(),
            results: Results::new(),
            scratch: Vec::with_capacity(256 * 1024),
            start,
            wall: NOON,
            stopped: None,
            serial: 0,
            max_buffer: 0,
            max_out: 0,
            refusal: None,
            refused: Vec::new(),
            held: 0,
            encryptions: BTreeMap::new(),
            seen: Seen::default(),
            options: Options::default(),
        };
        world.note_limits();
        world
    }

    fn note_limits(&mut self) {
        let settings = &self.shared.settings;
        let buffer = MAX_HEAD_BYTES
            + settings.max_body()
            + MAX_CHUNK_LINE_BYTES
            + 2 * MAX_RECORD_BYTES
            + PADDING_BYTES;
        self.max_buffer = self.max_buffer.max(buffer);
        self.max_out = self.max_out.max(settings.max_plaintext + ANSWER_OVERHEAD_BYTES);
    }

    pub fn now(&self) -> Instant {
        self.shared.snapshot.now
    }

    /// Seconds by the wall clock.
    pub fn unix_secs(&self) -> u64 {
        self.shared.snapshot.unix_secs
    }

    /// Sets the wall clock.
    pub fn set_wall(&mut self, unix_secs: u64) {
        self.wall = unix_secs - (self.now() - self.start).as_secs();
        self.shared.snapshot.unix_secs = unix_secs;
    }

    /// Lets time pass: a turn of the event loop that finds nothing but deadlines.
    pub fn pass(&mut self, duration: Duration) {
        let now = self.now() + duration;
        self.shared.snapshot.now = now;
        self.shared.snapshot.unix_secs = self.wall + (now - self.start).as_secs();
        for slot in 0..SLOTS {
            self.resume(slot);
        }
        while let Some(slot) = self.timers.expire(now) {
            self.expire(slot);
        }
        for slot in 0..SLOTS {
            let Some(peer) = &self.peers[slot] else { continue };
            let end = self.end_of(peer.model.wait());
            assert!(end > now, "a deadline was missed by {:?}", now - end);
        }
    }

    /// Ends the part of a turn that was put off to the next one.
    pub fn resume(&mut self, slot: usize) {
        let peer = self.peers[slot].as_mut();
        if peer.is_some_and(|peer| std::mem::take(&mut peer.is_again) && peer.unsent == 0) {
            self.sent(slot);
        }
    }

    pub fn end_of(&self, wait: Wait) -> Instant {
        let timeouts = &self.shared.settings.timeouts;
        match wait {
            Wait::Idle(since) => {
                let end = since + timeouts.idle;
                self.stopped.map_or(end, |stopped| end.min(stopped + DRAIN_QUIET_TIME))
            }
            Wait::Head(since) => since + timeouts.head,
            Wait::Body(since) => since + timeouts.body,
            Wait::Hsm(end) => end,
            Wait::Send(since) => since + timeouts.write,
        }
    }

    /// As the event loop does: a timer that fires too early is set again.
    fn expire(&mut self, slot: usize) {
        let now = self.now();
        let Some(peer) = &mut self.peers[slot] else {
            panic!("a connection that has ended has a deadline");
        };
        let wait = peer.core.wait();
        if self.end_of(wait) > now {
            self.set_timer(slot);
            return;
        }
        self.seen.expired += 1;
        if self.shared.snapshot.is_stopping && matches!(wait, Wait::Idle(_)) {
            self.close(slot);
            return;
        }
        let peer = self.peers[slot].as_mut().expect("it is there");
        let expected = peer.model.timed_out(&mut self.shared);
        let step = peer.core.timed_out(&mut self.state, &self.shared.snapshot);
        self.drive(slot, expected, step);
    }

    pub fn set_timer(&mut self, slot: usize) {
        let Some(peer) = &self.peers[slot] else { return };
        let deadline = self.end_of(peer.core.wait());
        if self.timers.get(slot).is_none_or(|at| deadline < at) {
            self.timers.set(slot, deadline);
        }
    }

    /// Accepts a connection.
    pub fn open(&mut self, slot: usize, listener: Listener) {
        if self.stopped.is_some() {
            return;
        }
        self.peers[slot] = Some(Peer {
            core: Connection::new(listener, None, &self.shared.snapshot),
            model: Model::new(listener, &self.shared.snapshot),
            script: VecDeque::new(),
            offset: 0,
            unsent: 0,
            is_slow: false,
            is_again: false,
            is_eof: false,
            held: 0,
        });
        self.set_timer(slot);
    }

    /// Has the peer make a request, which is not sent yet.
    pub fn ask(&mut self, slot: usize, template: &'static Template) {
        let Some(peer) = &mut self.peers[slot] else { return };
        let is_over = peer.script.back().is_some_and(|last| last.ends_input());
        if !is_over && !peer.is_eof && peer.script.len() < MAX_SCRIPT {
            if self.options.is_traced {
                eprintln!("    {}", template.name);
            }
            peer.script.push_back(template);
        }
    }

    /// Whether the peer has bytes to send.
    pub fn has_input(&self, slot: usize) -> bool {
        self.peers[slot].as_ref().is_some_and(|peer| {
            let end = peer.script.front().map_or(0, |front| front.bytes.len());
            peer.script.len() > 1 || peer.offset < end
        })
    }

    /// Delivers at most `count` bytes from the peer, as far as the connection has room.
    pub fn deliver(&mut self, slot: usize, count: usize) {
        self.resume(slot);
        let Some(peer) = &mut self.peers[slot] else { return };
        let room = if peer.unsent == 0 { peer.core.room(&self.state) } else { 0 };
        assert!(room + PADDING_BYTES <= self.max_buffer, "more room than a request may take");
        let mut left = count.min(room).min(16 * 1024);
        self.scratch.clear();
        while left > 0
            && let Some(&template) = peer.script.front()
        {
            let end = template.bytes.len().min(peer.offset + left);
            if peer.offset == 0 && end > 0 {
                peer.model.begin(template);
            }
            template.write(peer.offset, end, &mut self.scratch);
            left -= end - peer.offset;
            peer.offset = end;
            if end < template.bytes.len() || template.ends_input() {
                break;
            }
            peer.script.pop_front();
            peer.offset = 0;
        }
        if self.scratch.is_empty() {
            return;
        }
        peer.model.receive(self.scratch.len(), &self.shared);
        peer.core.receive(&mut self.state, self.shared.snapshot.now, &self.scratch);
        self.scratch.fill(0);
        let expected = peer.model.advance(&mut self.shared);
        let step = peer.core.step(&mut self.state, &self.shared.snapshot);
        self.drive(slot, expected, step);
    }

    /// The peer closes its side.
    pub fn end_input(&mut self, slot: usize) {
        self.resume(slot);
        let Some(peer) = &mut self.peers[slot] else { return };
        if peer.is_eof || peer.unsent > 0 || peer.core.room(&self.state) == 0 {
            // The end of the input is read when there is room.
            return;
        }
        peer.is_eof = true;
        let expected = peer.model.peer_closed(&mut self.shared);
        let step = peer.core.peer_closed(&mut self.state, &self.shared.snapshot);
        self.drive(slot, expected, step);
    }

    /// The socket accepts at most `count` bytes.
    pub fn accept_bytes(&mut self, slot: usize, count: usize) {
        self.resume(slot);
        let Some(peer) = &mut self.peers[slot] else { return };
        if peer.unsent == 0 {
            return;
        }
        peer.unsent -= count.min(peer.unsent);
        if peer.unsent == 0 {
            self.sent(slot);
        }
    }

    pub fn sent(&mut self, slot: usize) {
        let Some(peer) = &mut self.peers[slot] else { return };
        let expected = peer.model.sent(&mut self.shared);
        let step = peer.core.sent(&mut self.state, &self.shared.snapshot);
        self.drive(slot, expected, step);
    }

    /// Whether `slot` waits for job `serial`, which the core and the model must agree about.
    fn waits_for(&self, slot: usize, serial: u64) -> bool {
        self.peers[slot].as_ref().is_some_and(|peer| {
            let waits = peer.core.waits_for(serial);
            let is_awaited = peer.model.waiting().is_some_and(|waiting| waiting.serial == serial);
            assert_eq!(waits, is_awaited, "whether a completion is awaited");
            waits
        })
    }

    /// Delivers a completion, as the event loop does. `number` is that of the job if it was done.
    pub fn complete(&mut self, completion: Completion, number: Option<u64>) {
        let slot = completion.reply_to.slot as usize;
        if !self.waits_for(slot, completion.reply_to.serial) {
            self.seen.late += 1;
            self.state.recycle_output(completion.output);
            return;
        }
        let peer = self.peers[slot].as_mut().expect("it waits");
        let waiting = peer.model.waiting().expect("it waits");
        let is_disabled = waiting.is_disabled;
        let expected = match (waiting.call.label, number) {
            (CallLabel::Metadata, _) => {
                let attributes = match completion.outcome {
                    Ok(Success::Described(attributes)) => Ok(attributes),
                    Ok(_) => unreachable!("a key was to be described"),
                    Err(failure) => Err(failure),
                };
                let (expected, reported) = peer.model.describe(&mut self.shared, attributes);
                if let Some(reported) = reported {
                    self.results.expect_attributes(&reported, is_disabled);
                }
                expected
            }
            (label, Some(number)) => {
                self.results.expect(waiting, number);
                let key = waiting.key.name();
                // A key that no store names any longer is not counted.
                if label == CallLabel::Encrypt && self.shared.settings.names(key) {
                    *self.encryptions.entry(key).or_default() += 1;
                }
                peer.model.succeed(&mut self.shared)
            }
            (_, None) => {
                let failure = completion.outcome.expect_err("it failed");
                peer.model.fail(&mut self.shared, failure)
            }
        };
        let step = peer.core.complete(&mut self.state, &self.shared.snapshot, completion);
        self.drive(slot, expected, step);
    }

    /// Refuses the jobs that are to be refused, as the event loop does after it has submitted them.
    pub fn refuse_jobs(&mut self) {
        while let Some((job, failure)) = self.refused.pop() {
            let (slot, serial) = (job.reply_to.slot as usize, job.reply_to.serial);
            self.state.recycle_job(job);
            if self.waits_for(slot, serial) {
                let peer = self.peers[slot].as_mut().expect("it waits");
                let expected = peer.model.fail(&mut self.shared, failure);
                let step = peer.core.reject(&mut self.state, &self.shared.snapshot, failure);
                self.drive(slot, expected, step);
            }
        }
    }

    /// Ends a connection; `is_panic`: because handling it panicked.
    pub fn abort(&mut self, slot: usize, is_panic: bool) {
        if self.peers[slot].is_none() {
            return;
        }
        if is_panic {
            self.state.reset();
        }
        self.close(slot);
    }

    pub fn close(&mut self, slot: usize) {
        self.timers.cancel(slot);
        let peer = self.peers[slot].take().expect("it is open");
        self.held -= peer.held;
        peer.core.close(&mut self.state);
        peer.model.close(&mut self.shared);
        self.check_counts();
    }

    /// Adopts other settings, as the event loop does.
    pub fn reload(&mut self, word: u64) {
        self.seen.reloads += 1;
        let before = self.shared.settings.timeouts;
        let settings = Settings::new(word, Some(&self.shared.settings), &mut self.shared.quotas);
        self.service = settings.service(Some(&self.service), &self.metrics);
        self.state.adopt(Arc::clone(&self.service));
        self.shared.settings = settings;
        self.note_limits();
        if self.shared.settings.timeouts != before {
            for slot in 0..SLOTS {
                if let Some(peer) = &self.peers[slot] {
                    let deadline = self.end_of(peer.core.wait());
                    self.timers.set(slot, deadline);
                }
            }
        }
    }

    /// Stops accepting: a shorter deadline applies to idle connections.
    pub fn stop(&mut self) {
        if self.stopped.is_none() {
            self.stopped = Some(self.now());
            let snapshot = &mut self.shared.snapshot;
            (snapshot.is_draining, snapshot.is_sending_away) = (true, true);
            snapshot.is_stopping = true;
            (0..SLOTS).for_each(|slot| self.set_timer(slot));
        }
    }
}

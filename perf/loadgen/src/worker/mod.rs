//! One thread's event loop, which sends due requests and checks their answers.

mod dispatch;
mod events;
mod opening;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::check::{Sample, Samples};
use crate::ciphertext::Ciphertext;
use crate::connection::Connection;
use crate::failures::{self, FailedRequest};
use crate::pool::Pool;
use crate::request::{Operation, Requests, Sent, Sizes, Source};
use crate::schedule::{Arrivals, Nanos, Pace, Phase, nanos, phase_at};
use crate::stats::{Interval, Stats};
use crate::target::Target;
use crate::timer::Timer;

/// Maximum number of connections that one thread opens at the same time before the run.
const MAX_OPENING: usize = 64;
/// Maximum time for the TCP and TLS handshakes of a connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before another attempt at a connection that could not be opened.
const REOPEN_DELAY: Duration = Duration::from_millis(50);
/// Maximum number of requests signed ahead, which also never exceeds a second's worth.
const MAX_PREPARED: usize = 32;
const SCRATCH_BYTES: usize = 64 * 1024;
const TIMER: Token = Token(usize::MAX);

/// Work of all threads.
pub struct Plan {
    /// Target of the load.
    pub target: Arc<Target>,
    /// Ciphertexts for decrypt requests.
    pub ciphertexts: Arc<[Arc<Ciphertext>]>,
    /// Set if what the run encrypts is decrypted in it.
    pub has_round_trips: bool,
    /// Input sizes for encrypt requests.
    pub sizes: Sizes,
    /// Operations by weight. The sum of the weights is not 0.
    pub mix: Vec<(Operation, u32)>,
    /// Phases of the run, in order.
    pub phases: Vec<Phase>,
    /// Open loop: set if arrivals are random.
    pub is_poisson: bool,
    /// Set if the newest of the requests that wait for a free connection is sent first.
    pub is_newest_first: bool,
    /// Timeout of a request, from its intended send time.
    pub timeout: Duration,
    /// Set if the contents of answers are checked.
    pub is_checked: bool,
    /// Set if failed requests are reported one by one.
    pub logs_failures: bool,
    /// Mean number of requests before a connection is closed and another opened.
    pub requests_per_connection: Option<u32>,
    /// Length of an interval of the figures over time.
    pub interval: Duration,
    /// Number of threads.
    pub threads: usize,
    /// Number that is unique to the run.
    pub run_id: u64,
}

/// One thread's share of the work.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Index of the thread.
    pub thread: usize,
    /// Connections under load.
    pub connections: usize,
    /// Connections held open without load.
    pub idle_connections: usize,
    /// Number of encrypts to keep for decryption after the run.
    pub samples: usize,
    /// Maximum number of requests.
    pub max_requests: u64,
}

/// Report of a thread.
pub enum Report {
    /// Success of opening the connections, or the reason for failure.
    Opened(Result<(), String>),
    /// End of an interval of that thread.
    Interval(usize, Interval),
    /// A request failed.
    Failed(Box<FailedRequest>),
    /// The run is over.
    Finished(Box<Stats>, Vec<Sample>),
}

/// Opens the connections, waits for the start signal and does the thread's share.
pub fn run(plan: &Plan, share: Share, reports: &Sender<Report>, start: &Receiver<Instant>) {
    // A send fails once the main thread has ended: then no report is needed.
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
    worker.stats.not_decrypted = worker.requests.not_decrypted();
    let _ = reports.send(Report::Finished(Box::new(worker.stats), worker.samples.drawn));
}

/// A request under way.
struct InFlight {
    sent: Sent,
    intended: Nanos,
    /// Phase of the request; `None` during a warm-up.
    phase: Option<usize>,
}

/// Time at which a connection's activity times out, if its serial has not changed by then.
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
    /// Loaded connections, followed by idle ones.
    connections: Vec<Connection>,
    in_flight: Vec<Option<InFlight>>,
    /// Answers that each connection has brought.
    answers: Vec<u64>,
    /// Failed requests that have yet to be reported.
    failed: Vec<FailedRequest>,
    /// Serial numbers, incremented whenever a connection begins something else.
    serials: Vec<u64>,
    /// Connections that were idle when they were added.
    free: VecDeque<usize>,
    /// Requests that are due, oldest first.
    backlog: VecDeque<(Nanos, usize)>,
    timeouts: VecDeque<Expiry>,
    opening: VecDeque<Expiry>,
    to_reopen: VecDeque<(Nanos, usize)>,
    arrivals: Arrivals,
    /// Phase at the time when events were last handled.
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
            // Truncated: a thread with fewer than two requests per second signs one ahead.
            Pace::Open(rate) => usize::try_from(Duration::from_secs_f64(rate).as_secs())
                .unwrap_or(MAX_PREPARED)
                .div_ceil(plan.threads)
                .clamp(1, MAX_PREPARED),
        });
        let mut random = fastrand::Rng::new();
        let source = if plan.has_round_trips {
            Source::Pool(Pool::new(&plan.ciphertexts, &mut random))
        } else {
            Source::Corpus(Arc::clone(&plan.ciphertexts))
        };
        Ok(Self {
            plan,
            share,
            start: Instant::now(),
            poll,
            timer,
            scratch: vec![0; SCRATCH_BYTES],
            requests: Requests::new(&plan.target, source, plan.sizes, plan.run_id, share.thread),
            random,
            prepared: VecDeque::new(),
            max_prepared: ahead.min().unwrap_or(0),
            spare: Vec::new(),
            connections: (0..connections).map(|_| Connection::default()).collect(),
            in_flight: (0..connections).map(|_| None).collect(),
            answers: vec![0; connections],
            failed: Vec::new(),
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

    /// Notes a failure of a connection's request that was due `age` nanoseconds ago, or of the
    /// connection itself.
    fn note(
        &mut self,
        index: Option<usize>,
        operation: &'static str,
        age: Nanos,
        status: u16,
        name: &str,
    ) {
        if !self.plan.logs_failures {
            return;
        }
        let request = index.and_then(|index| self.connections.get(index));
        self.failed.push(FailedRequest {
            due: failures::seconds_since_1970(Duration::from_nanos(age)),
            ended: failures::seconds_since_1970(Duration::ZERO),
            operation,
            status,
            name: name.to_owned(),
            request_id: request.map(|it| failures::request_id(&it.request)).unwrap_or_default(),
            answers_before: index.and_then(|it| self.answers.get(it).copied()).unwrap_or(0),
        });
    }

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
            for failed in self.failed.drain(..) {
                let _ = reports.send(Report::Failed(Box::new(failed)));
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
                // epoll counts whole milliseconds: the timer wakes us at the right time.
                self.timer.set(at, self.now())?;
                if self.prepare_one() {
                    wait = Duration::ZERO;
                }
            }
            self.poll(&mut events, Some(wait))?;
        }
    }
}

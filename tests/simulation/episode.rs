//! One episode: choices are interpreted, then the process ends.

use std::cell::Cell;
use std::time::Duration;

use xks_proxy::job::Failure;
use xks_proxy::proto::Listener;

use crate::choices::{Choice, Numbers, byte};
use crate::hsm::{FAILURES, Hsm};
use crate::requests::{Pool, TIMES, Template};
use crate::world::{DRAIN_TIMEOUT, Options, SLOTS, Seen, World};

thread_local! {
    static BEGUN: Cell<usize> = const { Cell::new(0) };
}

/// Number of choices that the last episode of this thread has begun to carry out.
pub fn steps_begun() -> usize {
    BEGUN.get()
}

/// Runs the episode with `seed`, whose choices these are. Returns what it has seen.
///
/// # Panics
/// The core does not do what the model expects.
pub fn run(pool: &'static Pool, seed: u64, choices: &[Choice], options: Options) -> Seen {
    let mut numbers = Numbers(!seed);
    let mut world = World::new(pool, numbers.next());
    world.options = options;
    for (at, choice) in choices.iter().enumerate() {
        if options.is_traced {
            eprintln!("{at}: {}", describe(*choice));
        }
        world.seen.steps += 1;
        BEGUN.set(at + 1);
        match choice {
            Choice::Event(word) => world.event(*word),
            Choice::Drain => world.shared.snapshot.is_draining = true,
            Choice::SendAway => {
                let snapshot = &mut world.shared.snapshot;
                (snapshot.is_draining, snapshot.is_sending_away) = (true, true);
            }
            Choice::Stop => world.stop(),
        }
        world.refuse_jobs();
    }
    world.stop();
    // The HSM answers in half of the episodes.
    let answers = numbers.next().is_multiple_of(2);
    let end = world.stopped.expect("it has stopped") + DRAIN_TIMEOUT;
    while world.now() < end {
        let left = end - world.now();
        world.pass(left.min(Duration::from_millis(50)));
        for slot in 0..SLOTS {
            world.accept_bytes(slot, 1_000);
        }
        if answers {
            world.work(numbers.next());
        }
        world.refuse_jobs();
    }
    // What has become idle in the last turn ends with it.
    world.pass(Duration::ZERO);
    world.check_end();
    world.seen
}

/// Text for the trace of an episode.
fn describe(choice: Choice) -> String {
    let Choice::Event(word) = choice else { return format!("{choice:?}") };
    let slot = choice.slot(SLOTS).unwrap_or_default();
    format!("connection {slot}: {:?} {word:#018x}", Event::of(word))
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Deliver,
    Ask,
    AcceptBytes,
    Work,
    Pass,
    Fail,
    Repeat,
    Forget,
    Hold,
    EndInput,
    Disconnect,
    Panic,
    PassLonger,
    PassLong,
    SetClock,
    Health,
    Congestion,
    Reload,
    SlowDown,
    RefuseNext,
}

impl Event {
    fn of(word: u64) -> Self {
        match byte(word, 0) {
            0..=112 => Self::Deliver,
            113..=135 => Self::Ask,
            136..=168 => Self::AcceptBytes,
            169..=206 => Self::Work,
            207..=226 => Self::Pass,
            227..=234 => Self::Fail,
            235 => Self::Repeat,
            236 => Self::Forget,
            237 => Self::Hold,
            238 => Self::EndInput,
            239 => Self::Disconnect,
            // The rarest.
            240 => match byte(word, 2) {
                0..=63 => Self::Panic,
                64..=99 => Self::PassLong,
                100..=163 => Self::SetClock,
                164..=199 => Self::Health,
                200..=231 => Self::Congestion,
                _ => Self::Reload,
            },
            241..=242 => Self::PassLonger,
            243..=246 => Self::SlowDown,
            247..=248 => Self::RefuseNext,
            _ => Self::Deliver,
        }
    }
}

impl World {
    fn event(&mut self, word: u64) {
        let slot = Choice::Event(word).slot(SLOTS).unwrap_or_default();
        let amount = usize::from(byte(word, 3)) * 256 + usize::from(byte(word, 4));
        match Event::of(word) {
            Event::Deliver => self.deliver_some(slot, word),
            Event::Ask => self.ask_some(slot, word),
            Event::AcceptBytes => {
                let few = [amount, amount % 8, 100_000, 0][usize::from(byte(word, 2) % 4)];
                self.accept_bytes(slot, few);
            }
            Event::Work => self.work(word),
            Event::Pass => self.pass(Duration::from_micros((amount % 8_000) as u64)),
            Event::Fail => {
                if let Some(job) = self.hsm.take(amount) {
                    let failure = FAILURES[usize::from(byte(word, 2)) % FAILURES.len()];
                    self.complete(Hsm::fail(job, failure), None);
                }
            }
            Event::Repeat => self.repeat(word),
            Event::Forget => drop(self.hsm.take(amount)),
            Event::Hold if byte(word, 2) < 128 => self.hsm.hold(amount),
            Event::Hold => self.hsm.release(),
            Event::EndInput => self.end_input(slot),
            Event::Disconnect => self.abort(slot, false),
            Event::Panic => self.abort(slot, true),
            Event::PassLonger => self.pass_within(Duration::from_millis((amount % 300) as u64)),
            Event::PassLong => self.pass_within(Duration::from_millis((amount * 2) as u64)),
            Event::SetClock => {
                let time = TIMES[usize::from(byte(word, 3)) % TIMES.len()];
                let offset = u64::from(byte(word, 4)) * 3;
                self.set_wall(time + offset - 380);
            }
            Event::Health => {
                let snapshot = &mut self.shared.snapshot;
                snapshot.is_ready = !byte(word, 3).is_multiple_of(4);
                snapshot.is_clock_off = byte(word, 4).is_multiple_of(4);
            }
            Event::Congestion => {
                self.shared.snapshot.is_congested = byte(word, 3).is_multiple_of(4)
            }
            Event::Reload => self.reload(word.swap_bytes().wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            Event::SlowDown => {
                if let Some(peer) = &mut self.peers[slot] {
                    peer.is_slow = byte(word, 2).is_multiple_of(2);
                }
            }
            Event::RefuseNext => {
                let failures = [Failure::Overloaded, Failure::NoToken];
                self.refusal = Some(failures[usize::from(byte(word, 2)) % failures.len()]);
            }
        }
    }

    /// Lets time pass, but not beyond the end of the process.
    fn pass_within(&mut self, duration: Duration) {
        let left = self.stopped.map(|stopped| (stopped + DRAIN_TIMEOUT) - self.now());
        self.pass(left.map_or(duration, |left| duration.min(left)));
    }

    /// The HSM does a job, in any order.
    pub fn work(&mut self, word: u64) {
        if let Some(job) = self.hsm.take(usize::from(byte(word, 3))) {
            let done = self.hsm.work(job, word);
            self.complete(done.completion, Some(done.number));
        }
    }

    /// Two attempts at a request both report an answer.
    fn repeat(&mut self, word: u64) {
        let Some(job) = self.hsm.take(usize::from(byte(word, 3))) else { return };
        let reply_to = job.reply_to;
        let done = self.hsm.work(job, word);
        let again = xks_proxy::job::Completion {
            reply_to,
            outcome: Err(Failure::Defect),
            output: Vec::new().into(),
            token: None,
            queue_micros: 0,
            hsm_micros: 0,
        };
        self.complete(done.completion, Some(done.number));
        self.complete(again, None);
    }

    /// Delivers bytes: all that there are, some, or one.
    fn deliver_some(&mut self, slot: usize, word: u64) {
        if self.peers[slot].is_none() {
            let is_ping = byte(word, 2) < 8;
            self.open(slot, if is_ping { Listener::Ping } else { Listener::Api });
        }
        if !self.has_input(slot) && byte(word, 2) < 128 {
            return self.ask_some(slot, word.rotate_right(13));
        }
        let few = usize::from(byte(word, 4));
        let count = match byte(word, 3) {
            0..=69 => usize::MAX,
            70..=189 => 4 * few + 1,
            190..=239 => few / 8 + 1,
            _ => 1,
        };
        self.deliver(slot, count);
    }

    /// A peer makes a request, most often one of a customer, signed at the present time.
    fn ask_some(&mut self, slot: usize, word: u64) {
        let pool = self.pool;
        let now = self.unix_secs();
        let nearest = (0..TIMES.len()).min_by_key(|at| TIMES[*at].abs_diff(now));
        let time = match byte(word, 5) {
            0..=7 => usize::from(byte(word, 6)) % TIMES.len(),
            _ => nearest.unwrap_or_default(),
        };
        let list: &'static [Template] = match byte(word, 4) {
            0..=179 => &pool.usual[time],
            180..=219 => &pool.signed[time],
            _ => &pool.unsigned,
        };
        self.ask(slot, &list[usize::from(byte(word, 3)) % list.len()]);
        if self.unix_secs().abs_diff(TIMES[nearest.unwrap_or_default()]) > 420 {
            self.set_wall(TIMES[usize::from(byte(word, 6)) % TIMES.len()]);
        }
    }
}

//! The protocol core in a deterministic simulation: many connections, a simulated time, an HSM that
//! answers in any order or not at all, and reloads, shuffled from a seed and compared with a model at
//! each step.
//!
//! `SIMULATION_SEED` is the seed of the first episode, `SIMULATION_STEPS` the number of steps. A
//! failing episode is shrunk to the choices that it needs; its message has the command that repeats
//! it, for which `SIMULATION_KEEP` lists them. `SIMULATION_SHRINK` is the number of steps that
//! shrinking may take.
#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

mod answers;
mod choices;
mod compare;
mod episode;
mod hsm;
mod memory;
mod model;
mod requests;
#[allow(dead_code, reason = "tests/proto uses the rest")]
#[path = "../proto/rig/mod.rs"]
mod rig;
mod settings;
#[path = "../../src/server/timer.rs"]
mod timer;
mod world;

use std::alloc::System;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;
use std::time::Instant;

use zeroizing_alloc::ZeroAlloc;

use choices::{Choice, Kept, choices, next_seed, shrink};
use requests::Pool;
use world::{Options, SLOTS, Seen};

/// Steps of a run of all tests.
const DEFAULT_STEPS: u64 = 300_000;
/// Seed of its first episode.
const DEFAULT_SEED: u64 = 1;
/// Episodes for each that ends with a search of memory.
const EPISODES_PER_SEARCH: u64 = 16;
/// Steps that are spent to make a failing episode shorter.
const DEFAULT_SHRINK_STEPS: u64 = 500_000;

/// As in the program: freed memory is wiped, and what is searched is what is kept for reuse.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

thread_local! {
    /// Message of the last panic in an episode, while they are caught.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::new)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Runs an episode, and returns the message of its failure.
fn outcome(seed: u64, choices: &[Choice], options: Options) -> Result<Seen, String> {
    let run = || episode::run(pool(), seed, choices, options);
    panic::catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| CAUGHT.take().unwrap_or_else(|| "a panic without a message".to_owned()))
}

/// Keeps the messages of panics on this thread, instead of printing each.
fn catch_messages() {
    let usual = panic::take_hook();
    let test = std::thread::current().id();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == test {
            CAUGHT.set(Some(info.to_string()));
        } else {
            usual(info);
        }
    }));
}

/// The message for a failing episode: the choices that it needs, and how to repeat it.
fn report(seed: u64, all: &[Choice], options: Options, message: &str) -> String {
    let budget = number("SIMULATION_SHRINK", DEFAULT_SHRINK_STEPS);
    let budget = usize::try_from(budget).unwrap_or(usize::MAX);
    // Nothing after the step that failed is needed.
    let kept = Kept((0..all.len().min(episode::steps_begun())).collect());
    let fails = |kept: &Kept| outcome(seed, &kept.of(all), options).is_err();
    let kept = shrink(&kept, all, SLOTS, budget, fails);
    let last = outcome(seed, &kept.of(all), options).err().unwrap_or_default();
    format!(
        "the episode with seed {seed} fails: {message}\nWith {} of its {} choices: {last}\nRepeat \
         it, and see its steps, with:\nSIMULATION_SEED={seed} SIMULATION_KEEP={kept} cargo test \
         --locked --test simulation -- --nocapture episodes\n",
        kept.0.len(),
        all.len(),
    )
}

/// The search of memory finds the marked text: not a test by itself, since others search too.
fn the_search_finds_plaintexts() {
    let mut kept = Vec::with_capacity(2 * requests::MARKER_BYTES);
    requests::push_marker(&mut kept);
    assert_eq!(memory::places(), 1, "a plaintext that is kept is found");
    kept.fill(0);
    assert_eq!(memory::places(), 0, "and not when it is wiped");
}

/// Every step of the core is the one that the model expects, whatever happens in whichever order.
#[test]
fn episodes() {
    let mut seed = number("SIMULATION_SEED", DEFAULT_SEED);
    if let Some(kept) = variable("SIMULATION_KEEP") {
        let kept = Kept::parse(&kept).expect("a list of numbers");
        let options = Options { is_traced: true, searches_memory: true };
        episode::run(pool(), seed, &kept.of(&choices(seed)), options);
        return;
    }
    let steps = number("SIMULATION_STEPS", DEFAULT_STEPS);
    pool();
    the_search_finds_plaintexts();
    catch_messages();
    let start = Instant::now();
    let mut all = Seen::default();
    for episode in 0.. {
        if all.steps >= steps {
            break;
        }
        let choices = choices(seed);
        let searches_memory = episode % EPISODES_PER_SEARCH == 0;
        let options = Options { searches_memory, ..Options::default() };
        match outcome(seed, &choices, options) {
            Ok(seen) => all.add(&seen),
            Err(message) => {
                let report = report(seed, &choices, options, &message);
                let _ = panic::take_hook();
                panic!("{report}");
            }
        }
        seed = next_seed(seed);
    }
    let _ = panic::take_hook();
    let secs = start.elapsed().as_secs_f64();
    println!("{all:?}: {:.0} steps a second", all.steps as f64 / secs);
}

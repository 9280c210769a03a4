//! Runs a scenario under many schedules, or repeats one.

use std::env;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::clock;

/// Seed of the schedules, so that each run has the same ones; `SHUTTLE_RANDOM_SEED` replaces it.
const SEED: u64 = 20;
/// Number of decisions that PCT reverses in one schedule.
const PCT_DEPTH: usize = 3;
const STACK_BYTES: usize = 512 * 1024;
/// Number of steps after which a scenario counts as one that never ends.
const MAX_STEPS: usize = 100_000;

/// Runs the scenario under `schedules` random schedules and as many of PCT, times the percentage in
/// `MODELS_PERCENT`. If `SHUTTLE_SCHEDULE` is set, repeats that one.
pub fn check(schedules: usize, scenario: fn()) {
    let scenario = move || {
        clock::reset();
        scenario();
    };
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.silence_warnings = true;
    if let Ok(schedule) = env::var("SHUTTLE_SCHEDULE") {
        let scheduler = ReplayScheduler::new_from_encoded(&schedule);
        Runner::new(scheduler, config).run(scenario);
        return;
    }
    let percent = env::var("MODELS_PERCENT").map_or(100, |percent| percent.parse().unwrap());
    let schedules = (schedules * percent).div_ceil(100);
    let random = RandomScheduler::new_from_seed(SEED, schedules);
    Runner::new(random, config.clone()).run(scenario);
    let pct = PctScheduler::new_from_seed(SEED, PCT_DEPTH, schedules);
    Runner::new(pct, config).run(scenario);
}

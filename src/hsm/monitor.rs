//! The monitor: never calls an HSM, so it never hangs. It writes off calls that do, starts
//! threads, and publishes the fleet's health.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::keeper::{self, ThreadCount};
use super::roster::Place;
use super::token::Token;
use super::watch::{Found, Watch};
use super::{health, hedge, worker};
use crate::limits::{
    HEALTH_TICK, KEEPER_RETRY_INTERVAL, MAX_WRITTEN_OFF_PER_TOKEN, MIN_HANG, MIN_STALL,
    MONITOR_IDLE_TICKS, PROBE_INTERVAL, SESSION_STACK_BYTES, STALL_FACTOR,
};

/// Starts the monitor and the keepers.
///
/// # Errors
/// The system gives no more threads.
pub fn start(fleet: &Arc<Fleet>) -> std::io::Result<()> {
    for index in 0..fleet.tokens.len() {
        let watch = Arc::clone(&fleet.tokens[index].keeper.lock().watch);
        start_keeper(fleet, index, watch)?;
    }
    let of_thread = Arc::clone(fleet);
    fleet.threads.fetch_add(1, Ordering::AcqRel);
    let started = thread::Builder::new().name("hsm-monitor".to_owned()).spawn(move || {
        let _count = ThreadCount::of(&of_thread);
        run(&of_thread);
    });
    started.map(drop).inspect_err(|_| {
        fleet.threads.fetch_sub(1, Ordering::AcqRel);
    })
}

fn run(fleet: &Arc<Fleet>) {
    let mut idle_ticks = 0;
    let mut published_at = None::<Instant>;
    let mut hedge_after = None;
    while !is_over(fleet) {
        let now = Instant::now();
        let mut is_busy = false;
        for index in 0..fleet.tokens.len() {
            is_busy |= tend(fleet, index, now, hedge_after);
        }
        if published_at.is_none_or(|then| now.saturating_duration_since(then) >= HEALTH_TICK) {
            health::publish(fleet, now);
            published_at = Some(now);
            fleet.tokens.iter().for_each(|token| token.latencies.advance(now));
            hedge_after = fleet.hedger.after(&fleet.tokens);
        }
        idle_ticks = if is_busy { 0 } else { idle_ticks + 1 };
        if idle_ticks < MONITOR_IDLE_TICKS || fleet.is_stopping() {
            fleet.monitor_signal.wait_until(now + hedge::tick(hedge_after));
        } else {
            let is_needed = || fleet.tokens.iter().any(|token| !token.queue.is_empty());
            fleet.monitor_signal.doze_until(now + PROBE_INTERVAL / 2, is_needed);
        }
    }
}

/// The monitor goes last: until then it writes off those who hang, and sees to what waits.
fn is_over(fleet: &Fleet) -> bool {
    let is_done = |token: &Token| token.queue.is_empty() || !token.circuit.is_usable();
    fleet.is_stopping()
        && fleet.threads.load(Ordering::Acquire) <= 1
        && fleet.tokens.iter().all(is_done)
}

/// Looks after one token. Says whether there is work in it.
fn tend(fleet: &Arc<Fleet>, index: usize, now: Instant, hedge_after: Option<Duration>) -> bool {
    let token = &fleet.tokens[index];
    // A few very slow calls make the average long, and must not hide the next one.
    let usual = token.pace.service().min(token.latencies.p90().unwrap_or(Duration::MAX));
    let stall = MIN_STALL.max(usual.saturating_mul(STALL_FACTOR));
    let mut is_busy = look_at_workers(fleet, token, now, stall);
    if let Some(after) = hedge_after {
        hedge::look_at_calls(fleet, token, now, after);
    }
    hedge::relieve(fleet, token);
    is_busy |= look_at_keeper(fleet, index, now);
    if health::is_out_of_sight(token, now) {
        let reason = "probes do not return, and neither do jobs".to_owned();
        fleet.give_up(token, reason);
    }
    let waiting = token.queue.len();
    if waiting > 0 {
        is_busy = true;
        // A place may have become free by a call that hangs.
        token.roster.wake(waiting);
    }
    if token.may_hire(now) {
        for _ in 0..token.roster.hire(waiting) {
            if let Err(error) = start_worker(fleet, index) {
                tracing::error!("no thread for an HSM session: {error}");
                token.roster.leave();
                token.open_failed(now);
                break;
            }
        }
    }
    is_busy
}

fn look_at_workers(fleet: &Fleet, token: &Token, now: Instant, stall: Duration) -> bool {
    let mut is_busy = false;
    let mut hung = 0;
    token.watches.lock().retain(|watch| match watch.look(now, stall) {
        Found::Idle => Arc::strong_count(watch) > 1,
        // Its thread is gone: it panicked.
        Found::Busy if Arc::strong_count(watch) == 1 => false,
        Found::Busy => {
            is_busy = true;
            true
        }
        Found::NowLent => {
            is_busy = true;
            watch.held.lock().send_all(fleet);
            token.roster.lend();
            true
        }
        Found::NowWrittenOff(was) => {
            watch.held.lock().send_all(fleet);
            token.roster.write_off(was);
            hung += 1;
            false
        }
    });
    for _ in 0..hung {
        token.counters.hung.fetch_add(1, Ordering::Relaxed);
        let label = token.backend.identity().label;
        tracing::warn!(token = label, "an HSM call hangs; its session is replaced");
        // If it answers others meanwhile, the token is not at fault, or not as a whole.
        let answers = token.circuit.last_success().is_some_and(|then| now < then + MIN_HANG);
        if answers {
            token.circuit.blemish(now);
        } else if token.circuit.fault(now, || "calls hang".to_owned()) {
            fleet.given_up(token);
        }
    }
    is_busy
}

fn look_at_keeper(fleet: &Arc<Fleet>, index: usize, now: Instant) -> bool {
    let token = &fleet.tokens[index];
    let mut state = token.keeper.lock();
    let found = state.watch.look(now, Duration::MAX);
    if matches!(found, Found::NowWrittenOff(Place::Elsewhere)) {
        token.roster.write_off_other();
        state.trouble = Some("a probe does not return".to_owned());
        state.has_tried = true;
        state.is_listing = false;
        state.replace_at = Some(now);
    }
    let Some(replace_at) = state.replace_at else { return found != Found::Idle };
    // Those that hang may return, and then there is room for another.
    let has_room = token.roster.headcount().written_off < MAX_WRITTEN_OFF_PER_TOKEN;
    if now < replace_at || !has_room || fleet.is_stopping() {
        return true;
    }
    state.watch = Arc::new(Watch::default());
    match start_keeper(fleet, index, Arc::clone(&state.watch)) {
        Ok(()) => state.replace_at = None,
        Err(error) => {
            tracing::error!("no thread to probe an HSM with: {error}");
            state.replace_at = Some(now + KEEPER_RETRY_INTERVAL);
        }
    }
    true
}

fn start_keeper(fleet: &Arc<Fleet>, index: usize, watch: Arc<Watch>) -> std::io::Result<()> {
    spawn(fleet, format!("hsm-keeper-{index}"), move |fleet| {
        let token = &fleet.tokens[index];
        let run = || keeper::run(fleet, token, &watch);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // The monitor takes it for a hang, and replaces it.
            tracing::error!("a panic in an HSM probe");
            let now = Instant::now();
            watch.begin(now, now, false);
            // Unlike one that hangs it is gone already, before the monitor has counted it.
            token.roster.written_off_returned();
        }
    })
}

fn start_worker(fleet: &Arc<Fleet>, index: usize) -> std::io::Result<()> {
    let watch = Arc::new(Watch::default());
    fleet.tokens[index].watches.lock().push(Arc::clone(&watch));
    spawn(fleet, format!("hsm-{index}"), move |fleet| {
        let token = &fleet.tokens[index];
        let run = || worker::run(fleet, token, &watch);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!("a panic in an HSM session");
            // As after a hang; the thread is gone already.
            let now = Instant::now();
            watch.begin(now, now, true);
            if let Found::NowWrittenOff(was) = watch.look(now, Duration::MAX) {
                token.roster.write_off(was);
                token.roster.written_off_returned();
            }
        }
    })
}

fn spawn(
    fleet: &Arc<Fleet>,
    name: String,
    body: impl FnOnce(&Arc<Fleet>) + Send + 'static,
) -> std::io::Result<()> {
    let of_thread = Arc::clone(fleet);
    fleet.threads.fetch_add(1, Ordering::AcqRel);
    let started =
        thread::Builder::new().name(name).stack_size(SESSION_STACK_BYTES).spawn(move || {
            let _count = ThreadCount::of(&of_thread);
            body(&of_thread);
        });
    started.map(drop).inspect_err(|_| {
        fleet.threads.fetch_sub(1, Ordering::AcqRel);
    })
}

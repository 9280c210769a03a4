//! The monitor. It never calls an HSM, so it never hangs. It abandons calls that do, starts
//! threads, and publishes the fleet's health.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::in_flight_call::{InFlightCall, Inspection, JobCall};
use super::token::Token;
use super::worker_pool::WorkerState;
use super::{health, health_checker, hedge, worker};
use crate::limits::{
    CHECKER_RETRY_INTERVAL, HEALTH_CHECK_INTERVAL, HEALTH_TICK, MAX_ABANDONED_PER_TOKEN, MIN_HANG,
    MIN_STALL, MONITOR_IDLE_TICKS, SESSION_STACK_BYTES, SILENT_WHILE_LISTING, STALL_FACTOR,
};
use crate::sync::atomic::Ordering;
use crate::sync::{clock, thread};

/// Starts the monitor and the health checkers.
///
/// # Errors
/// Returns the system's error if threads cannot be created.
pub fn start(fleet: &Arc<Fleet>) -> std::io::Result<()> {
    for index in 0..fleet.tokens.len() {
        let call = Arc::clone(&fleet.tokens[index].checker.lock().call);
        start_checker(fleet, index, call)?;
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
        let now = clock::now();
        let mut is_busy = false;
        for index in 0..fleet.tokens.len() {
            is_busy |= inspect_token(fleet, index, now, hedge_after);
        }
        if published_at.is_none_or(|then| now.saturating_duration_since(then) >= HEALTH_TICK) {
            health::publish(fleet, now);
            published_at = Some(now);
            for token in &fleet.tokens {
                token.latencies.advance(now);
                token.key_breakers.forget_old(now);
            }
            hedge_after = hedge::after(fleet.hedge_after, &fleet.tokens);
        }
        idle_ticks = if is_busy { 0 } else { idle_ticks + 1 };
        if idle_ticks < MONITOR_IDLE_TICKS || fleet.is_stopping() {
            fleet.monitor_signal.wait_until(now + hedge::tick(hedge_after));
        } else {
            let is_needed = || fleet.tokens.iter().any(Token::has_waiting);
            fleet.monitor_signal.wait_idle_until(now + HEALTH_CHECK_INTERVAL / 2, is_needed);
        }
    }
}

/// Returns whether the monitor may end. It is the last thread to end: until then it abandons
/// hanging calls and answers waiting jobs.
fn is_over(fleet: &Fleet) -> bool {
    let is_done = |token: &Token| !token.has_waiting() || !token.circuit_breaker.is_usable();
    fleet.is_stopping()
        && fleet.threads.load(Ordering::Acquire) <= 1
        && fleet.tokens.iter().all(is_done)
}

/// Inspects one token. Returns whether the token has work.
pub fn inspect_token(
    fleet: &Arc<Fleet>,
    index: usize,
    now: Instant,
    hedge_after: Option<Duration>,
) -> bool {
    let token = &fleet.tokens[index];
    // A few very slow calls raise the average, but must not keep the next one from being noticed.
    let usual = token.service_time.mean().min(token.latencies.p90().unwrap_or(Duration::MAX));
    let stall = MIN_STALL.max(usual.saturating_mul(STALL_FACTOR));
    let mut is_busy = inspect_workers(fleet, token, now, stall);
    if let Some(after) = hedge_after {
        hedge::hedge_calls(fleet, token, now, after);
    }
    hedge::move_stalled_jobs(fleet, token);
    is_busy |= inspect_checker(fleet, index, now);
    if health::is_health_unknown(token, now) {
        let reason = "neither health checks nor jobs return".to_owned();
        fleet.take_out_of_service(token, reason);
    }
    expire_stalled_queue(token, now);
    check_service(fleet, token, now);
    is_busy |= serve_deferred(token, now);
    let waiting = token.queue.len();
    if waiting > 0 {
        is_busy = true;
        // A call that hangs may have made room for another worker.
        token.pool.wake(waiting);
    }
    token.pool.set_extra(token.hangs.surplus(now));
    if token.may_open_session(now) {
        for _ in 0..token.pool.grow(waiting) {
            if let Err(error) = start_worker(fleet, index) {
                tracing::error!("cannot start a thread for an HSM session: {error}");
                token.pool.leave();
                token.open_failed(now);
                break;
            }
        }
    }
    is_busy
}

fn inspect_workers(fleet: &Fleet, token: &Token, now: Instant, stall: Duration) -> bool {
    let mut is_busy = false;
    let mut hung = Vec::new();
    token.calls.lock().retain(|call| match call.inspect(now, stall) {
        Inspection::Idle => Arc::strong_count(call) > 1,
        // The call's thread has ended with a panic.
        Inspection::Busy if Arc::strong_count(call) == 1 => false,
        Inspection::Busy => {
            is_busy = true;
            true
        }
        Inspection::NowStalled(job) => {
            is_busy = true;
            call.outbox.lock().send_all(&fleet.inboxes);
            token.pool.mark_stalled();
            if let Some(key) = job.and_then(|job| job.key) {
                token.hangs.stalled(key);
            }
            true
        }
        Inspection::NowAbandoned(was, job) => {
            call.outbox.lock().send_all(&fleet.inboxes);
            token.pool.abandon(was);
            if let Some(key) = job.and_then(|job| job.key) {
                token.hangs.overdue(key, was == WorkerState::Stalled, now);
            }
            hung.push(job);
            false
        }
    });
    for job in hung {
        on_hang(fleet, token, job, now);
    }
    is_busy
}

/// Handles a call that was abandoned.
fn on_hang(fleet: &Fleet, token: &Token, job: Option<JobCall>, now: Instant) {
    token.counters.hung.fetch_add(1, Ordering::Relaxed);
    let key = job.and_then(|job| job.key);
    let label = token.backend.identity().label;
    let key_label = key.map(|key| token.backend.label_of(key.0));
    tracing::warn!(token = label, key = key_label, "an HSM call hangs; its session is replaced");
    if let Some(time) = job.and_then(|job| job.time) {
        token.record_unanswered(key.map(|key| key.0), time);
    }
    // If it has answered other requests, the token is not at fault, or at least not entirely.
    let answers = token.circuit_breaker.last_success().is_some_and(|then| now < then + MIN_HANG);
    if answers && key.is_some_and(|key| token.hangs.hangs(key.0)) {
        token.circuit_breaker.record_key_fault(now);
    } else if answers {
        token.circuit_breaker.record_fault(now);
    } else if token.circuit_breaker.count_fault(now, || "calls hang".to_owned()) {
        fleet.on_circuit_opened(token);
    }
}

/// Takes a token out of service if it has no session left, or if it answers no requests and its
/// health check does not return either.
fn check_service(fleet: &Fleet, token: &Token, now: Instant) {
    if !token.circuit_breaker.is_usable() {
        return;
    }
    if !token.pool.has_sessions() {
        let hung = token.pool.counts().abandoned;
        fleet.take_out_of_service(token, format!("no session is left: {hung} calls do not return"));
        return;
    }
    let Some(time) = token.circuit_breaker.unanswered() else { return };
    if token.circuit_breaker.last_success().is_some_and(|then| now < then + time) {
        return;
    }
    let (since, is_listing) = {
        let state = token.checker.lock();
        (state.call.since(), state.is_listing)
    };
    // A health check is an encryption and a decryption. A listing may take minutes on a healthy
    // token, and prevents health checks, so that only the requests show whether the token works.
    let patience = if is_listing { SILENT_WHILE_LISTING } else { time * 2 };
    let last = if is_listing { token.circuit_breaker.last_success() } else { since };
    if last.is_some_and(|last| now.saturating_duration_since(last) > patience) {
        fleet.take_out_of_service(
            token,
            "it answers no request in time, nor a health check".to_owned(),
        );
    }
}

/// Counts requests that expired in the queue of a stalled token, since no worker removes them.
fn expire_stalled_queue(token: &Token, now: Instant) {
    if token.queue.is_empty() || !token.load().is_stalled {
        return;
    }
    for queued in token.queue.take_expired(now) {
        token.record_expired(&queued.job);
    }
}

/// Removes expired deferred requests, and wakes workers for the others. Returns whether there were
/// any.
fn serve_deferred(token: &Token, now: Instant) -> bool {
    if token.deferred.is_empty() {
        return false;
    }
    while let Some(queued) = token.deferred.take(|queued| now >= queued.job.deadline) {
        token.record_expired(&queued.job);
    }
    token.pool.wake(token.deferred.len());
    true
}

fn inspect_checker(fleet: &Arc<Fleet>, index: usize, now: Instant) -> bool {
    let token = &fleet.tokens[index];
    let mut state = token.checker.lock();
    let found = state.call.inspect(now, Duration::MAX);
    if let Inspection::NowAbandoned(WorkerState::NotRunning, job) = found {
        token.pool.abandon_other();
        match job.and_then(|job| job.key) {
            // The next health check will use another key.
            Some(key) => token.hangs.overdue(key, false, now),
            None => state.trouble = Some("a health check does not return".to_owned()),
        }
        state.has_tried = true;
        state.is_listing = false;
        state.replace_at = Some(now);
    }
    let Some(replace_at) = state.replace_at else { return found != Inspection::Idle };
    // Threads that hang may return, which makes room for another health checker.
    let has_room = token.pool.counts().abandoned < MAX_ABANDONED_PER_TOKEN;
    if now < replace_at || !has_room || fleet.is_stopping() {
        return true;
    }
    state.call = Arc::new(InFlightCall::default());
    match start_checker(fleet, index, Arc::clone(&state.call)) {
        Ok(()) => state.replace_at = None,
        Err(error) => {
            tracing::error!("cannot start a thread for HSM health checks: {error}");
            state.replace_at = Some(now + CHECKER_RETRY_INTERVAL);
        }
    }
    true
}

fn start_checker(fleet: &Arc<Fleet>, index: usize, call: Arc<InFlightCall>) -> std::io::Result<()> {
    spawn(fleet, format!("hsm-checker-{index}"), move |fleet| {
        let token = &fleet.tokens[index];
        let run = || health_checker::run(fleet, token, &call);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // The monitor treats the panic as a hang, and replaces the health checker.
            tracing::error!("an HSM health check panicked");
            let now = clock::now();
            call.begin(now, now, false);
            // Unlike a hanging thread, this one ends before the monitor has counted it.
            token.pool.abandoned_returned();
        }
    })
}

pub fn start_worker(fleet: &Arc<Fleet>, index: usize) -> std::io::Result<()> {
    let call = Arc::new(InFlightCall::default());
    fleet.tokens[index].calls.lock().push(Arc::clone(&call));
    spawn(fleet, format!("hsm-{index}"), move |fleet| {
        let token = &fleet.tokens[index];
        let run = || worker::run(fleet, token, &call);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!("an HSM session panicked");
            // Handled like a hang, except that the thread has already ended. The monitor may have
            // written it off before.
            if let Some(was) = call.write_off() {
                token.pool.abandon(was);
            }
            token.pool.abandoned_returned();
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

/// Counts one thread for as long as it lives.
struct ThreadCount<'a>(&'a Fleet);

impl<'a> ThreadCount<'a> {
    /// Takes over the count made when the thread was started.
    fn of(fleet: &'a Fleet) -> Self {
        Self(fleet)
    }
}

impl Drop for ThreadCount<'_> {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::AcqRel);
        self.0.progress.notify();
    }
}

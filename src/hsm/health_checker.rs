//! A token's health checker: a thread with its own session that connects, checks health, lists keys
//! and recovers the token step by step, independently of busy or hung workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{AnyKey, Evidence, Fault, Health, KeyChoice as _, OpenError};
use super::evidence_keys::MonitoredKeys;
use super::faults;
use super::fleet::Fleet;
use super::in_flight_call::InFlightCall;
use super::monitored_session::{Abandoned, CallError, MonitoredSession};
use super::prover;
use super::token::Token;
use crate::backoff::Backoff;
use crate::limits::{
    FIRST_HEALTH_CHECKS, HEALTH_CHECK_INTERVAL, KEY_REFRESH_INTERVAL, KEY_TRIAL_INTERVAL,
    MAX_EVIDENCE_KEYS, MAX_LISTING, MAX_MAINTENANCE_CALL, MAX_SLOW_BACKOFF, MIN_RECONNECT_BACKOFF,
    MIN_STABLE_TIME, MISSING_LABEL_INTERVAL, RECONNECTS_BEFORE_REINITIALIZE,
    REFUSED_LOGIN_INTERVAL, RETURN_WITHIN_PERCENT, SILENT_HEALTH_CHECK_INTERVAL,
};
use crate::sync::atomic::Ordering;
use crate::sync::clock;

/// Runs until the fleet stops, the token proves unfit, or a call hangs, in which case this health
/// checker is replaced.
pub fn run(fleet: &Fleet, token: &Token, call: &Arc<InFlightCall>) {
    let mut checker = HealthChecker {
        fleet,
        token,
        session: MonitoredSession::new(token, call),
        backoff: Backoff::default(),
        failures: 0,
        listed_at: None,
        put_in_use_at: None,
        relapses: Backoff::default(),
        is_slow: false,
        is_refused: false,
        slow_backoff: Backoff::up_to(MAX_SLOW_BACKOFF),
    };
    if let Err(Abandoned(key)) = checker.check_until_stopped() {
        token.pool.abandoned_returned();
        key.inspect(|key| token.hangs.returned(*key));
    }
}

struct HealthChecker<'a> {
    fleet: &'a Fleet,
    token: &'a Token,
    session: MonitoredSession<'a>,
    backoff: Backoff,
    /// Number of consecutive failed connections or health checks.
    failures: u32,
    listed_at: Option<Instant>,
    put_in_use_at: Option<Instant>,
    /// Waits that grow each time the token fails soon after it was put in use.
    relapses: Backoff,
    /// True if an operation takes longer than a request may.
    is_slow: bool,
    /// True if the PIN was refused; it is not tried again until something has changed.
    is_refused: bool,
    slow_backoff: Backoff,
}

/// The result of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Healthy,
    Unhealthy,
    /// The token permanently lacks something that the proxy needs.
    Unfit,
}

impl HealthChecker<'_> {
    fn check_until_stopped(&mut self) -> Result<(), Abandoned> {
        while !self.fleet.is_stopping() {
            self.back_off_after_relapse();
            let round = self.check()?;
            let has_tried = std::mem::replace(&mut self.token.checker.lock().has_tried, true);
            self.fleet.progress.notify();
            if !has_tried {
                prover::begin_proofs(self.fleet, self.token);
            }
            self.fleet.monitor_signal.notify();
            if round == Round::Unfit {
                return Ok(());
            }
            let is_healthy = round == Round::Healthy;
            let pause = if is_healthy {
                self.failures = 0;
                self.backoff.reset();
                self.slow_backoff.reset();
                self.pause()
            } else if self.is_slow {
                self.slow_backoff.wait()
            } else if self.is_refused {
                self.ignore_signals_for(REFUSED_LOGIN_INTERVAL);
                continue;
            } else {
                self.failures += 1;
                if self.reinitialize()? { MIN_RECONNECT_BACKOFF } else { self.backoff.wait() }
            };
            let end = clock::now() + pause;
            if is_healthy {
                prover::prove_keys(self.fleet, self.token, &mut self.session, end)?;
            }
            self.token.checker_signal.wait_until(end);
        }
        self.session.close()
    }

    /// Initializes the module again, as the last step of recovery, if that is due. Returns whether
    /// it did.
    fn reinitialize(&mut self) -> Result<bool, Abandoned> {
        let is_token_lost = self.token.backend.missed_keys() > 0;
        if !is_token_lost && self.failures < RECONNECTS_BEFORE_REINITIALIZE {
            return Ok(false);
        }
        let is_done =
            self.session.call(MAX_MAINTENANCE_CALL, |_, MonitoredKeys { token, .. }| {
                token.backend.reinitialize()
            })?;
        if is_done {
            self.token.counters.reinitialized.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_done)
    }

    /// Returns the interval to the next check of a healthy token.
    fn pause(&self) -> Duration {
        if self.token.circuit_breaker.unanswered().is_some() {
            SILENT_HEALTH_CHECK_INTERVAL
        } else if self.token.serves_no_key() {
            KEY_TRIAL_INTERVAL
        } else {
            HEALTH_CHECK_INTERVAL
        }
    }

    /// Tries keys that are out of use and that no request has tried: a replica that is not ready
    /// gets no requests, so nothing else would try them.
    fn try_keys_out_of_use(&mut self) -> Result<(), Abandoned> {
        let untried = self.token.key_breakers.take_untried(MAX_EVIDENCE_KEYS, clock::now());
        for (key, direction) in untried {
            if self.token.hangs.is_slow(key) {
                continue;
            }
            let evidence = self.session.call(MAX_MAINTENANCE_CALL, |session, keys| {
                let Some(session) = session else { return Evidence::Unavailable };
                let keys = MonitoredKeys { direction, ..keys };
                keys.uses(Some(key));
                session.try_key(key, direction)
            })?;
            let now = clock::now();
            match evidence {
                Evidence::Passed => faults::key_succeeded(self.token, (key, direction), now),
                Evidence::Failed => self.token.key_breakers.still_fails(key, direction, now),
                Evidence::Unavailable => {}
            }
        }
        Ok(())
    }

    /// Waits before checking again a token that failed soon after it was put in use. Otherwise a
    /// token whose health checks pass while its jobs fail would be put back in use at once each
    /// time, with new sessions.
    fn back_off_after_relapse(&mut self) {
        let is_new_to_this =
            |then: Instant| clock::now().saturating_duration_since(then) < MIN_STABLE_TIME;
        if !self.token.circuit_breaker.is_usable() && self.put_in_use_at.is_some_and(is_new_to_this)
        {
            let pause = self.relapses.wait();
            self.ignore_signals_for(pause);
        } else if !self.put_in_use_at.is_some_and(is_new_to_this) {
            self.relapses.reset();
        }
    }

    /// Waits for `time`, ignoring signals, unless the fleet stops.
    fn ignore_signals_for(&self, time: Duration) {
        let end = clock::now() + time;
        while clock::now() < end && !self.fleet.is_stopping() {
            self.token.checker_signal.wait_until(end);
        }
    }

    /// Performs one round of checks.
    fn check(&mut self) -> Result<Round, Abandoned> {
        let is_new = !self.session.is_open();
        if is_new && let Some(error) = self.open()? {
            return Ok(self.not_opened(error));
        }
        match self.check_session(is_new) {
            Ok(true) => {}
            Ok(false) => return Ok(Round::Unhealthy),
            Err(CallError::Fault(fault)) => return self.round_failed(fault, is_new),
            Err(CallError::Abandoned(abandoned)) => return Err(abandoned),
        }
        if is_new && let Some(locality) = self.token.service_time.close_window() {
            self.token.set_locality(locality);
        }
        if !self.token.pool.has_sessions() {
            return Ok(Round::Unhealthy);
        }
        self.is_slow = false;
        // A token that lost keys must show them again before it is put back in use.
        if self.token.backend.missed_keys() > 0
            && !(self.list()? && self.token.backend.missed_keys() == 0)
        {
            self.session.close()?;
            return Ok(Round::Unhealthy);
        }
        self.put_in_use();
        if !self.list()? {
            return Ok(Round::Unhealthy);
        }
        self.try_keys_out_of_use()?;
        if is_new && self.session.is_open() {
            return self.check_with_listed_keys();
        }
        Ok(Round::Healthy)
    }

    /// Opens the session. Returns the error if that failed.
    fn open(&mut self) -> Result<Option<OpenError>, Abandoned> {
        let opened =
            self.session.call(MAX_MAINTENANCE_CALL, |_, keys| keys.token.backend.open())?;
        self.token.is_identity_new.store(true, Ordering::Release);
        match opened {
            Ok(session) => {
                self.is_refused = false;
                self.token.checker.lock().has_stopped_trying = false;
                self.session.set(session);
                // Handles do not survive a reconnection, so the keys must be listed again.
                self.listed_at = None;
                Ok(None)
            }
            Err(error) => Ok(Some(error)),
        }
    }

    /// Checks the token's health and presence. Returns false if it is too slow.
    fn check_session(&mut self, is_new: bool) -> Result<bool, CallError> {
        let checks = if is_new { FIRST_HEALTH_CHECKS } else { 1 };
        for number in 0..checks {
            let (health, took) = self.check_health(Self::sample)?;
            self.record_health(health);
            // The first check of a session also creates a key, so its duration is not
            // representative.
            if (number > 0 || !is_new) && self.is_too_slow(took)? {
                return Ok(false);
            }
        }
        self.session.try_call(MAX_MAINTENANCE_CALL, |session, _| {
            session.as_mut().map_or(Ok(()), |session| session.token_is_present())
        })?;
        Ok(true)
    }

    fn put_in_use(&mut self) {
        if !self.token.circuit_breaker.is_usable() {
            self.token.hangs.unblock_all();
        }
        if !self.token.circuit_breaker.close() {
            return;
        }
        self.token.counters.put_in_use.fetch_add(1, Ordering::Relaxed);
        self.put_in_use_at = Some(clock::now());
        let identity = self.token.backend.identity();
        tracing::info!(
            token = identity.label,
            serial = identity.id,
            model = identity.model,
            "HSM token in use"
        );
        self.fleet.monitor_signal.notify();
    }

    /// Checks a new session's health once more now that keys are listed, for tokens that cannot
    /// create a key for health checks. Does not count as a sample of the service time: the new
    /// window begins with the first jobs.
    fn check_with_listed_keys(&mut self) -> Result<Round, Abandoned> {
        match self.check_health(|_, _, _| {}) {
            Ok((health, _)) => {
                self.record_health(health);
                Ok(Round::Healthy)
            }
            Err(CallError::Fault(fault)) => {
                self.check_failed(fault, false)?;
                Ok(Round::Unhealthy)
            }
            Err(CallError::Abandoned(abandoned)) => Err(abandoned),
        }
    }

    /// Handles a failed check. A session may fail alone, so a new one is tried first.
    fn round_failed(&mut self, fault: Fault, is_new: bool) -> Result<Round, Abandoned> {
        let is_token = is_new || self.failures > 0 || fault == Fault::KEYS_MISSED;
        self.check_failed(fault, is_token)?;
        if is_token { Ok(Round::Unhealthy) } else { self.check() }
    }

    fn record_health(&self, health: Health) {
        let trouble = match health {
            Health::Good => None,
            Health::CannotEncrypt(trouble) => Some(trouble),
        };
        let is_new = {
            let mut state = self.token.checker.lock();
            state.checked_at = Some(clock::now());
            let is_new = trouble.is_some() && state.trouble != trouble;
            state.trouble.clone_from(&trouble);
            is_new
        };
        if is_new {
            let label = self.token.backend.identity().label;
            tracing::error!(token = label, trouble, "HSM token does not encrypt");
        }
    }

    /// Takes the token out of service if a single operation takes longer than a request may,
    /// provided that the token answers no requests or is not in use. Returns whether it did. `took`
    /// is the duration of a health check, which is two operations.
    fn is_too_slow(&mut self, took: Duration) -> Result<bool, Abandoned> {
        let Some(time) = self.token.circuit_breaker.request_time() else { return Ok(false) };
        let is_usable = self.token.circuit_breaker.is_usable();
        if is_usable && self.token.circuit_breaker.unanswered().is_none() {
            return Ok(false);
        }
        let max = if is_usable { time } else { time * RETURN_WITHIN_PERCENT / 100 };
        let mut operation = took / 2;
        if operation <= max
            && let Some(took) = self.time_configured_key()?
        {
            // A session key may be fast while the configured keys are slow.
            operation = took / 2;
        }
        if operation <= max {
            return Ok(false);
        }
        self.is_slow = true;
        self.session.close()?;
        let trouble = format!(
            "an operation takes {} ms, but a request must be answered within {} ms",
            operation.as_millis(),
            time.as_millis()
        );
        self.failed(trouble, true);
        Ok(true)
    }

    /// Measures a known-good operation with a configured key, preferably one without slow calls.
    /// Returns `None` if none succeeds.
    fn time_configured_key(&mut self) -> Result<Option<Duration>, Abandoned> {
        self.session.call(MAX_MAINTENANCE_CALL, |session, keys| {
            let session = session.as_mut()?;
            let mut start = clock::now();
            let mut found = session.try_configured_key(&keys);
            if found == Evidence::Unavailable {
                start = clock::now();
                found = session.try_configured_key(&AnyKey);
            }
            (found == Evidence::Passed).then(|| clock::now().saturating_duration_since(start))
        })
    }

    fn check_failed(&mut self, fault: Fault, is_token: bool) -> Result<(), Abandoned> {
        self.session.close_broken(&fault)?;
        let trouble = match self.token.backend.missed_keys() {
            keys if fault == Fault::KEYS_MISSED => {
                format!("{keys} keys have disappeared")
            }
            _ => format!("health check: {}", fault.failure),
        };
        self.failed(trouble, is_token);
        Ok(())
    }

    fn not_opened(&mut self, error: OpenError) -> Round {
        self.is_refused = matches!(error, OpenError::PinRefused(_));
        match error {
            OpenError::PinRefused(reason) => {
                self.stop_trying(reason, false);
                Round::Unhealthy
            }
            OpenError::Unfit(reason) => {
                self.stop_trying(reason, true);
                Round::Unfit
            }
            // The workers hold all of the token's sessions, and may be serving jobs.
            OpenError::TooManySessions(reason) => {
                let is_working = self.token.pool.counts().workers > 0;
                self.failed(reason, !is_working);
                if is_working { Round::Healthy } else { Round::Unhealthy }
            }
            OpenError::Unavailable(reason) => {
                self.failed(reason, true);
                Round::Unhealthy
            }
        }
    }

    /// Takes the token out of service until something has changed, or permanently if it is unfit.
    fn stop_trying(&self, reason: String, is_unfit: bool) {
        let is_known = {
            let mut state = self.token.checker.lock();
            state.has_stopped_trying = true;
            state.is_unfit = is_unfit;
            state.trouble.replace(reason.clone()).is_some_and(|known| known == reason)
        };
        if self.token.circuit_breaker.open(reason.clone()) {
            self.fleet.on_circuit_opened(self.token);
        } else if !is_known {
            let label = self.token.backend.identity().label;
            tracing::error!(token = label, reason, "HSM token out of use");
        }
    }

    fn failed(&mut self, trouble: String, is_token: bool) {
        let is_known = {
            let mut state = self.token.checker.lock();
            state.checked_at = Some(clock::now());
            state.trouble.replace(trouble.clone()).is_some_and(|known| known == trouble)
        };
        if !is_known {
            let label = self.token.backend.identity().label;
            tracing::warn!(token = label, trouble, "HSM token in trouble");
        }
        // A token that answers jobs stays in service despite a failed health check.
        let answers = self.token.backend.missed_keys() == 0
            && self.token.circuit_breaker.is_answering(clock::now())
            && self.token.circuit_breaker.faults_in_a_row() == 0
            && self.token.circuit_breaker.unanswered().is_none();
        if is_token && !answers {
            self.fleet.take_out_of_service(self.token, trouble);
        }
    }

    /// Checks the token's health. `took` receives the wall and CPU time of a successful check.
    fn check_health(
        &mut self,
        took: impl FnOnce(&Token, Duration, Duration),
    ) -> Result<(Health, Duration), CallError> {
        self.session.try_call(MAX_MAINTENANCE_CALL, |session, keys| {
            let Some(session) = session else { return Ok((Health::Good, Duration::ZERO)) };
            let (start, cpu) = (clock::now(), clock::thread_cpu_time());
            let result = session.check_health(&keys);
            let wall = clock::now().saturating_duration_since(start);
            if result.is_ok() {
                took(keys.token, wall, clock::thread_cpu_time().saturating_sub(cpu));
            }
            result.map(|health| (health, wall))
        })
    }

    fn sample(token: &Token, wall: Duration, cpu: Duration) {
        token.service_time.seed(wall);
        if let Some(locality) = token.service_time.sample_cpu(cpu, wall, clock::now()) {
            token.set_locality(locality);
        }
    }

    /// Lists the keys if that is due or a handle was found stale. Returns false if keys have
    /// disappeared; the token is then out of service.
    fn list(&mut self) -> Result<bool, Abandoned> {
        let age = self.listed_at.map(|then| clock::now().saturating_duration_since(then));
        let is_due = match age {
            None => true,
            Some(age) if age >= KEY_REFRESH_INTERVAL => true,
            Some(_) if self.token.backend.has_new_labels() => true,
            Some(_) if self.token.backend.missed_keys() > 0 => true,
            Some(age) => age >= MISSING_LABEL_INTERVAL && self.token.backend.take_stale(),
        };
        if !is_due {
            return Ok(true);
        }
        self.token.pool.uncap();
        self.token.checker.lock().is_listing = true;
        let result = self.session.try_call(MAX_LISTING, |session, keys| {
            let _ = keys.token.backend.take_stale();
            session.as_mut().map_or(Ok(()), |session| session.refresh_keys())
        });
        self.token.checker.lock().is_listing = false;
        match result {
            Ok(()) => self.listed_at = Some(clock::now()),
            Err(CallError::Abandoned(abandoned)) => return Err(abandoned),
            Err(CallError::Fault(fault)) if fault == Fault::KEYS_MISSED => {
                self.check_failed(fault, true)?;
                return Ok(false);
            }
            Err(CallError::Fault(fault)) => {
                let label = self.token.backend.identity().label;
                tracing::warn!(token = label, "cannot list the keys: {}", fault.failure);
                if fault.breaks_session() {
                    self.session.close_broken(&fault)?;
                }
            }
        }
        Ok(true)
    }
}

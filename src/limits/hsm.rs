//! The limits of the HSM side.

use std::time::Duration;

use super::GCM_IV_BYTES;

/// Sessions of one token. Setting: `[pkcs11] session_pool_max_size`.
pub const MAX_SESSIONS_PER_TOKEN: usize = 1024;
/// Jobs that may wait for one token; further ones are answered with 429.
pub const MAX_QUEUED_JOBS_PER_TOKEN: usize = 16 * 1024;
/// Random bytes fetched by one C_GenerateRandom and cut into 341 IVs.
pub const IV_BATCH_BYTES: usize = 4092;
/// Number of earlier random batches of a token's sessions with whose beginnings a new batch is
/// compared.
pub const MAX_SEEN_BATCHES: usize = 1024;
/// Time between two health checks of a token.
pub const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two listings of a token's keys.
pub const KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Keys that are read in one listing of a token.
pub const MAX_KEYS_PER_TOKEN: usize = 100_000;
/// Object handles fetched by one C_FindObjects.
pub const FIND_OBJECTS_BATCH: usize = 1024;
/// Longest CKA_LABEL that can be an external key id.
pub const MAX_LABEL_BYTES: usize = 256;
/// Longest CKA_ID by which a key can be named.
pub const MAX_CKA_ID_BYTES: usize = 64;
/// Days before a key's CKA_END_DATE at which the log, `xks-proxy keys` and an alert begin to warn.
pub const END_DATE_NOTICE_DAYS: i64 = 30;
/// Keys of a token whose end dates the metrics show, the earliest first.
pub const MAX_END_DATES_SHOWN: usize = 100;
/// Bytes by which an output may exceed its input, for a module that has to be asked for the length.
pub const MAX_OUTPUT_EXCESS: usize = 1024;
/// Slots that a module may list.
pub const MAX_SLOTS: usize = 1024;
/// Tokens in the fleet.
pub const MAX_TOKENS: usize = 16;
/// Upper bound of a token's `weight`.
pub const MAX_WEIGHT: u32 = 1000;
/// Upper bound of a token's `priority`.
pub const MAX_PRIORITY: u32 = 1000;
/// Percentage of calls that may be hedged. Setting: `[pkcs11] hedge_budget_percent`.
pub const DEFAULT_HEDGE_BUDGET_PERCENT: u32 = 5;
/// Upper bound of `[pkcs11] hedge_after_milli`.
pub const MAX_HEDGE_AFTER_MILLI: u64 = 10_000;
/// Hedges that may be made at once after a time without hedges.
pub const MAX_HEDGE_BURST: u32 = 32;
/// Shortest time after which a call is hedged, unless the settings specify one: shorter delays are
/// the noise of a busy machine.
pub const MIN_HEDGE_AFTER: Duration = Duration::from_millis(5);
/// Unless the settings specify a time, a call is hedged after this many times the duration within
/// which nine in ten calls of the best token finish.
pub const HEDGE_FACTOR: u32 = 3;
/// Time after which a call is hedged while that duration is unknown.
pub const UNKNOWN_HEDGE_AFTER: Duration = Duration::from_millis(50);
/// Interval at which calls in flight are checked while one may need hedging soon.
pub const MIN_MONITOR_TICK: Duration = Duration::from_millis(2);
/// Length of each part of the minute over which the quantiles of call durations are computed.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(10);
/// Number of these parts.
pub const LATENCY_WINDOWS: usize = 6;
/// Number of calls in a minute below which their quantiles are meaningless.
pub const MIN_LATENCY_SAMPLES: u64 = 20;
/// With `[pkcs11] exit_when_wedged`: time without a usable token and with calls that do not return,
/// after which the process exits. It is longer than the time limits of client libraries (20 s, 30
/// s).
pub const WEDGED_TIME: Duration = Duration::from_secs(35);
/// Shards of a token's queue.
pub const MAX_QUEUE_SHARDS: usize = 8;
/// Time that a finished answer may wait for others that finish right after it, so that they are
/// sent together.
pub const MAX_COMPLETION_HOLD: Duration = Duration::from_micros(100);
/// Attempts at one request, including the first; its deadline may end them sooner.
pub const MAX_ATTEMPTS: u8 = 12;
/// Number of times that a decryption must fail with an ambiguous code, each time followed by a
/// known-good operation that succeeds, before the ciphertext is considered at fault. A bad
/// ciphertext costs twice as many operations. A token that fails at random, at any rate, passes
/// this test with a probability of at most 2^-8.
pub const SUSPICIONS: u8 = 4;
/// The same number if one of these tokens has had any fault in the last [`RECENT_FAULTS`]: a
/// probability of at most 2^-20.
pub const MAX_SUSPICIONS: u8 = 10;
/// Time between two lookups of the same missing label.
pub const MISSING_LABEL_INTERVAL: Duration = Duration::from_secs(2);
/// Lookups of missing labels on one token in a second.
pub const MAX_MISSING_LABEL_LOOKUPS_PER_SEC: u32 = 50;
/// Shortest duration of a call that counts as hanging; it must also exceed its job's deadline.
pub const MIN_HANG: Duration = Duration::from_millis(100);
/// Multiple of the usual duration that a hanging call must also exceed: an overloaded token is
/// merely slow.
pub const HANG_FACTOR: u32 = 32;
/// Upper bound of that product.
pub const MAX_HANG: Duration = Duration::from_secs(2);
/// Period over which a token's calls are averaged if there are many.
pub const SERVICE_TIME_WINDOW: Duration = Duration::from_millis(50);
/// Number of calls in that period from which on they alone determine the average; fewer count in
/// proportion.
pub const SERVICE_TIME_CALLS: u64 = 8;
/// Number of a token's first calls for which the shortest duration is used instead of the average.
pub const SERVICE_TIME_FIRST_CALLS: u64 = 256;
/// Time after which opening or closing a session, a login or a health check counts as hanging.
pub const MAX_MAINTENANCE_CALL: Duration = Duration::from_secs(10);
/// Time after which a health check is evidence against the token, although it continues.
pub const MAX_HEALTH_CHECK: Duration = Duration::from_secs(2);
/// Time after which listing a token's keys counts as hanging.
pub const MAX_LISTING: Duration = Duration::from_secs(300);
/// Shortest duration of a call that gives up its slot among the active sessions to another; it must
/// also last many times longer than usual.
pub const MIN_STALL: Duration = Duration::from_millis(5);
/// Multiple of the usual duration that such a call must exceed.
pub const STALL_FACTOR: u32 = 8;
/// Threads of one token that may be stuck in a call and abandoned; beyond this number they are not
/// replaced.
pub const MAX_ABANDONED_PER_TOKEN: usize = 256;
/// Overdue calls of one key, with no success in between, at which no more calls are begun on that
/// token until one of them returns or a back-off ends.
pub const MAX_OVERDUE_CALLS_PER_KEY: isize = 4;
/// Overdue calls of all hanging keys of a token that serves other keys: half of
/// [`MAX_ABANDONED_PER_TOKEN`]. Beyond this, keys without a recent success wait for a trial.
pub const MAX_OVERDUE_CALLS_OF_KEYS: isize = 128;
/// First wait before a hanging key is tried again.
pub const MIN_HANG_BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait: each trial may occupy a thread and a session for as long as the call hangs.
pub const MAX_HANG_BACKOFF: Duration = Duration::from_secs(30);
/// Stalled calls of one key on a token, with no success of the key since, up to which another
/// session is tried, since the session may be at fault.
pub const MAX_STALLED_TO_HEDGE: isize = 2;
/// Time within which a success of another key shows that the token serves other keys.
pub const OTHER_KEYS_SERVED_WINDOW: Duration = Duration::from_secs(1);
/// Consecutive faults attributed to a key that open the key's circuit breaker.
pub const MIN_KEY_FAULTS: u32 = 5;
/// The same number while other keys of the token fail too: at a fault rate of 30 %, a key fails
/// that often in a row with a probability of less than 2^-13.
pub const MIN_KEY_FAULTS_IN_TROUBLE: u32 = 8;
/// Consecutive faults of a key after which a request with it gets no third attempt. At a fault rate
/// of the token of 30 %, and if the known-good operation succeeds each time, this fails fewer than
/// one request in a thousand that would have succeeded.
pub const MIN_DOUBTFUL_KEY_FAULTS: u32 = 4;
/// Shortest time between the first of these faults and the one that opens the circuit breaker.
pub const KEY_FAULT_SPAN: Duration = Duration::from_millis(500);
/// Wait before one request tries a key whose circuit breaker is open; randomly up to half as long
/// again.
pub const KEY_TRIAL_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a key's faults are forgotten if they have not opened its circuit breaker.
pub const KEY_FAULT_EXPIRY: Duration = Duration::from_secs(60);
/// Time within which a fault attributed to the token or a session shows that other keys fail too.
pub const TOKEN_FAULT_WINDOW: Duration = Duration::from_secs(2);
/// Attempts at a request on one token after which the attribution of its faults decides whether
/// there is a third.
pub const ATTEMPTS_BEFORE_ATTRIBUTION: u8 = 2;
/// Time for which a token's keys are proven without a break; requests then have the token for the
/// same time.
pub const PROOF_SLICE: Duration = Duration::from_millis(25);
/// Shortest time between the beginnings of two such slices.
pub const PROOF_INTERVAL: Duration = Duration::from_millis(50);
/// Keys proven in one slice: at most 500 a second.
pub const MAX_PROOFS_PER_SLICE: usize = 25;
/// Wait before a key that could not be proven is tried again.
pub const PROOF_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before a key that disagrees with its witness is tried again: it may have been repaired.
pub const DISAGREEMENT_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Number of keys with which a known-good operation is tried before it counts as failed.
pub const MAX_EVIDENCE_KEYS: usize = 3;
/// Consecutive expired requests, with no success in between, after which a token is checked at
/// once. It is taken out of use if the check takes longer than a request may.
pub const MAX_EXPIRED_IN_A_ROW: u32 = 5;
/// Percentage of a request's time within which each operation of a health check must finish before
/// a token returns to use.
pub const RETURN_WITHIN_PERCENT: u32 = 90;
/// Longest wait before a token that was too slow is checked again.
pub const MAX_SLOW_BACKOFF: Duration = Duration::from_secs(5);
/// Shortest time between two lookups of a key whose handle was refused again after it had been
/// looked up.
pub const REFUSED_HANDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Consecutive faults after which a token gets no jobs until a health check succeeds.
pub const MAX_FAULTS_IN_A_ROW: u32 = 16;
/// Number of faults among a token's latest 64 outcomes at which its health becomes DEGRADED: one in
/// ten.
pub const MIN_DEGRADED_FAULTS: u32 = 7;
/// Age beyond which faults do not affect a token's health.
pub const RECENT_FAULTS: Duration = Duration::from_secs(30);
/// Number of answers that a token must give after its return before it counts as healthy.
pub const HALF_OPEN_SUCCESSES: u32 = 8;
/// Time within which an answer shows that a token is usable even though its health check hangs.
pub const RECENT_TRAFFIC: Duration = Duration::from_secs(10);
/// First wait before a failed token is tried again; it doubles each time.
pub const MIN_RECONNECT_BACKOFF: Duration = Duration::from_millis(50);
/// Longest wait before a failed token is tried again.
pub const MAX_RECONNECT_BACKOFF: Duration = Duration::from_secs(2);
/// Longest wait for another module's C_Initialize to end before this one's is called.
pub const MAX_INITIALIZE_TURN_WAIT: Duration = Duration::from_secs(1);
/// Consecutive failed connection attempts before the module is reinitialised.
pub const RECONNECTS_BEFORE_REINITIALIZE: u32 = 3;
/// Time during which nothing of a module works, after which C_Finalize and C_Initialize are first
/// called; it doubles each time.
pub const MIN_REINITIALIZE_WAIT: Duration = Duration::from_secs(1);
/// Longest such time.
pub const MAX_REINITIALIZE_WAIT: Duration = Duration::from_secs(30);
/// Time that the start waits for the tokens' first answers, while connections wait in the
/// listeners' queues.
pub const MAX_START_WAIT: Duration = Duration::from_secs(3);
/// Time to wait for another thread's login or initialisation.
pub const MAX_LOGIN_WAIT: Duration = Duration::from_secs(5);
/// Time without an answer after which a token is taken out of use while its keys are listed and no
/// health check runs.
pub const SILENT_WHILE_LISTING: Duration = Duration::from_secs(1);
/// Time between two health checks of a token that answers no requests.
pub const SILENT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Refusals of a login for reasons other than the PIN, with no success in between, after which it
/// is not tried again.
pub const MAX_OTHER_LOGIN_REFUSALS: u32 = 2;
/// Interval at which a token that refused its PIN is checked, since it may have been unlocked.
pub const REFUSED_LOGIN_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which calls in flight are checked.
pub const MONITOR_TICK: Duration = Duration::from_millis(10);
/// Interval at which health is checked for changes.
pub const HEALTH_TICK: Duration = Duration::from_millis(100);
/// Time after a token's return during which another failure does not trigger an immediate health
/// check.
pub const MIN_STABLE_TIME: Duration = Duration::from_secs(5);
/// Number of ticks without a call in flight after which the monitor sleeps until there is one.
pub const MONITOR_IDLE_TICKS: u32 = 100;
/// Health checks right after connecting, which measure the token's service time before the first
/// job.
pub const FIRST_HEALTH_CHECKS: u32 = 4;
/// Wait before the second retry on the same token; it doubles each time. The first retry is
/// immediate.
pub const MIN_RETRY_BACKOFF: Duration = Duration::from_millis(1);
/// Longest wait before a retry on the same token.
pub const MAX_RETRY_BACKOFF: Duration = Duration::from_millis(16);
/// Stack of a session's thread, on which PKCS#11 modules run.
pub const SESSION_STACK_BYTES: usize = 1024 * 1024;
/// One call in this many has its CPU time measured.
pub const CPU_SAMPLE_INTERVAL: u32 = 8;
/// Average duration of a call from which the CPU time of each call is measured: the measurement
/// costs a microsecond.
pub const CPU_SAMPLE_ALWAYS: Duration = Duration::from_millis(1);
/// Number of samples that decide whether a token computes in this process or waits for a device.
pub const CPU_SAMPLES_PER_WINDOW: u32 = 32;
/// Number of samples that decide the same once [`MAX_CPU_WINDOW`] has passed.
pub const MIN_CPU_SAMPLES_PER_WINDOW: u32 = 8;
/// Time after which fewer samples decide, so that a token that has become slow is soon given all of
/// its sessions.
pub const MAX_CPU_WINDOW: Duration = Duration::from_millis(500);

const _: () = {
    assert!(IV_BATCH_BYTES.is_multiple_of(GCM_IV_BYTES));
    assert!(MIN_HANG.as_millis() < MAX_HANG.as_millis());
    assert!(SUSPICIONS <= MAX_SUSPICIONS);
    assert!(2 * MAX_OVERDUE_CALLS_OF_KEYS as usize == MAX_ABANDONED_PER_TOKEN);
    assert!(MIN_DOUBTFUL_KEY_FAULTS <= MIN_KEY_FAULTS);
    assert!(MIN_KEY_FAULTS <= MIN_KEY_FAULTS_IN_TROUBLE);
    assert!(MIN_KEY_FAULTS_IN_TROUBLE <= MAX_ATTEMPTS as u32);
};

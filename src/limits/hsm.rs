//! The limits of the HSM side.

use std::time::Duration;

use super::GCM_IV_BYTES;

/// Sessions of one token. Setting: `[pkcs11] session_pool_max_size`.
pub const MAX_SESSIONS_PER_TOKEN: usize = 1024;
/// Jobs that may wait for one token; past it, 429.
pub const MAX_QUEUED_JOBS_PER_TOKEN: usize = 16 * 1024;
/// Random bytes fetched by one C_GenerateRandom, cut into IVs: 341 of them.
pub const IV_BATCH_BYTES: usize = 4092;
/// Batches of random bytes of a token's sessions whose beginnings are compared with a new one's.
pub const MAX_SEEN_BATCHES: usize = 1024;
/// Between two probes of a token's health.
pub const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Between two listings of a token's keys.
pub const KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Keys that a listing takes from a token.
pub const MAX_KEYS_PER_TOKEN: usize = 100_000;
/// Object handles fetched by one C_FindObjects.
pub const FIND_OBJECTS_BATCH: usize = 1024;
/// A CKA_LABEL longer than this cannot be an external key id.
pub const MAX_LABEL_BYTES: usize = 256;
/// Bytes that an output may be longer than its input, for a module that says how long it is.
pub const MAX_OUTPUT_EXCESS: usize = 1024;
/// Slots that a module may list.
pub const MAX_SLOTS: usize = 1024;
/// Tokens in the fleet.
pub const MAX_TOKENS: usize = 16;
/// The largest `weight` of a token.
pub const MAX_WEIGHT: u32 = 1000;
/// The largest `priority` of a token.
pub const MAX_PRIORITY: u32 = 1000;
/// Calls in a hundred that may be hedged. Setting: `[pkcs11] hedge_budget_percent`.
pub const DEFAULT_HEDGE_BUDGET_PERCENT: u32 = 5;
/// Upper bound of `[pkcs11] hedge_after_milli`.
pub const MAX_HEDGE_AFTER_MILLI: u64 = 10_000;
/// Hedges that may be made at once after a time without any.
pub const MAX_HEDGE_BURST: u32 = 32;
/// Unless the settings say otherwise, no call is hedged sooner than this: what is quicker is the
/// noise of a busy machine.
pub const MIN_HEDGE_AFTER: Duration = Duration::from_millis(5);
/// Unless the settings say otherwise, a call is hedged that lasts so many times longer than nine
/// in ten of the best token's.
pub const HEDGE_FACTOR: u32 = 3;
/// When that is not known yet.
pub const UNKNOWN_HEDGE_AFTER: Duration = Duration::from_millis(50);
/// How often calls in flight are looked at while one may have to be hedged soon.
pub const MIN_MONITOR_TICK: Duration = Duration::from_millis(2);
/// The time over which the quantiles of calls' durations are taken: a minute, in parts.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(10);
/// How many such parts.
pub const LATENCY_WINDOWS: usize = 6;
/// Calls in a minute below which their quantiles tell nothing.
pub const MIN_LATENCY_SAMPLES: u64 = 20;
/// With `[pkcs11] exit_when_wedged`: how long no token is usable, with calls that do not return,
/// before the process gives up. Client libraries' own time limits (20 s, 30 s) come before it.
pub const WEDGED_TIME: Duration = Duration::from_secs(35);
/// Shards of a token's queue.
pub const MAX_QUEUE_SHARDS: usize = 8;
/// How long a finished answer may wait for those finished right after it, so that they leave
/// together.
pub const MAX_COMPLETION_HOLD: Duration = Duration::from_micros(100);
/// Attempts at one request, the first included; the deadline may end them sooner.
pub const MAX_ATTEMPTS: u8 = 12;
/// Times that a decryption must fail with a code that may also mean trouble, each time followed
/// by a known-good operation that succeeds, before the ciphertext is held to be at fault. A bad
/// ciphertext costs twice as many operations. A token that fails at random, whatever its rate,
/// passes this off with a probability of at most 2^-8.
pub const SUSPICIONS: u8 = 4;
/// The same where a token that said so has failed at anything in the last [`RECENT_FAULTS`]:
/// at most 2^-20.
pub const MAX_SUSPICIONS: u8 = 10;
/// Between two lookups of one missing label.
pub const MISSING_LABEL_INTERVAL: Duration = Duration::from_secs(2);
/// Lookups of missing labels in one second, for each token.
pub const MAX_MISSING_LABEL_LOOKUPS_PER_SEC: u32 = 50;
/// Keys of one label that a lookup counts; more are as ambiguous as that many.
pub const MAX_KEYS_PER_LABEL: usize = 1024;
/// A call hangs that lasts past its job's deadline, and longer than this.
pub const MIN_HANG: Duration = Duration::from_millis(100);
/// And so many times longer than usual: a token that has too much to do is slow, no more.
pub const HANG_FACTOR: u32 = 32;
/// But not if it must be longer than this for that.
pub const MAX_HANG: Duration = Duration::from_secs(2);
/// How long a token's calls are averaged over where they are many.
pub const SERVICE_TIME_WINDOW: Duration = Duration::from_millis(50);
/// So many calls in that time make up the average alone; fewer, their part of it.
pub const SERVICE_TIME_CALLS: u64 = 8;
/// Of a token's first calls the shortest counts, not their average.
pub const SERVICE_TIME_FIRST_CALLS: u64 = 256;
/// Opening or closing a session, a login, a probe: longer than this is a hang.
pub const MAX_MAINTENANCE_CALL: Duration = Duration::from_secs(10);
/// A probe that lasts longer is evidence against the token; it is still waited for.
pub const MAX_HEALTH_CHECK: Duration = Duration::from_secs(2);
/// Listing all of a token's keys: longer than this is a hang.
pub const MAX_LISTING: Duration = Duration::from_secs(300);
/// A call that lasts longer than this, and many times longer than usual, gives its place among
/// the active sessions to another.
pub const MIN_STALL: Duration = Duration::from_millis(5);
/// How many times longer than usual that is.
pub const STALL_FACTOR: u32 = 8;
/// Threads of one token that may be stuck in a call and written off; past it, they are not
/// replaced.
pub const MAX_ABANDONED_PER_TOKEN: usize = 256;
/// Overdue calls of one key, with no success in between, from which on no new one begins on that
/// token before one returns or a back-off ends.
pub const MAX_OVERDUE_CALLS_PER_KEY: isize = 4;
/// Overdue calls of all keys of a token that hang while the token serves others: half of
/// [`MAX_ABANDONED_PER_TOKEN`]. Past it, keys that have not succeeded lately wait for a trial.
pub const MAX_OVERDUE_CALLS_OF_KEYS: isize = 128;
/// First wait before a key that hangs is tried again.
pub const MIN_HANG_BACKOFF: Duration = Duration::from_secs(1);
/// Further waits: each trial may cost a thread and a session for as long as the call hangs.
pub const MAX_HANG_BACKOFF: Duration = Duration::from_secs(30);
/// Stalled calls of one key on a token, with no success of the key since, up to which another
/// session is tried: one session may hang for reasons of its own.
pub const MAX_STALLED_TO_HEDGE: isize = 2;
/// Other keys count as served if one succeeded in this time.
pub const OTHER_KEYS_SERVED_WINDOW: Duration = Duration::from_secs(1);
/// Faults of a key in a row, charged to the key, that open its circuit breaker.
pub const MIN_KEY_FAULTS: u32 = 5;
/// The same where other keys of the token fail too: at a fault rate of 30 %, a key fails so often
/// in a row with a probability of less than 2^-13.
pub const MIN_KEY_FAULTS_IN_TROUBLE: u32 = 8;
/// Faults of a key in a row after which a request with it is not tried a third time. At a fault
/// rate of 30 % of the token's, with evidence that passes each time, fewer than one request in a
/// thousand is given up that would have been done.
pub const MIN_DOUBTFUL_KEY_FAULTS: u32 = 4;
/// Time between the first of these faults and the one that opens the circuit breaker, at least.
pub const KEY_FAULT_SPAN: Duration = Duration::from_millis(500);
/// Wait before one request tries a key whose circuit breaker is open, up to half as long again.
pub const KEY_TRIAL_INTERVAL: Duration = Duration::from_secs(1);
/// Faults of a key that came to nothing are forgotten after this time.
pub const KEY_FAULT_EXPIRY: Duration = Duration::from_secs(60);
/// Other keys fail too if the token or a session was charged with a fault in this time.
pub const TOKEN_FAULT_WINDOW: Duration = Duration::from_secs(2);
/// Attempts at a request on a token, after which the charge of its faults decides about a third.
pub const ATTEMPTS_BEFORE_ATTRIBUTION: u8 = 2;
/// How long a token's keys are proven at a stretch; then it is left to the requests for as long.
pub const PROOF_SLICE: Duration = Duration::from_millis(25);
/// The shortest time from the beginning of one such stretch to that of the next.
pub const PROOF_INTERVAL: Duration = Duration::from_millis(50);
/// Keys proven at a stretch: 500 a second.
pub const MAX_PROOFS_PER_SLICE: usize = 25;
/// Wait before a key is tried again that could not be proven.
pub const PROOF_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before a key is tried again that disagrees with its witness: it may have been repaired.
pub const DISAGREEMENT_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that a known-good operation is tried with before it counts as failed.
pub const MAX_EVIDENCE_KEYS: usize = 3;
/// Requests in a row that expired, with no success in between, after which a token is probed at
/// once, and is out of use if the probe takes longer than a request may.
pub const MAX_EXPIRED_IN_A_ROW: u32 = 5;
/// Of a request's time, the part in hundredths within which each operation of a probe has to be
/// done before a token that was out of use returns.
pub const RETURN_WITHIN_PERCENT: u32 = 90;
/// Last wait before a token that was too slow is probed again.
pub const MAX_SLOW_BACKOFF: Duration = Duration::from_secs(5);
/// A handle that was found again and refused again: the key is not looked for more often than
/// this.
pub const REFUSED_HANDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Faults in a row after which a token gets no jobs until a probe succeeds.
pub const MAX_FAULTS_IN_A_ROW: u32 = 16;
/// Faults among a token's latest 64 outcomes from which on its health is DEGRADED: one in ten.
pub const MIN_DEGRADED_FAULTS: u32 = 7;
/// Faults older than this say nothing of a token's health.
pub const RECENT_FAULTS: Duration = Duration::from_secs(30);
/// Answers that a token gives, after it returned, before it is held to be well.
pub const HALF_OPEN_SUCCESSES: u32 = 8;
/// A token whose probe hangs is held to be usable if it gave an answer in this time.
pub const RECENT_TRAFFIC: Duration = Duration::from_secs(10);
/// First wait before a token that failed is tried again; doubles.
pub const MIN_RECONNECT_BACKOFF: Duration = Duration::from_millis(50);
/// Last wait before a token that failed is tried again.
pub const MAX_RECONNECT_BACKOFF: Duration = Duration::from_secs(2);
/// Connection attempts that fail in a row before the module is initialised again.
pub const RECONNECTS_BEFORE_REINITIALIZE: u32 = 3;
/// How long nothing of a module has to work before its first C_Finalize and C_Initialize; doubles.
pub const MIN_REINITIALIZE_WAIT: Duration = Duration::from_secs(1);
/// The same in the end.
pub const MAX_REINITIALIZE_WAIT: Duration = Duration::from_secs(30);
/// How long the start waits for the tokens to answer for the first time.
/// Connections wait in the listeners' queues meanwhile.
pub const MAX_START_WAIT: Duration = Duration::from_secs(3);
/// Waiting for another thread's login or initialisation.
pub const MAX_LOGIN_WAIT: Duration = Duration::from_secs(5);
/// While keys are listed nothing probes a token: if it answers no request for this long, it is out
/// of use.
pub const SILENT_WHILE_LISTING: Duration = Duration::from_secs(1);
/// How often a token is probed that answers no requests.
pub const SILENT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Refusals of a login that don't speak of the PIN, with no success in between, after which it is
/// not tried again.
pub const MAX_OTHER_LOGIN_REFUSALS: u32 = 2;
/// How often a token that refused its PIN is looked at: it may have been unlocked.
pub const REFUSED_LOGIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often calls in flight are looked at.
pub const MONITOR_TICK: Duration = Duration::from_millis(10);
/// How often health is looked at for what has changed.
pub const HEALTH_TICK: Duration = Duration::from_millis(100);
/// A token that fails again this soon after it returned is not probed at once.
pub const MIN_STABLE_TIME: Duration = Duration::from_secs(5);
/// Ticks without a call in flight after which nobody looks until there is one.
pub const MONITOR_IDLE_TICKS: u32 = 100;
/// Probes right after connecting, by which the token's service time is known before the first job.
pub const FIRST_HEALTH_CHECKS: u32 = 4;
/// At the second retry on the same token, the wait; doubles. The first retry is at once.
pub const MIN_RETRY_BACKOFF: Duration = Duration::from_millis(1);
/// At further retries on the same token, the longest wait.
pub const MAX_RETRY_BACKOFF: Duration = Duration::from_millis(16);
/// Stack of a session's thread; PKCS#11 modules run on it.
pub const SESSION_STACK_BYTES: usize = 1024 * 1024;
/// One in this many calls has its CPU time measured.
pub const CPU_SAMPLE_INTERVAL: u32 = 8;
/// Samples by which a token is held to compute in our process or to wait.
pub const CPU_SAMPLES_PER_WINDOW: u32 = 32;

const _: () = {
    assert!(IV_BATCH_BYTES.is_multiple_of(GCM_IV_BYTES));
    assert!(MIN_HANG.as_millis() < MAX_HANG.as_millis());
    assert!(SUSPICIONS <= MAX_SUSPICIONS);
    assert!(2 * MAX_OVERDUE_CALLS_OF_KEYS as usize == MAX_ABANDONED_PER_TOKEN);
    assert!(MIN_DOUBTFUL_KEY_FAULTS <= MIN_KEY_FAULTS);
    assert!(MIN_KEY_FAULTS <= MIN_KEY_FAULTS_IN_TROUBLE);
    assert!(MIN_KEY_FAULTS_IN_TROUBLE <= MAX_ATTEMPTS as u32);
};

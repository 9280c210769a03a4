//! Every limit in one place, units last in the name. What the settings can change says so. Those of
//! the HSM side have a file of their own below.

mod hsm;

use std::num::NonZeroU32;
use std::time::Duration;

pub use hsm::*;

// ---- AES-GCM and the XKS specification

/// Authentication tag (XKS specification, Encrypt: 128 bits).
pub const GCM_TAG_BYTES: usize = 16;
/// The IV that this proxy asks for or makes.
pub const GCM_IV_BYTES: usize = 12;
/// The longest IV that the specification allows.
pub const MAX_GCM_IV_BYTES: usize = 16;
/// `ciphertextMetadata` before base64 (XKS specification, Encrypt).
pub const MAX_CIPHERTEXT_METADATA_BYTES: usize = 20;
/// AAD before base64: its length goes into two bytes.
pub const MAX_AAD_BYTES: usize = 65_535;
/// Plaintext that a proxy must be able to take (XKS specification, Encrypt).
pub const MIN_MAX_PLAINTEXT_BYTES: usize = 4_300;
/// AAD that a proxy must be able to take (XKS specification, Encrypt).
pub const MIN_MAX_AAD_BYTES: usize = 8_192;
/// An external key id (XKS specification, API operations).
pub const MAX_KEY_ID_BYTES: usize = 128;
/// ARNs (XKS specification, API operations).
pub const MAX_ARN_BYTES: usize = 2_048;
/// The path prefix of a store: with `/kms/xks/v1` at most 128.
pub const MAX_URI_PATH_PREFIX_BYTES: usize = 117;
/// The shortest path prefix that is not empty.
pub const MIN_URI_PATH_PREFIX_BYTES: usize = 9;
/// `errorMessage` (XKS specification, Error codes: under 512).
pub const MAX_ERROR_MESSAGE_BYTES: usize = 511;
/// Entries of `ekmFleetDetails` (XKS specification, GetHealthStatus).
pub const MAX_FLEET_DETAILS: usize = 10;
/// A health result is not older than this (XKS specification, GetHealthStatus).
pub const MAX_HEALTH_AGE: Duration = Duration::from_secs(60);

// ---- HTTP

/// The request target; KMS keeps whole URIs to 256.
pub const MAX_TARGET_BYTES: usize = 256;
/// Request line and header fields together.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Header fields in a request.
pub const MAX_HEADERS: usize = 64;
/// One chunk-size line with its extensions (RFC 9112, 7.1).
pub const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Trailer section of a chunked body; it is read and dropped.
pub const MAX_TRAILER_BYTES: usize = 1024;
/// Room in a body for all that is neither plaintext, ciphertext nor AAD: requestMetadata with
/// ARNs of 2,048 characters, members that KMS may add, white space.
pub const BODY_OVERHEAD_BYTES: usize = 16 * 1024;
/// Room in an answer for its head, and for all in its body that is neither plaintext nor
/// ciphertext: the health call's is the longest.
pub const ANSWER_OVERHEAD_BYTES: usize = 4 * 1024;
/// A connection's first buffer; it takes what nearly all requests need.
pub const SMALL_BUFFER_BYTES: usize = 4 * 1024;
/// Buffers of each size that a loop keeps for reuse.
pub const MAX_POOLED_BUFFERS: usize = 1024;
/// And bytes of each size; one buffer is kept in any case.
pub const MAX_POOLED_BYTES: usize = 8 * 1024 * 1024;
/// Requests on one connection. A session of AES-GCM may protect some 2^24.5 records (RFC 8446,
/// 5.5); this ends it in good order long before, and a connection at KMS's quota of 1,800
/// requests a second not before nine minutes. Setting: `[limits] max_requests_per_connection`.
pub const DEFAULT_MAX_REQUESTS_PER_CONNECTION: u64 = 1_000_000;
/// Upper bound of `[limits] max_requests_per_connection`.
pub const MAX_REQUESTS_PER_CONNECTION: u64 = u64::MAX / 2;

// ---- SigV4

/// How far `x-amz-date` may be from our clock (XKS specification, Appendix A).
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Header names in SignedHeaders.
pub const MAX_SIGNED_HEADERS: usize = 32;
/// Signing keys kept for each credential: yesterday's, today's and tomorrow's may all be valid
/// around midnight.
pub const SIGNING_KEYS_PER_CREDENTIAL: usize = 3;
/// An access key id (XKS specification, Appendix A).
pub const MIN_ACCESS_KEY_ID_BYTES: usize = 20;
/// An access key id (XKS specification, Appendix A).
pub const MAX_ACCESS_KEY_ID_BYTES: usize = 30;
/// A secret access key (XKS specification, XKS proxy configuration).
pub const MIN_SECRET_ACCESS_KEY_BYTES: usize = 43;
/// A secret access key (XKS specification, XKS proxy configuration).
pub const MAX_SECRET_ACCESS_KEY_BYTES: usize = 64;
/// Credentials of one store that are valid at once: two in a rotation (XKS specification, SigV4
/// credentials rotation), and some more. Each is looked at for every request.
pub const MAX_CREDENTIALS_PER_STORE: usize = 8;
/// `name` of a credential.
pub const MAX_CREDENTIAL_NAME_BYTES: usize = 64;

// ---- Time. What the settings name differently is a default.

/// A whole call, from its first byte: KMS hangs up after 250 ms, the network takes some of it.
/// Setting: `[limits] request_deadline_milli`.
pub const DEFAULT_REQUEST_DEADLINE_MILLI: u64 = 180;
/// From a request's first byte to the end of its head. Setting: `[limits] head_timeout_milli`.
pub const DEFAULT_HEAD_TIMEOUT_MILLI: u64 = 10_000;
/// From the end of the head to the end of the body. Setting: `[limits] body_timeout_milli`.
pub const DEFAULT_BODY_TIMEOUT_MILLI: u64 = 10_000;
/// Between two requests on one connection. Setting: `[limits] idle_timeout_milli`.
pub const DEFAULT_IDLE_TIMEOUT_MILLI: u64 = 75_000;
/// For the peer to take an answer. Setting: `[limits] write_timeout_milli`.
pub const DEFAULT_WRITE_TIMEOUT_MILLI: u64 = 10_000;
/// KMS hangs up this long after it began a call (XKS specification, Encrypt).
pub const KMS_TIMEOUT_MILLI: u64 = 250;
/// What a time in the settings may be at the most: a day.
pub const MAX_TIMEOUT_MILLI: u64 = 24 * 60 * 60 * 1000;
/// For a TLS handshake. Setting: `[limits] handshake_timeout_milli`.
pub const DEFAULT_HANDSHAKE_TIMEOUT_MILLI: u64 = 10_000;
/// After an answer that ends a connection, how long what the peer still sends is read and
/// dropped, so that it gets to see the answer (RFC 9112, 9.6).
pub const LINGER: Duration = Duration::from_secs(2);
/// How much is read and dropped in that time.
pub const MAX_LINGER_BYTES: usize = 256 * 1024;
/// Between SIGTERM and the end of accepting: readiness is false, answers on the connections that
/// were open carry `Connection: close`. Setting: `[server] drain_delay_milli`.
pub const DEFAULT_DRAIN_DELAY_MILLI: u64 = 5_000;
/// Then, for what is in flight to finish. Setting: `[server] drain_timeout_milli`.
pub const DEFAULT_DRAIN_TIMEOUT_MILLI: u64 = 5_000;

/// While the process ends, how long a connection may be quiet: who was at work or came in a moment
/// ago may have sent a request that is still under way. KMS sends one at once.
pub const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(1_000);

// ---- Service manager and upgrades

/// For a message to systemd.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// For a new process to say that it serves, before it is ended and the old one goes on.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);
/// Then, for it to end by itself.
pub const UPGRADE_ABORT_TIMEOUT: Duration = Duration::from_secs(15);
/// For the old process to answer that it is done accepting.
pub const UPGRADE_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Listening sockets that a process hands on, or is given: the kernel passes 253 in one message
/// (unix(7), SCM_RIGHTS).
pub const MAX_INHERITED_SOCKETS: usize = 128;

// ---- Event loops

/// Port of `/ping` where `[server] port_http_ping` is missing, as in the reference proxy.
pub const DEFAULT_PING_PORT: u16 = 80;
/// TCP keepalive times, in Linux: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` (include/net/tcp.h).
pub const MAX_TCP_KEEPALIVE_SECS: u64 = 32_767;
/// TCP keepalive probes, in Linux: `MAX_TCP_KEEPCNT` (include/net/tcp.h).
pub const MAX_TCP_KEEPALIVE_PROBES: u64 = 127;
/// Connections in all. Setting: `[limits] max_connections`.
pub const DEFAULT_MAX_CONNECTIONS: usize = 20_000;
/// What `[limits] max_connections` may be at the most.
pub const MAX_CONNECTIONS: usize = 1_000_000;
/// Event loops. Setting: `[server] event_loops`.
pub const MAX_EVENT_LOOPS: usize = 64;
/// Connections to the ping port in all. They are not among `max_connections`: a flood on the
/// API's port must not make a load balancer think that the process is dead.
pub const MAX_PING_CONNECTIONS: usize = 256;
/// Open files that are no connections: the HSM's own, logs, listeners, what a module opens.
pub const RESERVED_DESCRIPTORS: u64 = 1024;
/// Listeners of one loop: far more than it has, of its own and of what a process with more loops
/// handed over.
pub const MAX_LISTENERS_PER_LOOP: usize = 256;
/// Connections accepted from one listener in one turn of a loop.
pub const MAX_ACCEPTS_PER_TURN: usize = 16;
/// Where event loops accept from one socket, how long one that has more connections than another
/// leaves the next to it.
pub const ACCEPT_YIELD: Duration = Duration::from_millis(1);
/// Connections ended at once to make room for others.
pub const MAX_EVICTIONS: usize = 64;
/// For so many that may be ended, one more is at once: where there are many, looking for them costs.
pub const CONNECTIONS_PER_EVICTION: usize = 256;
/// Memory that all connections together may hold: receive buffers, answers that were not taken,
/// incomplete TLS records. Setting: `[limits] max_buffered_bytes`.
pub const DEFAULT_MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;
/// What `[limits] max_buffered_bytes` may be at the least.
pub const MIN_MAX_BUFFERED_BYTES: usize = 4 * 1024 * 1024;
/// What `[limits] max_buffered_bytes` may be at the most.
pub const MAX_MAX_BUFFERED_BYTES: usize = 1 << 40;
/// TLS handshakes begun in a second, over all loops: with an ECDSA P-256 certificate and X25519
/// each takes some 100 us of CPU time from accept to close, so a fifth of a core. KMS's quota of
/// 1,800 requests a second fits in even if each came on a connection of its own. Setting:
/// `[limits] max_tls_handshakes_per_sec`.
pub const DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC: u32 = 2_000;
/// What a rate in the settings may be at the most.
pub const MAX_RATE_PER_SEC: u32 = 1_000_000;
/// TLS handshakes whose costly part, key exchange and signature, a loop does in one turn: an open
/// connection's request waits for no more than that.
pub const MAX_HANDSHAKES_PER_TURN: usize = 1;
/// What a server says in a handshake before it has agreed on keys: an alert (7 bytes), or a
/// HelloRetryRequest with its change_cipher_spec (99; RFC 8446, 4.1.4). Its first flight is longer:
/// some 240 where a session is resumed, more than the certificate where it is not.
pub const MAX_UNKEYED_FLIGHT_BYTES: usize = 128;
/// Where handshakes wait, one in so many is that of the peer that has waited for longest.
pub const HANDSHAKES_PER_OLDEST: u32 = 4;
/// In a list of connections that wait, entries that those who ended have left behind, beyond two
/// for each connection there is.
pub const MAX_STALE_ENTRIES: usize = 64;
/// One PROXY protocol header: the addresses take up 36 bytes, the rest are TLVs.
pub const MAX_PROXY_HEADER_BYTES: usize = 4096;
/// Networks in `[server] proxy_protocol_from`.
pub const MAX_PROXY_NETWORKS: usize = 64;
/// Requests of one connection that are answered in one turn of a loop: who sends ahead does not
/// keep the others waiting.
pub const MAX_ANSWERS_PER_TURN: u32 = 1;
/// Connections whose deadlines are looked after in one turn of a loop.
pub const MAX_EXPIRIES_PER_TURN: usize = 64;
/// The next connection is left to the next turn when one has lasted this long: answers of the HSM,
/// handshakes and new connections get their share however many requests there are.
pub const MAX_TURN: Duration = Duration::from_micros(300);
/// The same for connections that have had their share in an earlier turn: what the kernel has to
/// tell meanwhile does not wait for longer.
pub const MAX_CARRIED_OVER_TURN: Duration = Duration::from_micros(50);
/// Where requests wait in an event loop for too long, and never less, for this long, they begin to
/// be turned away. A machine that stood still for a moment catches up sooner.
pub const CONGESTION_BEGINS_AFTER: Duration = Duration::from_millis(50);
/// When none has waited for too long for this long, turning away ends. Until then, what waits for
/// too long is turned away at once: otherwise each relief would let it pile up anew.
pub const CONGESTION_ENDS_AFTER: Duration = Duration::from_secs(2);
/// Bytes read from one connection in one turn of a loop.
pub const MAX_READ_PER_TURN_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// A loop's scratch buffer for received bytes.
pub const READ_SCRATCH_BYTES: usize = 64 * 1024;
/// The kernel's queue of connections not yet accepted.
pub const LISTEN_BACKLOG: i32 = 4096;
/// What the kernel keeps of answers that a peer does not read, in bytes (it takes twice as many,
/// socket(7), SO_SNDBUF); left to itself it goes up to megabytes a connection.
pub const SOCKET_SEND_BYTES: usize = 32 * 1024;
/// What the kernel keeps of what a peer sends ahead, in bytes (likewise, SO_RCVBUF).
pub const SOCKET_RECEIVE_BYTES: usize = 128 * 1024;
/// Readiness events taken from the kernel at once.
pub const MAX_EVENTS_PER_POLL: usize = 128;
/// What one TLS record carries (RFC 8446, 5.1).
pub const MAX_RECORD_PLAINTEXT_BYTES: usize = 16 * 1024;
/// One TLS record, framing and expansion included (RFC 5246, 6.2.3).
pub const MAX_RECORD_BYTES: usize = 5 + MAX_RECORD_PLAINTEXT_BYTES + 2048;
/// Received TLS bytes that do not make a whole record or handshake message yet: a client's
/// certificate chain can take several records.
pub const MAX_PARTIAL_TLS_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Lines of each kind about peers that were refused, which one loop logs in a second; the others
/// are counted.
pub const MAX_REFUSALS_LOGGED_PER_SEC: u32 = 10;
/// Between two lines in the log about accepting that had to pause.
pub const ACCEPT_PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Jobs that a loop gathers before the HSM side gets them, so that the last one of a busy turn
/// does not keep the first one waiting.
pub const MAX_JOBS_PER_SUBMIT: usize = 16;
/// How long accepting pauses at the limit of connections, or when the system has no descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// TLS sessions that can be resumed by id (TLS 1.2); TLS 1.3 uses tickets.
pub const TLS_SESSION_CACHE_SIZE: usize = 4096;

// ---- Secrets

/// A file with one secret: a PIN or a secret access key.
pub const MAX_SECRET_FILE_BYTES: u64 = 4096;

// ---- Command line

/// Keys and labels that one line of the start-up log names; the rest are counted.
pub const MAX_LABELS_PER_LINE: usize = 20;
/// For each step of `check --hsm`; nobody waits for it as KMS does.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// For all event loops to take up a change of the settings: they do at their next turn.
pub const MAX_CHANGE_WAIT: Duration = Duration::from_secs(5);
/// For the sessions with tokens that are out of the settings to finish and to be closed.
pub const HSM_RETIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// For `xks-proxy reload` to hear what came of it: listing keys and connecting to tokens included.
pub const RELOAD_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The admin listener's `/status.json`, as `xks-proxy reload` takes it.
pub const MAX_STATUS_BYTES: usize = 64 * 1024 * 1024;
/// For modules to be finalised, if the sessions' end has taken all of [`HSM_STOP_TIMEOUT`].
pub const MIN_CLOSE_WAIT: Duration = Duration::from_millis(100);
/// Before another thread is tried for a token's probes, where the system had none to give.
pub const CHECKER_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// For the sessions to be closed after the last request, when the process ends.
pub const HSM_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// For the admin listener to answer, at each step; who waits is at a terminal.
pub const ADMIN_CLIENT_TIMEOUT: Duration = Duration::from_secs(3);

/// For each step of `xks-proxy ping`.
pub const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// What it reads of an answer.
pub const MAX_PING_ANSWER_BYTES: usize = 4096;
/// An answer that the demo's and the probe's client takes.
pub const MAX_CLIENT_ANSWER_BYTES: usize = 1024 * 1024;

// ---- Probe of a proxy

/// Connecting, TLS included, and then each call: ten times what KMS waits, so that a slow answer
/// is told from none.
pub const PROBE_CALL_TIMEOUT: Duration = Duration::from_millis(10 * KMS_TIMEOUT_MILLI);
/// Between KMS and the proxy, there and back (XKS specification, GetKeyMetadata: the ping latency
/// between the data centers should be 35 ms or less).
pub const MAX_NETWORK_ROUND_TRIP: Duration = Duration::from_millis(35);
/// Connections opened one after the other to measure the network and whole calls.
pub const PROBE_FRESH_CONNECTIONS: u32 = 5;
/// `--count` at the most.
pub const MAX_PROBE_COUNT: i64 = 100_000;
/// `--connections` at the most.
pub const MAX_PROBE_CONNECTIONS: i64 = 64;
/// `--rate` at the most: KMS's default quota of a key store.
pub const MAX_PROBE_RATE_PER_SEC: i64 = 1_800;
/// How far a proxy's clock may be from ours before it is told of: a fifth of what the signature
/// check allows.
pub const PROBE_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Of what a proxy answered, how much is shown.
pub const MAX_PROBE_EXCERPT_BYTES: usize = 200;

// ---- Log

/// Bytes of log lines that wait to be written; past it, lines are dropped and counted.
pub const MAX_LOG_BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// One string in a log line, as escaped; what is longer is cut. An ARN goes in whole.
pub const MAX_LOG_STRING_BYTES: usize = 2_048;
/// One line of the access log: a dozen strings and as many numbers, with their names.
pub const MAX_ACCESS_LOG_LINE_BYTES: usize = 32 * 1024;
/// Lines that an event loop gathers before it hands them over within a turn.
pub const LOG_BUFFER_BYTES: usize = 64 * 1024;
/// Lines of requests that were not authenticated, for each event loop; what is left out is
/// counted.
pub const MAX_UNAUTHENTICATED_LINES_PER_SEC: u32 = 10;
/// Between two writes to a log, so that an event loop under load need not wake the writer.
pub const LOG_WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// At the end, for the log's last lines to be written.
pub const LOG_STOP_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Audit log

/// Bytes of lines that wait to be written, and of room that is reserved for those of calls that
/// are being made: some 7,000 calls of the usual size at once.
pub const MAX_AUDIT_BACKLOG_BYTES: usize = 32 * 1024 * 1024;
/// Beyond them, for events: start, stop, changes of the settings.
pub const MAX_AUDIT_EVENT_BYTES: usize = 64 * 1024;
/// Of a call's line, all but the strings that the peer sent: names and numbers, the token's label,
/// and the reason, which may name policies and so be as long as any string.
pub const AUDIT_LINE_OVERHEAD_BYTES: usize = 3 * 1024;
/// Bytes that are chained before they are written.
pub const AUDIT_WRITE_BYTES: usize = 256 * 1024;
/// Between two attempts to write to a file that could not be written.
pub const AUDIT_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How often the writer looks whether something is due when no line comes.
pub const AUDIT_IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// With `[audit] sync = "interval"`: between two times that lines are forced to the disk.
pub const AUDIT_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines that tell of lines that are lost or left out.
pub const AUDIT_LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two checkpoints that the HSM seals.
pub const AUDIT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(600);
/// Before the HSM is asked again for a checkpoint that it did not seal.
pub const AUDIT_CHECKPOINT_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Beyond its timeout, for the answer to a request that one caller waits for.
pub const HSM_CALLER_GRACE: Duration = Duration::from_secs(1);
/// For the HSM to seal a checkpoint; lines gather meanwhile.
pub const MAX_AUDIT_CHECKPOINT_WAIT: Duration = Duration::from_secs(1);
/// At the end, for the last lines to be written, and for a process that still writes to end.
pub const AUDIT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the start of a process that takes another one's place and the end of that one, which
/// may drain for so long; then writing is held to fail.
pub const MAX_AUDIT_TAKEOVER_WAIT: Duration = Duration::from_secs(60);
/// How often a process that takes another one's place looks whether that one has ended.
pub const AUDIT_TAKEOVER_POLL: Duration = Duration::from_millis(20);
/// What a start reads of the file for lines that came after the state was kept.
pub const MAX_AUDIT_RECOVERY_BYTES: u64 = 2 * MAX_AUDIT_BACKLOG_BYTES as u64;
/// Lines that the verifier passes over to come to the first one that is there: at some 200 ns
/// each, half an hour.
pub const MAX_AUDIT_SKIP_LINES: u64 = 10_000_000_000;
/// What `[audit] max_file_bytes` may be at the least.
pub const MIN_AUDIT_FILE_BYTES: u64 = 64 * 1024;
/// What `[audit] max_file_bytes` may be at the most.
pub const MAX_AUDIT_FILE_BYTES: u64 = 1 << 50;
/// What `[audit] retain_files` may be at the most.
pub const MAX_AUDIT_RETAINED_FILES: u64 = 1_000_000;

// ---- Admin listener

/// Threads that serve it, one request each; who comes later waits.
pub const ADMIN_THREADS: usize = 8;
/// Stack of such a thread.
pub const ADMIN_STACK_BYTES: usize = 512 * 1024;
/// From the accepting of a connection to its end, handshake, request and answer included.
pub const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept, for instance for want of descriptors.
pub const ADMIN_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a thread that waits for a connection looks whether another process serves.
pub const ADMIN_ACCEPT_POLL: Duration = Duration::from_millis(500);
/// Between two samples of the status page's history.
pub const HISTORY_INTERVAL: Duration = Duration::from_secs(10);
/// Samples kept: an hour.
pub const HISTORY_SAMPLES: usize = 360;
/// Keys that metrics and the status page name; the others are added up as `other`.
pub const MAX_KEYS_IN_METRICS: usize = 1000;

// ---- Policies

/// An event loop's stack, on which policies are evaluated, by recursion. Only what is used of it
/// is memory.
pub const EVENT_LOOP_STACK_BYTES: usize = 8 * 1024 * 1024;

/// A policy's file.
pub const MAX_POLICY_BYTES: u64 = 1024 * 1024;
/// The file of a request for `policy test`.
pub const MAX_POLICY_REQUEST_BYTES: u64 = 1024 * 1024;
/// What an event loop remembers of a policy's decisions; some 1.5 MiB if all are taken by ARNs of
/// usual lengths.
pub const DECISION_SLOTS: usize = 4096;
/// Attributes of one call; decisions on longer ones are not remembered.
pub const MAX_REMEMBERED_ATTRIBUTES_BYTES: usize = 1024;
/// Processor time of one evaluation of a Rego module, which could go on for ever; meanwhile its
/// event loop stands still. (Cedar has no loops.)
pub const MAX_POLICY_EVALUATION_TIME: Duration = Duration::from_millis(20);
/// Steps of an evaluation between two looks at the clock.
pub const POLICY_TIME_CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();
/// How deep a policy's expressions and rules may nest: they are evaluated by recursion.
pub const MAX_POLICY_NESTING: usize = 64;
/// A policy is parsed by recursion too, which takes more. Only what is used of it is memory.
pub const POLICY_LOADER_STACK_BYTES: usize = 64 * 1024 * 1024;
/// How many of the policies that decided together are named.
pub const MAX_REPORTED_POLICIES: usize = 4;

// ---- Settings

/// The settings file: room for a hundred thousand key ids.
pub const MAX_SETTINGS_BYTES: u64 = 16 * 1024 * 1024;
/// A certificate, key or CA file.
pub const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;
/// Base64 bytes of plaintext. Setting: `[limits] max_plaintext_in_base64`.
pub const DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES: usize = 8192;
/// What `[limits] max_plaintext_in_base64` may be at the most.
pub const MAX_PLAINTEXT_IN_BASE64_BYTES: usize = 16 * 1024 * 1024;
/// Base64 bytes of AAD. Setting: `[limits] max_aad_in_base64`.
pub const DEFAULT_MAX_AAD_IN_BASE64_BYTES: usize = 16_384;
/// Upper bound of `[limits] max_aad_in_base64`.
pub const MAX_AAD_IN_BASE64_BYTES: usize = base64_bytes(MAX_AAD_BYTES);
/// Days before a certificate's expiry from which on it is warned of.
pub const CERTIFICATE_WARNING_DAYS: i64 = 30;

/// Returns how many bytes of padded base64 (RFC 4648, 4) that many bytes make.
#[must_use]
pub const fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

const _: () = {
    assert!(MAX_URI_PATH_PREFIX_BYTES + "/kms/xks/v1".len() == 128);
    assert!(MAX_HEAD_BYTES > MAX_TARGET_BYTES);
    assert!(MAX_INHERITED_SOCKETS < MAX_LISTENERS_PER_LOOP);
    assert!(GCM_IV_BYTES <= MAX_GCM_IV_BYTES);
    assert!(12 * (MAX_LOG_STRING_BYTES + 32) + 1024 < MAX_ACCESS_LOG_LINE_BYTES);
    assert!(LOG_BUFFER_BYTES + MAX_ACCESS_LOG_LINE_BYTES < MAX_LOG_BACKLOG_BYTES);
    assert!(AUDIT_LINE_OVERHEAD_BYTES + 9 * (MAX_LOG_STRING_BYTES + 3) < MAX_ACCESS_LOG_LINE_BYTES);
    assert!(AUDIT_WRITE_BYTES > MAX_ACCESS_LOG_LINE_BYTES);
    assert!(MAX_PARTIAL_TLS_BYTES < READ_SCRATCH_BYTES);
    assert!(HISTORY_SAMPLES as u64 * HISTORY_INTERVAL.as_secs() == 3600);
    assert!(SMALL_BUFFER_BYTES < MAX_HEAD_BYTES + BODY_OVERHEAD_BYTES);
};
/// The file of the keys' witnesses: some 300 bytes for each key.
pub const MAX_WITNESS_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How long another process's change of the state directory is waited for.
pub const MAX_STATE_LOCK_WAIT: Duration = Duration::from_secs(5);
/// Between two writes of the keys' witnesses.
pub const MIN_SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Wait before a write to the state directory that failed is tried again.
pub const SAVE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

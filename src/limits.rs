//! All limits, with the unit at the end of the name. Limits that the settings can change name their
//! member. Those of some subjects have their own files.

mod audit_report;
mod clock;
mod drain;
mod hsm;
mod otlp;
mod overload;
mod syslog;

use std::num::NonZeroU32;
use std::time::Duration;

pub use audit_report::*;
pub use clock::*;
pub use drain::*;
pub use hsm::*;
pub use otlp::*;
pub use overload::*;
pub use syslog::*;

// ---- AES-GCM and the XKS specification

/// Length of an authentication tag (XKS specification, Encrypt: 128 bits).
pub const GCM_TAG_BYTES: usize = 16;
/// Length of the initialization vectors that this proxy requests or generates.
pub const GCM_IV_BYTES: usize = 12;
/// Longest initialization vector that the specification allows.
pub const MAX_GCM_IV_BYTES: usize = 16;
/// Longest `ciphertextMetadata` before base64 (XKS specification, Encrypt).
pub const MAX_CIPHERTEXT_METADATA_BYTES: usize = 20;
/// Length of the tag in front of the metadata of a ciphertext that a version beyond the original
/// made.
pub const VERSION_TAG_BYTES: usize = 6;
/// Longest `ciphertext_metadata_b64`, decoded, if a key has a version beyond the original.
pub const MAX_METADATA_BESIDE_TAG_BYTES: usize = MAX_CIPHERTEXT_METADATA_BYTES - VERSION_TAG_BYTES;
/// Versions of one external key id: one a month for five years.
pub const MAX_KEY_VERSIONS: usize = 64;
/// Longest CKA_LABEL of a version.
pub const MAX_VERSION_LABEL_BYTES: usize = 128;
/// Longest AAD before base64: its length is encoded in two bytes.
pub const MAX_AAD_BYTES: usize = 65_535;
/// Plaintext length that every proxy must accept (XKS specification, Encrypt).
pub const MIN_MAX_PLAINTEXT_BYTES: usize = 4_300;
/// AAD length that every proxy must accept (XKS specification, Encrypt).
pub const MIN_MAX_AAD_BYTES: usize = 8_192;
/// Longest external key id (XKS specification, API operations).
pub const MAX_KEY_ID_BYTES: usize = 128;
/// Longest ARN (XKS specification, API operations).
pub const MAX_ARN_BYTES: usize = 2_048;
/// Longest path prefix of a store: 128 bytes with `/kms/xks/v1`.
pub const MAX_URI_PATH_PREFIX_BYTES: usize = 117;
/// Shortest non-empty path prefix.
pub const MIN_URI_PATH_PREFIX_BYTES: usize = 9;
/// Longest `errorMessage` (XKS specification, Error codes: under 512).
pub const MAX_ERROR_MESSAGE_BYTES: usize = 511;
/// Entries of `ekmFleetDetails` (XKS specification, GetHealthStatus).
pub const MAX_FLEET_DETAILS: usize = 10;
/// Greatest age of a reported health result (XKS specification, GetHealthStatus).
pub const MAX_HEALTH_AGE: Duration = Duration::from_secs(60);

// ---- HTTP

/// Longest request target; KMS limits whole URIs to 256 bytes.
pub const MAX_TARGET_BYTES: usize = 256;
/// Longest request line and header fields together.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Header fields in a request.
pub const MAX_HEADERS: usize = 64;
/// Longest chunk-size line with its extensions (RFC 9112, 7.1).
pub const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Longest trailer section of a chunked body, which is read and discarded.
pub const MAX_TRAILER_BYTES: usize = 1024;
/// Allowance in a body for everything but plaintext, ciphertext and AAD: requestMetadata with ARNs
/// of 2,048 characters, members that KMS may add, and white space.
pub const BODY_OVERHEAD_BYTES: usize = 16 * 1024;
/// Allowance in an answer for its head and for everything in its body but plaintext and ciphertext.
/// The health answer is the longest.
pub const ANSWER_OVERHEAD_BYTES: usize = 4 * 1024;
/// A connection's first buffer, large enough for nearly all requests.
pub const SMALL_BUFFER_BYTES: usize = 4 * 1024;
/// Number of buffers of each size that a loop keeps for reuse.
pub const MAX_POOLED_BUFFERS: usize = 1024;
/// Bytes in buffers of each size that a loop keeps for reuse; one buffer is always kept.
pub const MAX_POOLED_BYTES: usize = 8 * 1024 * 1024;
/// Requests on one connection. One AES-GCM key may protect some 2^24.5 TLS records (RFC 8446, 5.5).
/// This limit closes the connection cleanly long before that, and, at KMS's quota of 1,800 requests
/// a second, no sooner than after nine minutes. Setting: `[limits] max_requests_per_connection`.
pub const DEFAULT_MAX_REQUESTS_PER_CONNECTION: u64 = 1_000_000;
/// Upper bound of `[limits] max_requests_per_connection`.
pub const MAX_REQUESTS_PER_CONNECTION: u64 = u64::MAX / 2;

// ---- SigV4

/// Greatest difference between `x-amz-date` and the local clock (XKS specification, Appendix A).
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Requests signed outside of that time whose signatures one event loop verifies in a second, to
/// learn by how much the clocks differ; others are refused for their date alone. Verifying costs
/// more than that refusal, and strangers could send any number.
pub const MAX_SKEWED_VERIFICATIONS_PER_SEC: u32 = 100;
/// Number of header names in SignedHeaders.
pub const MAX_SIGNED_HEADERS: usize = 32;
/// Signing keys kept for each credential: yesterday's, today's and tomorrow's may all be valid
/// around midnight.
pub const SIGNING_KEYS_PER_CREDENTIAL: usize = 3;
/// Shortest access key id (XKS specification, Appendix A).
pub const MIN_ACCESS_KEY_ID_BYTES: usize = 20;
/// Symbolic links that are followed on the way to one file, as many as Linux follows.
pub const MAX_SYMBOLIC_LINKS: usize = 40;
/// Largest part of a pid file that is read.
pub const MAX_PID_FILE_BYTES: u64 = 64;
/// Length to which a value is cut in a message about the settings.
pub const MAX_SHOWN_CHARS: usize = 64;
/// Characters of an error about a peer that are shown: it may quote the peer, such as all names in its
/// certificate.
pub const MAX_REASON_CHARS: usize = 300;
/// Longest access key id (XKS specification, Appendix A).
pub const MAX_ACCESS_KEY_ID_BYTES: usize = 30;
/// Shortest secret access key (XKS specification, XKS proxy configuration).
pub const MIN_SECRET_ACCESS_KEY_BYTES: usize = 43;
/// Longest secret access key (XKS specification, XKS proxy configuration).
pub const MAX_SECRET_ACCESS_KEY_BYTES: usize = 64;
/// Credentials of one store that are valid at the same time: a rotation needs two (XKS
/// specification, SigV4 credentials rotation). Every request is compared with all of them.
pub const MAX_CREDENTIALS_PER_STORE: usize = 8;
/// Longest `name` of a credential.
pub const MAX_CREDENTIAL_NAME_BYTES: usize = 64;

// ---- Time

/// Time from a request's first byte to its answer. KMS hangs up after 250 ms, some of which the
/// network takes. Setting: `[limits] request_deadline_milli`.
pub const DEFAULT_REQUEST_DEADLINE_MILLI: u64 = 180;
/// Time from a request's first byte to the end of its head. Setting: `[limits] head_timeout_milli`.
pub const DEFAULT_HEAD_TIMEOUT_MILLI: u64 = 10_000;
/// Time from the end of the head to the end of the body. Setting: `[limits] body_timeout_milli`.
pub const DEFAULT_BODY_TIMEOUT_MILLI: u64 = 10_000;
/// Time between two requests on one connection. Setting: `[limits] idle_timeout_milli`.
pub const DEFAULT_IDLE_TIMEOUT_MILLI: u64 = 75_000;
/// Time for the peer to read an answer. Setting: `[limits] write_timeout_milli`.
pub const DEFAULT_WRITE_TIMEOUT_MILLI: u64 = 10_000;
/// Time after which KMS abandons a call (XKS specification, Encrypt).
pub const KMS_TIMEOUT_MILLI: u64 = 250;
/// Upper bound of each time in the settings: a day.
pub const MAX_TIMEOUT_MILLI: u64 = 24 * 60 * 60 * 1000;
/// Time for a TLS handshake. Setting: `[limits] handshake_timeout_milli`.
pub const DEFAULT_HANDSHAKE_TIMEOUT_MILLI: u64 = 10_000;
/// Time during which further input is read and discarded after an answer that ends a connection, so
/// that the peer can still read the answer (RFC 9112, 9.6).
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes of input that are read and discarded in that time.
pub const MAX_LINGER_BYTES: usize = 256 * 1024;

// ---- Service manager and upgrades

/// Time to send a message to systemd.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a new process to report that it serves; after it, the new process is stopped and the
/// old one continues.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);
/// Further time for the new process to exit by itself.
pub const UPGRADE_ABORT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for the old process to confirm that it accepts no more connections.
pub const UPGRADE_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Listening sockets that a process hands over or inherits. The kernel passes 253 in one message
/// (unix(7), SCM_RIGHTS).
pub const MAX_INHERITED_SOCKETS: usize = 128;

// ---- Event loops

/// Port of `/ping` without `[server] port_http_ping`, as in the reference proxy.
pub const DEFAULT_PING_PORT: u16 = 80;
/// Longest TCP keepalive time of Linux: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`
/// (include/net/tcp.h).
pub const MAX_TCP_KEEPALIVE_SECS: u64 = 32_767;
/// Most TCP keepalive probes of Linux: `MAX_TCP_KEEPCNT` (include/net/tcp.h).
pub const MAX_TCP_KEEPALIVE_PROBES: u64 = 127;
/// Connections over all event loops. Setting: `[limits] max_connections`.
pub const DEFAULT_MAX_CONNECTIONS: usize = 20_000;
/// Upper bound of `[limits] max_connections`.
pub const MAX_CONNECTIONS: usize = 1_000_000;
/// Event loops. Setting: `[server] event_loops`.
pub const MAX_EVENT_LOOPS: usize = 64;
/// Connections to the ping port. They do not count towards `max_connections`: a flood on the API's
/// port must not make a load balancer think that the process is dead.
pub const MAX_PING_CONNECTIONS: usize = 256;
/// File descriptors kept for everything but connections: the HSM, logs, listeners, and files that a
/// module opens.
pub const RESERVED_DESCRIPTORS: u64 = 1024;
/// Listeners of one loop: far more than it opens itself and inherits from a process with more
/// loops.
pub const MAX_LISTENERS_PER_LOOP: usize = 256;
/// Connections accepted from each listener in one turn of a loop.
pub const MAX_ACCEPTS_PER_TURN: usize = 16;
/// Time for which a busier loop leaves a shared listening socket to the others.
pub const ACCEPT_YIELD: Duration = Duration::from_millis(1);
/// Connections evicted at once.
pub const MAX_EVICTIONS: usize = 64;
/// Candidates per evicted connection: scanning many is expensive, so a larger scan evicts more.
pub const CONNECTIONS_PER_EVICTION: usize = 256;
/// Memory that all connections together may hold: receive buffers, unread answers, incomplete TLS
/// records. Setting: `[limits] max_buffered_bytes`.
pub const DEFAULT_MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;
/// Part of that memory, one in so many, that connections may hold which have not sent an authentic
/// request: strangers. A request of KMS takes a few kilobytes and is authentic when it is whole.
pub const UNPROVEN_BUFFER_PARTS: usize = 4;
/// Memory of a connection besides that: its TLS session, and its socket in the kernel.
pub const MEMORY_BYTES_PER_CONNECTION: u64 = 16 * 1024;
/// Memory kept, out of what the process's control group may use, for everything but connections and
/// what `[[syslog]]` and `[otlp]` may hold: the HSM's module, policies, logs.
pub const RESERVED_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// Parts of the rest: one is the default of `max_buffered_bytes`, one that of `max_connections`.
pub const MEMORY_PARTS: u64 = 4;
/// Lower bound of `[limits] max_buffered_bytes`.
pub const MIN_MAX_BUFFERED_BYTES: usize = 4 * 1024 * 1024;
/// Upper bound of `[limits] max_buffered_bytes`.
pub const MAX_MAX_BUFFERED_BYTES: usize = 1 << 40;
/// TLS handshakes begun in a second, over all loops. With an ECDSA P-256 certificate and X25519, a
/// connection takes some 100 us of CPU time from accept to close, so this many take a fifth of a
/// core. KMS's quota of 1,800 requests a second would fit even with a connection for each request.
/// Setting: `[limits] max_tls_handshakes_per_sec`.
pub const DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC: u32 = 2_000;
/// Upper bound of each rate in the settings.
pub const MAX_RATE_PER_SEC: u32 = 1_000_000;
/// TLS handshakes for which a loop does the expensive part, key exchange and signature, in one
/// turn: a request on an open connection waits for no more than that.
pub const MAX_HANDSHAKES_PER_TURN: usize = 1;
/// Longest output of a server that has not yet agreed on keys: an alert (7 bytes), or a
/// HelloRetryRequest with its change_cipher_spec (99 bytes; RFC 8446, 4.1.4). The server's first
/// flight is longer: some 240 bytes when a session is resumed, and longer than its certificate
/// otherwise.
pub const MAX_UNKEYED_FLIGHT_BYTES: usize = 128;
/// One in this many waiting handshakes that are served is that of the peer that has waited longest.
pub const HANDSHAKES_PER_OLDEST: u32 = 4;
/// Entries for closed connections that a list of waiting connections may hold, beyond two entries
/// for each open connection.
pub const MAX_STALE_ENTRIES: usize = 64;
/// Time between two reminders that PROXY protocol headers may be missing.
pub const PROXY_PROTOCOL_REMINDER_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Longest PROXY protocol header: the addresses take 36 bytes, TLVs the rest.
pub const MAX_PROXY_HEADER_BYTES: usize = 4096;
/// Networks in `[server] proxy_protocol_from`.
pub const MAX_PROXY_NETWORKS: usize = 64;
/// Requests of one connection that are answered in one turn of a loop, so that a peer that
/// pipelines requests does not delay the others.
pub const MAX_ANSWERS_PER_TURN: u32 = 1;
/// Expired deadlines of connections that are handled in one turn of a loop.
pub const MAX_EXPIRIES_PER_TURN: usize = 64;
/// Time after which a loop leaves the remaining work to its next turn, so that HSM answers and new
/// events from the kernel wait no longer, however much there is to do.
pub const MAX_TURN: Duration = Duration::from_micros(350);
/// Bytes read from one connection in one turn of a loop.
pub const MAX_READ_PER_TURN_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Scratch buffer of a loop for received bytes.
pub const READ_SCRATCH_BYTES: usize = 64 * 1024;
/// Length of the kernel's queue of connections that are not accepted yet. The kernel hands them out
/// oldest first, so a longer queue would have a loop that cannot keep up accept none but those whose
/// clients have given up.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Unread output that the kernel buffers for a peer (it allocates twice as much: socket(7),
/// SO_SNDBUF). Its default grows to megabytes for each connection.
pub const SOCKET_SEND_BYTES: usize = 32 * 1024;
/// Input that the kernel buffers for a connection (SO_RCVBUF, doubled in the same way).
pub const SOCKET_RECEIVE_BYTES: usize = 128 * 1024;
/// Readiness events fetched from the kernel at once. The kernel hands them out oldest first: those of
/// customers are behind those of a flood until they have been fetched.
pub const MAX_EVENTS_PER_POLL: usize = 1024;
/// Payload of one TLS record (RFC 8446, 5.1).
pub const MAX_RECORD_PLAINTEXT_BYTES: usize = 16 * 1024;
/// TLS record with framing and expansion (RFC 5246, 6.2.3).
pub const MAX_RECORD_BYTES: usize = 5 + MAX_RECORD_PLAINTEXT_BYTES + 2048;
/// Received TLS bytes that do not yet form a complete record or handshake message: a client's
/// certificate chain can take several records.
pub const MAX_PARTIAL_TLS_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Log lines of each kind about refused peers that one loop writes in a second; further ones are
/// counted.
pub const MAX_REFUSALS_LOGGED_PER_SEC: u32 = 10;
/// Time between two log lines about pauses in accepting.
pub const ACCEPT_PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Jobs that a loop collects before it submits them, so that the first does not wait for the last
/// of a busy turn.
pub const MAX_JOBS_PER_SUBMIT: usize = 16;
/// Pause in accepting when the limit of connections is reached or the system is out of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// TLS sessions that can be resumed by id (TLS 1.2); TLS 1.3 uses tickets.
pub const TLS_SESSION_CACHE_SIZE: usize = 4096;

// ---- Files of the settings

/// Time after which the log says that nobody writes to a FIFO that is to be read.
pub const FIFO_WARNING_WAIT: Duration = Duration::from_secs(1);
/// Time for somebody to write to it; a program behind it may have to ask a service for a secret.
pub const MAX_FIFO_WAIT: Duration = Duration::from_secs(30);

// ---- Secrets

/// Largest file with a secret: a PIN or a secret access key.
pub const MAX_SECRET_FILE_BYTES: u64 = 4096;

// ---- Command line

/// Keys and labels that one line of the start-up log names; further ones are counted.
pub const MAX_LABELS_PER_LINE: usize = 20;
/// Time for each step of `check --hsm`, where no caller is waiting as KMS would.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for all event loops to apply a change of the settings, which they do in their next turn.
pub const MAX_CHANGE_WAIT: Duration = Duration::from_secs(5);
/// Time for the sessions of tokens removed from the settings to finish and close.
pub const HSM_RETIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for `xks-proxy reload` to learn the outcome, which includes listing keys and connecting to
/// tokens.
pub const RELOAD_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest `/status.json` of the admin listener that `xks-proxy reload` accepts.
pub const MAX_STATUS_BYTES: usize = 64 * 1024 * 1024;
/// Time for modules to be finalised if closing the sessions has used up [`HSM_STOP_TIMEOUT`].
pub const MIN_CLOSE_WAIT: Duration = Duration::from_millis(100);
/// Wait before another attempt to start a health checker's thread if the system has refused it.
pub const CHECKER_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time for each step of a request to the admin listener; a person waits at a terminal.
pub const ADMIN_CLIENT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for each step of `xks-proxy ping`.
pub const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer that `xks-proxy ping` reads.
pub const MAX_PING_ANSWER_BYTES: usize = 4096;
/// Largest answer that the client of the demo and the probe accepts.
pub const MAX_CLIENT_ANSWER_BYTES: usize = 1024 * 1024;

// ---- Probe of a proxy

/// Time to connect, including TLS, and then for each call: ten times as long as KMS waits, so that
/// a slow answer differs from a missing one.
pub const PROBE_CALL_TIMEOUT: Duration = Duration::from_millis(10 * KMS_TIMEOUT_MILLI);
/// Round trip between KMS and the proxy (XKS specification, GetKeyMetadata: the ping latency
/// between the data centers should be 35 ms or less).
pub const MAX_NETWORK_ROUND_TRIP: Duration = Duration::from_millis(35);
/// Connections opened one after another to measure the network and whole calls.
pub const PROBE_FRESH_CONNECTIONS: u32 = 5;
/// Upper bound of `--count`.
pub const MAX_PROBE_COUNT: i64 = 100_000;
/// Upper bound of `--connections`.
pub const MAX_PROBE_CONNECTIONS: i64 = 64;
/// Upper bound of `--rate`: KMS's default quota of a key store.
pub const MAX_PROBE_RATE_PER_SEC: i64 = 1_800;
/// Upper bound of `--interval`: a day.
pub const MAX_PROBE_INTERVAL_SECS: i64 = 86_400;
/// Addresses of a proxy that are tried.
pub const MAX_PROBE_ADDRESSES: usize = 16;
/// Difference between a proxy's clock and the local one that is worth reporting: a fifth of what
/// the signature check allows.
pub const PROBE_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Bytes of a proxy's answer that are shown.
pub const MAX_PROBE_EXCERPT_BYTES: usize = 200;
/// Maximum number of ciphertexts that the probe keeps in a file for later probes.
pub const MAX_PROBE_CIPHERTEXTS: usize = 100;
/// Largest such file; a ciphertext takes about 400 bytes.
pub const MAX_PROBE_CIPHERTEXTS_FILE_BYTES: u64 = 1024 * MAX_PROBE_CIPHERTEXTS as u64;

// ---- Log

/// Bytes of log lines that wait to be written; beyond this, lines are dropped and counted.
pub const MAX_LOG_BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// Length of one string in a log line after escaping; longer ones are truncated. The longest ARN
/// fits.
pub const MAX_LOG_STRING_BYTES: usize = 2_048;
/// Length of one line of the access log: a dozen strings and as many numbers, with their names.
pub const MAX_ACCESS_LOG_LINE_BYTES: usize = 32 * 1024;
/// Bytes of lines that an event loop collects within a turn before it hands them over.
pub const LOG_BUFFER_BYTES: usize = 64 * 1024;
/// Lines about unauthenticated requests that one event loop writes in a second; further ones are
/// counted.
pub const MAX_UNAUTHENTICATED_LINES_PER_SEC: u32 = 10;
/// Time between two writes to a log, so that an event loop under load does not have to wake the
/// writer each time.
pub const LOG_WRITE_INTERVAL: Duration = Duration::from_millis(10);

// ---- Audit log

/// Bytes of lines that wait to be written, plus space reserved for calls in progress: enough for
/// some 7,000 calls of the usual size at once.
pub const MAX_AUDIT_BACKLOG_BYTES: usize = 32 * 1024 * 1024;
/// Additional bytes for events: start, stop, changes of the settings.
pub const MAX_AUDIT_EVENT_BYTES: usize = 64 * 1024;
/// Length of a call's line without the strings that the peer sent: names and numbers, the token's
/// label, and the reason, which may name policies and so be as long as any string.
pub const AUDIT_LINE_OVERHEAD_BYTES: usize = 3 * 1024;
/// Bytes of lines that are chained before they are written.
pub const AUDIT_WRITE_BYTES: usize = 256 * 1024;
/// Time between two attempts to write after a failed write.
pub const AUDIT_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Interval at which the writer checks for due work while no lines arrive.
pub const AUDIT_IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at whether the log's files still have their names.
pub const AUDIT_FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a file that was moved away, and whose place cannot be taken, is looked at again.
pub const AUDIT_FILE_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two syncs to the disk with `[audit] sync = "interval"`.
pub const AUDIT_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two lines that report lost or omitted lines.
pub const AUDIT_LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two checkpoints that the HSM seals.
pub const AUDIT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(600);
/// Wait before the HSM is asked again for a checkpoint that it did not seal.
pub const AUDIT_CHECKPOINT_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Age of lines without a checkpoint that is still in order: the interval, attempts, and an idle
/// writer.
pub const MAX_UNSEALED_SECS: u64 = AUDIT_CHECKPOINT_INTERVAL.as_secs()
    + AUDIT_CHECKPOINT_RETRY_INTERVAL.as_secs()
    + MAX_AUDIT_CHECKPOINT_WAIT.as_secs()
    + AUDIT_IDLE_INTERVAL.as_secs();
/// Time for which a caller goes on waiting for an answer after its request has timed out.
pub const HSM_CALLER_GRACE: Duration = Duration::from_secs(1);
/// Time for the HSM to seal a checkpoint, during which lines accumulate.
pub const MAX_AUDIT_CHECKPOINT_WAIT: Duration = Duration::from_secs(1);
/// Time for which another process may hold the log's lock, except for the one that this process
/// replaces. After it, writing counts as failed.
pub const MAX_AUDIT_TAKEOVER_WAIT: Duration = Duration::from_secs(60);
/// Interval at which a new process checks whether the log has been released, and an old one whether
/// it is asked for the log.
pub const AUDIT_TAKEOVER_POLL: Duration = Duration::from_millis(20);
/// Bytes of lines that a process sends in one message to the process that took over its log.
pub const AUDIT_HANDOVER_MESSAGE_BYTES: usize = 64 * 1024;
/// Time for which a process that has handed its log over waits for older processes that send their
/// lines through it: the longest that they can drain.
pub const MAX_AUDIT_RELAY_WAIT: Duration = Duration::from_millis(2 * MAX_TIMEOUT_MILLI + 60_000);
/// Bytes at the end of the file that are searched at start-up for lines written after the state was
/// saved.
pub const MAX_AUDIT_RECOVERY_BYTES: u64 = 2 * MAX_AUDIT_BACKLOG_BYTES as u64;
/// Lines that the verifier skips to reach the first one present: half an hour at some 200 ns per
/// line.
pub const MAX_AUDIT_SKIP_LINES: u64 = 10_000_000_000;
/// Lines at the beginning of a file in which the verifier looks for one in the log's form, to find the
/// file's place in the log even if its first line was changed.
pub const MAX_AUDIT_SEARCHED_LINES: usize = 100;
/// Time for which the verifier waits for the end of a log's last line, which the proxy may be writing.
pub const MAX_AUDIT_UNFINISHED_LINE_WAIT: Duration = Duration::from_secs(1);
/// Interval between looks at such a line.
pub const AUDIT_UNFINISHED_LINE_POLL: Duration = Duration::from_millis(10);
/// Lower bound of `[audit] max_file_bytes`.
pub const MIN_AUDIT_FILE_BYTES: u64 = 64 * 1024;
/// Upper bound of `[audit] max_file_bytes`.
pub const MAX_AUDIT_FILE_BYTES: u64 = 1 << 50;
/// Upper bound of `[audit] retain_files`.
pub const MAX_AUDIT_RETAINED_FILES: u64 = 1_000_000;

// ---- Admin listener

/// Connections to the admin listener. Beyond this, the oldest one without a complete request makes
/// room.
pub const MAX_ADMIN_CONNECTIONS: usize = 64;
/// Answers that are held for peers which have not taken them. Beyond this, the oldest one is dropped
/// with its connection.
pub const MAX_ADMIN_ANSWERS: usize = 8;
/// Time from accepting a connection to the first byte from the peer.
pub const ADMIN_FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(500);
/// Stack of the admin listener's threads.
pub const ADMIN_STACK_BYTES: usize = 512 * 1024;
/// Time from accepting a connection to its end, including handshake, request and answer.
pub const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, for instance for lack of descriptors.
pub const ADMIN_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Interval at which the listener checks whether another process serves.
pub const ADMIN_ACCEPT_POLL: Duration = Duration::from_millis(500);
/// Time between two samples of the status page's history.
pub const HISTORY_INTERVAL: Duration = Duration::from_secs(10);
/// Samples kept: an hour.
pub const HISTORY_SAMPLES: usize = 360;
/// Keys that metrics and the status page name; further ones are summed up as `other`.
pub const MAX_KEYS_IN_METRICS: usize = 1000;

// ---- Policies

/// Stack of an event loop, on which policies are evaluated recursively. Only the part in use takes
/// memory.
pub const EVENT_LOOP_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Largest policy file.
pub const MAX_POLICY_BYTES: u64 = 1024 * 1024;
/// Largest request file for `policy test`.
pub const MAX_POLICY_REQUEST_BYTES: u64 = 1024 * 1024;
/// Decisions of a policy that an event loop remembers: some 1.5 MiB if all slots hold ARNs of the
/// usual length.
pub const DECISION_SLOTS: usize = 4096;
/// Length of a call's attributes up to which its decision is remembered.
pub const MAX_REMEMBERED_ATTRIBUTES_BYTES: usize = 1024;
/// CPU time of one evaluation of a Rego module, which could otherwise run forever and block its
/// event loop. (Cedar has no loops.)
pub const MAX_POLICY_EVALUATION_TIME: Duration = Duration::from_millis(20);
/// Evaluation steps between two checks of the clock.
pub const POLICY_TIME_CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();
/// Nesting depth of a policy's expressions and rules, which are evaluated recursively.
pub const MAX_POLICY_NESTING: usize = 64;
/// Stack on which policies are parsed, which recurses deeper than evaluation. Only the part in use
/// takes memory.
pub const POLICY_LOADER_STACK_BYTES: usize = 64 * 1024 * 1024;
/// Deciding policies that are named in a reason.
pub const MAX_REPORTED_POLICIES: usize = 4;

// ---- State directory

/// Largest file of key witnesses: some 300 bytes for each key.
pub const MAX_WITNESS_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Largest file of listed key versions: some 150 bytes for each version.
pub const MAX_VERSIONS_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Wait for another process to finish its change of the state directory.
pub const MAX_STATE_LOCK_WAIT: Duration = Duration::from_secs(5);
/// Time between two writes of the key witnesses.
pub const MIN_SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Largest file of the keys' uses: some 200 bytes for each key, and twice that in a process's file.
pub const MAX_USAGE_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Processes whose files of uses may be in a state directory.
pub const MAX_USAGE_FILES: usize = 10_000;
/// Time between two writes of the keys' uses while keys are in use.
pub const USAGE_SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two writes of the keys' uses while no key is in use.
pub const USAGE_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Time between two looks at what other processes have written about the keys' uses.
pub const USAGE_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Encryptions that a process reserves for each key: a crash overstates a count by so much, one
/// 16,384th of the limit.
pub const MIN_USAGE_RESERVE: u64 = 1 << 18;
/// Time for which a reservation lasts at the current rate.
pub const USAGE_RESERVE_TIME: Duration = Duration::from_secs(300);
/// Rate of encryptions with a key, in a second, that is thought possible even if it was never
/// observed: above the default quota of AWS KMS, 1,800/s.
pub const MIN_USAGE_CEILING_PER_SEC: u64 = 2000;
/// Multiple of the highest observed rate that is thought possible.
pub const USAGE_CEILING_FACTOR: u64 = 4;
/// Time by which the clock may have been set back between two processes.
pub const MAX_USAGE_CLOCK_STEP: Duration = Duration::from_secs(10);
/// Time between two points of a count's history, from which rates are computed.
pub const USAGE_HISTORY_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Points of a count's history that are kept.
pub const MAX_USAGE_HISTORY: usize = 32;
/// Span of the history over which the rate is computed.
pub const USAGE_RATE_SPAN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Wait of a reload for the record of new keys.
pub const MAX_USAGE_RECORD_WAIT: Duration = Duration::from_secs(3);
/// Time that the end of a process waits for the last write of the keys' uses.
pub const MAX_USAGE_CLOSE: Duration = Duration::from_secs(10);
/// Encryptions under one key with random IVs of 96 bits (NIST SP 800-38D, 8.3).
pub const RANDOM_IV_LIMIT: u64 = 1 << 32;
/// Encryptions under one key with deterministic IVs, whose invocation field has 64 bits (NIST SP
/// 800-38D, 8.2.1).
pub const DETERMINISTIC_IV_LIMIT: u64 = u64::MAX;
/// Wait before a failed write to the state directory is repeated.
pub const SAVE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

// ---- Settings

/// Largest settings file: enough for a hundred thousand key ids.
pub const MAX_SETTINGS_BYTES: u64 = 16 * 1024 * 1024;
/// Largest file with certificates, a private key or CAs.
pub const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;
/// Base64 bytes of plaintext. Setting: `[limits] max_plaintext_in_base64`.
pub const DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES: usize = 8192;
/// Upper bound of `[limits] max_plaintext_in_base64`.
pub const MAX_PLAINTEXT_IN_BASE64_BYTES: usize = 16 * 1024 * 1024;
/// Base64 bytes of AAD. Setting: `[limits] max_aad_in_base64`.
pub const DEFAULT_MAX_AAD_IN_BASE64_BYTES: usize = 16_384;
/// Upper bound of `[limits] max_aad_in_base64`.
pub const MAX_AAD_IN_BASE64_BYTES: usize = base64_bytes(MAX_AAD_BYTES);
/// Days before a certificate's expiry during which a warning is issued.
pub const CERTIFICATE_WARNING_DAYS: i64 = 30;

/// Returns the length of `bytes` bytes in padded base64 (RFC 4648, 4).
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
    assert!(AUDIT_HANDOVER_MESSAGE_BYTES > MAX_ACCESS_LOG_LINE_BYTES);
    assert!(MAX_PARTIAL_TLS_BYTES < READ_SCRATCH_BYTES);
    assert!(HISTORY_SAMPLES as u64 * HISTORY_INTERVAL.as_secs() == 3600);
    assert!(SMALL_BUFFER_BYTES < MAX_HEAD_BYTES + BODY_OVERHEAD_BYTES);
};

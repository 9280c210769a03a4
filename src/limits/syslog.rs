//! Limits of the forwarding to syslog collectors.

use std::time::Duration;

/// Bytes of lines of one log that wait for one collector; beyond this, lines are dropped and counted.
/// As many may be in the hands of the thread that sends them.
pub const MAX_SYSLOG_BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// The same if the memory of the process's control group is limited, and the forwarders' part of it is
/// little. The longest line fits in.
pub const MIN_SYSLOG_BACKLOG_BYTES: usize = 256 * 1024;
/// Parts of that memory, of which all forwarders together may hold one.
pub const SYSLOG_MEMORY_PARTS: u64 = 4;
/// Length of one message, header included; longer ones are truncated. rsyslog takes no longer ones
/// unless it is told to (`maxMessageSize`).
pub const MAX_SYSLOG_MESSAGE_BYTES: usize = 8_192;
/// The largest `sequenceId`, after which 1 follows (RFC 5424, 7.3.1).
pub const MAX_SYSLOG_SEQUENCE: u64 = 2_147_483_647;
/// Length of a tag: that of an APP-NAME (RFC 5424, 6), which may have a suffix.
pub const MAX_SYSLOG_TAG_BYTES: usize = 42;
/// Collectors in a settings file: each may have two threads.
pub const MAX_SYSLOG_SERVERS: usize = 8;
/// Bytes of messages that are sent together: a TLS record.
pub const SYSLOG_WRITE_BYTES: usize = 16 * 1024;
/// Reads of what a collector says, which has nothing to say, each time its connection is checked: one
/// that never ends must not keep the thread from sending.
pub const MAX_SYSLOG_READS: u32 = 16;
/// Time for a connection to each of a collector's addresses.
pub const SYSLOG_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a handshake.
pub const SYSLOG_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a collector to take what is sent together. After it, the connection is given up.
pub const SYSLOG_WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that the kernel takes for a TCP connection (it reserves twice as much). They count as sent:
/// each connection to a collector that hangs may swallow so many, so they are few.
pub const SYSLOG_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Time after which a TCP connection ends if the collector's machine acknowledges nothing.
pub const SYSLOG_UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait before a collector is tried again.
pub const MAX_SYSLOG_BACKOFF: Duration = Duration::from_secs(10);
/// Interval at which an idle connection is checked.
pub const SYSLOG_IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Age below which a connection that the collector ends has failed: a load balancer without a
/// collector behind it accepts connections and closes them. Longer than the interval at which an
/// idle one is checked.
pub const SYSLOG_EARLY_END: Duration = Duration::from_secs(3);
/// Time for which the next connection after such an end must last before lines are sent on it, which
/// would be lost without an error.
pub const SYSLOG_TRIAL: Duration = Duration::from_secs(1);
/// Time between two lines of the log about the same collector's failures and lost lines.
pub const SYSLOG_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Time for the last lines to be sent when the process stops.
pub const SYSLOG_STOP_TIMEOUT: Duration = Duration::from_secs(2);

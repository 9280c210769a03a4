//! How an event loop divides its time, and when and how it refuses work, while it gets more than it has
//! CPU time for.

use std::time::Duration;

/// Weight of requests on connections from which an authentic request has come, and of load balancers'
/// checks on the port of `/ping`. While more of them arrive than can be answered, they get 90 % of a
/// loop's time even if there is too much of all the other work.
pub const WEIGHT_OF_PROVEN: u64 = 90;
/// Weight of requests on other connections: those of strangers, and the first of each connection.
pub const WEIGHT_OF_UNPROVEN: u64 = 3;
/// Weight of what a connection has left to do after its share of a turn, such as pipelined requests.
pub const WEIGHT_OF_AGAIN: u64 = 1;
/// Weight of refusals of requests that have waited too long.
pub const WEIGHT_OF_LATE: u64 = 2;
/// Weight of ending connections that their peers closed while a request waited.
pub const WEIGHT_OF_GIVEN_UP: u64 = 1;
/// Weight of the expensive part of TLS handshakes. While open connections need all of the CPU, they
/// are served rather than new ones.
pub const WEIGHT_OF_HANDSHAKES: u64 = 2;
/// Weight of accepting connections.
pub const WEIGHT_OF_ACCEPTS: u64 = 1;
/// The longest time that is charged to a kind of work for one connection: longer than any signature
/// of a handshake takes.
pub const MAX_CHARGE: Duration = Duration::from_millis(10);
/// Time during which every request must have waited too long in an event loop before some are
/// rejected. A machine that paused briefly catches up sooner.
pub const CONGESTION_BEGINS_AFTER: Duration = Duration::from_millis(50);
/// Time without a request that waited too long, after which rejecting ends. Until then, requests
/// that have waited too long are rejected at once; otherwise the queue would soon be as long as
/// before.
pub const CONGESTION_ENDS_AFTER: Duration = Duration::from_secs(2);
/// Time that a request may wait for a congested event loop before it is refused. Such a loop serves
/// the newest requests first, so one that has waited this long is unlikely to be served in time.
pub const MAX_CONGESTED_WAIT: Duration = Duration::from_millis(20);
/// One in this many requests that have waited too long and are looked at is that of the peer that has
/// waited longest, so that a patient one, such as a health check, is answered eventually.
pub const LATE_PER_OLDEST: u32 = 2;
/// Time for which a congested event loop sleeps in a turn instead of handing more work to tokens that
/// compute in this process and lack CPU time for what they have.
pub const CONGESTED_SLEEP: Duration = Duration::from_micros(500);

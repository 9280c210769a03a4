//! Times as OTLP writes them.

use std::time::Duration;

use crate::observe::timestamp::since_1970;

/// Returns a time since 1970 in nanoseconds.
pub(super) fn nanos(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn now_unix_nano() -> u64 {
    nanos(since_1970())
}

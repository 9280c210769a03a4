//! How many lines a second requests that nobody has authenticated may cause.

use crate::limits::MAX_UNAUTHENTICATED_LINES_PER_SECOND;

/// The lines of requests that were not authenticated, which anybody can cause, in this second.
#[derive(Default)]
pub(super) struct Unauthenticated {
    unix_secs: u64,
    admitted: u32,
    pub(super) left_out: u32,
}

impl Unauthenticated {
    /// Whether there may be another line in this second; if not, it is counted.
    pub(super) fn admit(&mut self, unix_secs: u64) -> bool {
        if self.unix_secs != unix_secs {
            self.unix_secs = unix_secs;
            self.admitted = 0;
        }
        let is_admitted = self.admitted < MAX_UNAUTHENTICATED_LINES_PER_SECOND;
        if is_admitted {
            self.admitted += 1;
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        is_admitted
    }

    /// What was left out in a second that is over.
    pub(super) fn take_left_out(&mut self, unix_secs: u64) -> u32 {
        if self.unix_secs == unix_secs { 0 } else { std::mem::take(&mut self.left_out) }
    }
}

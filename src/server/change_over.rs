//! The time during which PROXY protocol headers may be missing
//! (`[server] proxy_protocol = "accept"`).

use std::time::Instant;

use crate::limits::PROXY_PROTOCOL_REMINDER_INTERVAL;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A change-over, of which the operator is reminded until it ends. (The settings' own warning marks
/// its beginning.)
#[derive(Debug)]
pub(super) struct ChangeOver {
    begun: Instant,
    /// Number of reminders that were due so far.
    reminders: AtomicU64,
}

impl ChangeOver {
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: now, reminders: AtomicU64::new(0) }
    }

    /// Handles a connection that benefits from it: logs a reminder if one is due. Takes no lock, since
    /// all event loops share it.
    pub(super) fn note(&self, now: Instant) {
        if let Some(days) = self.days_to_report(now) {
            tracing::warn!(
                days,
                "[server] proxy_protocol is still \"accept\", which is for a change-over: set it to \
                 \"require\" once the load balancer sends headers"
            );
        }
    }

    /// Returns, once for each interval, the number of them that have passed.
    fn days_to_report(&self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.begun);
        let due = passed.as_secs() / PROXY_PROTOCOL_REMINDER_INTERVAL.as_secs();
        (self.reminders.fetch_max(due, Ordering::Relaxed) < due).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One reminder a day, however many connections there are.
    #[test]
    fn daily_reminders() {
        let begun = Instant::now();
        let change_over = ChangeOver::new(begun);
        let hours = |hours: u64| begun + Duration::from_secs(hours * 3600);
        let reported: Vec<_> =
            (0..=100).filter_map(|hour| change_over.days_to_report(hours(hour))).collect();
        assert_eq!(reported, [1, 2, 3, 4]);
        assert_eq!(change_over.days_to_report(hours(100)), None);
        assert_eq!(change_over.days_to_report(begun), None);
    }
}

//! One thread's call into an HSM, as the monitor sees it.

use std::time::Instant;

use parking_lot::Mutex;

use super::roster::Place;

/// What a thread does at present.
#[derive(Default)]
pub struct Watch {
    call: Mutex<Call>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    Running {
        since: Instant,
        /// Later than this it hangs.
        until: Instant,
        /// Counts among its token's running workers.
        is_running: bool,
        has_lent: bool,
    },
    WrittenOff,
}

/// How a call ended, for the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is well.
    InTime,
    /// It took long, and its place was lent.
    Lent,
    /// Nobody waits for it any more: the result is wiped and the thread ends.
    WrittenOff,
}

/// What the monitor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No call.
    Idle,
    /// A call, and it may go on.
    Busy,
    /// A call that from now on counts as slow.
    NowLent,
    /// A call that from now on counts as hung, and what its thread counted as.
    NowWrittenOff(Place),
}

impl Watch {
    /// A call begins. `is_running`: the thread is one of the token's running workers.
    pub fn begin(&self, since: Instant, until: Instant, is_running: bool) {
        *self.call.lock() = Call::Running { since, until, is_running, has_lent: false };
    }

    /// It returned.
    pub fn end(&self) -> End {
        let mut call = self.call.lock();
        match *call {
            Call::WrittenOff => End::WrittenOff,
            Call::Running { has_lent: true, .. } => {
                *call = Call::None;
                End::Lent
            }
            Call::Running { .. } | Call::None => {
                *call = Call::None;
                End::InTime
            }
        }
    }

    /// The monitor's look. A call slower than `stall` lends its place.
    pub fn look(&self, now: Instant, stall: std::time::Duration) -> Found {
        let mut call = self.call.lock();
        match *call {
            Call::None => Found::Idle,
            Call::WrittenOff => Found::Busy,
            Call::Running { until, is_running, has_lent, .. } if now >= until => {
                *call = Call::WrittenOff;
                Found::NowWrittenOff(match (is_running, has_lent) {
                    (false, _) => Place::Elsewhere,
                    (true, false) => Place::Running,
                    (true, true) => Place::Lent,
                })
            }
            Call::Running { since, is_running: true, has_lent: false, .. }
                if now.saturating_duration_since(since) > stall =>
            {
                if let Call::Running { has_lent, .. } = &mut *call {
                    *has_lent = true;
                }
                Found::NowLent
            }
            Call::Running { .. } => Found::Busy,
        }
    }

    /// Since when a call has been running.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        match *self.call.lock() {
            Call::Running { since, .. } => Some(since),
            Call::None | Call::WrittenOff => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A call is in time, then slow, then hung, and its thread hears of the last state.
    #[test]
    fn stages_of_a_call() {
        let (watch, start) = (Watch::default(), Instant::now());
        let at = |milli| start + Duration::from_millis(milli);
        let stall = Duration::from_millis(5);
        assert_eq!(watch.look(start, stall), Found::Idle);
        watch.begin(start, at(100), true);
        assert_eq!(watch.look(at(5), stall), Found::Busy);
        assert_eq!(watch.look(at(6), stall), Found::NowLent);
        assert_eq!(watch.look(at(99), stall), Found::Busy);
        assert_eq!(watch.end(), End::Lent);
        watch.begin(start, at(100), true);
        assert_eq!(watch.look(at(50), stall), Found::NowLent);
        assert_eq!(watch.look(at(100), stall), Found::NowWrittenOff(Place::Lent));
        assert_eq!(watch.look(at(200), stall), Found::Busy);
        assert_eq!(watch.end(), End::WrittenOff);
    }

    /// Opening a session lends no place, for it has none.
    #[test]
    fn housekeeping_lends_nothing() {
        let (watch, start) = (Watch::default(), Instant::now());
        let end = start + Duration::from_secs(10);
        watch.begin(start, end, false);
        let stall = Duration::from_millis(5);
        assert_eq!(watch.look(start + Duration::from_secs(1), stall), Found::Busy);
        assert_eq!(watch.look(end, stall), Found::NowWrittenOff(Place::Elsewhere));
    }
}

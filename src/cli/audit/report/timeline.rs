//! Calls over time.

use std::collections::BTreeMap;

use super::call::Outcome;
use super::time::{MICROS_PER_SEC, SECS_PER_DAY, hour_of_week};
use crate::limits::{MAX_AUDIT_REPORT_BARS, MAX_AUDIT_REPORT_INTERVALS};

/// Lengths of intervals in seconds; beyond, they double.
const WIDTHS_SECS: [u64; 8] =
    [60, 300, 900, 3600, 3 * 3600, 6 * 3600, SECS_PER_DAY, 7 * SECS_PER_DAY];

/// Returns the next longer interval, of which each contains whole ones of this length.
fn longer(width_secs: u64) -> u64 {
    let next = WIDTHS_SECS.iter().find(|width| **width > width_secs);
    next.copied().unwrap_or(width_secs.saturating_mul(2))
}

/// Calls by outcome, in the order of [`Outcome::ALL`].
pub(super) type Bar = [u64; 4];

/// Calls by interval, and by hour of the week.
pub(super) struct Timeline {
    width_secs: u64,
    /// By the interval's number.
    intervals: BTreeMap<u64, Bar>,
    /// From Monday 0:00 on.
    pub(super) week: [[u64; 24]; 7],
    /// The minute that calls were last counted for, and its hour of the week.
    minute: (u64, (usize, usize)),
    /// Calls of that minute, which are not in the others yet.
    pending: Bar,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width_secs: WIDTHS_SECS[0],
            intervals: BTreeMap::new(),
            week: [[0; 24]; 7],
            // No time is in this one.
            minute: (u64::MAX, (0, 0)),
            pending: Bar::default(),
        }
    }
}

impl Timeline {
    pub(super) fn add(&mut self, micros: u64, outcome: Outcome) {
        let minute = micros / MICROS_PER_SEC / 60;
        if minute != self.minute.0 {
            self.settle();
            self.minute = (minute, hour_of_week(micros));
        }
        let [served, refused, failed, abandoned] = &mut self.pending;
        *match outcome {
            Outcome::Served => served,
            Outcome::Refused => refused,
            Outcome::Failed => failed,
            Outcome::Abandoned => abandoned,
        } += 1;
    }

    fn settle(&mut self) {
        let calls = std::mem::take(&mut self.pending);
        if calls == Bar::default() {
            return;
        }
        let (minute, (day, hour)) = self.minute;
        if let Some(cell) = self.week.get_mut(day).and_then(|day| day.get_mut(hour)) {
            *cell += calls.iter().sum::<u64>();
        }
        add(self.intervals.entry(minute * 60 / self.width_secs).or_default(), calls);
        while self.intervals.len() > MAX_AUDIT_REPORT_INTERVALS {
            self.lengthen();
        }
    }

    fn lengthen(&mut self) {
        let width_secs = longer(self.width_secs);
        let intervals = std::mem::take(&mut self.intervals);
        for (number, calls) in intervals {
            let number = number.saturating_mul(self.width_secs) / width_secs;
            add(self.intervals.entry(number).or_default(), calls);
        }
        self.width_secs = width_secs;
    }

    /// Returns the bars of a chart, without those before the first call and after the last.
    pub(super) fn finish(mut self) -> Bars {
        self.settle();
        let span = |intervals: &BTreeMap<u64, Bar>| {
            let ends = intervals.first_key_value().zip(intervals.last_key_value());
            ends.map(|((first, _), (last, _))| (*first, last - first + 1))
        };
        while span(&self.intervals).is_some_and(|(_, bars)| bars > MAX_AUDIT_REPORT_BARS as u64) {
            self.lengthen();
        }
        let (first, count) = span(&self.intervals).unwrap_or((0, 0));
        let bar = |number: u64| self.intervals.get(&number).copied().unwrap_or_default();
        Bars {
            begin: first.saturating_mul(self.width_secs).saturating_mul(MICROS_PER_SEC),
            width: self.width_secs.saturating_mul(MICROS_PER_SEC),
            bars: (first..first + count).map(bar).collect(),
            week: self.week,
        }
    }
}

fn add(sum: &mut Bar, calls: Bar) {
    for (sum, number) in sum.iter_mut().zip(calls) {
        *sum += number;
    }
}

/// Calls by interval, without gaps.
pub(super) struct Bars {
    /// Begin of the first interval.
    pub(super) begin: u64,
    /// Microseconds of an interval.
    pub(super) width: u64,
    pub(super) bars: Vec<Bar>,
    /// Calls by day, from Monday on, and hour.
    pub(super) week: [[u64; 24]; 7],
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::time::begin;
    use super::*;

    fn bars(times: impl IntoIterator<Item = u64>) -> Bars {
        let mut timeline = Timeline::default();
        times.into_iter().for_each(|micros| timeline.add(micros, Outcome::Served));
        timeline.finish()
    }

    /// Intervals grow with the period, and none between the first and the last is left out.
    #[test]
    fn widths() {
        const MINUTE: u64 = 60 * MICROS_PER_SEC;
        let start = begin("2026-11-30").unwrap();
        for (minutes, width, count) in [
            (1, 1, 1),
            (120, 1, 120),
            (121, 5, 25),
            (24 * 60, 15, 96),
            (30 * 24 * 60, 6 * 60, 120),
            (365 * 24 * 60, 7 * 24 * 60, 53),
        ] {
            let found = bars([start, start + (minutes - 1) * MINUTE]);
            assert_eq!((found.width / MINUTE, found.bars.len()), (width, count), "{minutes}");
            assert_eq!(found.bars.iter().flatten().sum::<u64>(), 2);
            assert!(found.begin <= start);
        }
        let whole = bars([0, begin("9999-12-31").unwrap()]);
        assert!(whole.bars.len() <= MAX_AUDIT_REPORT_BARS && whole.bars.len() > 50);
        assert!(bars([]).bars.is_empty());
    }

    /// The number of intervals in memory is bounded, even if the times are all over the place.
    #[test]
    fn many_minutes() {
        let mut timeline = Timeline::default();
        for number in 0..10_000 {
            timeline.add(number * 7_919 * 60 * MICROS_PER_SEC, Outcome::Refused);
            assert!(timeline.intervals.len() <= MAX_AUDIT_REPORT_INTERVALS);
        }
        let found = timeline.finish();
        assert_eq!(found.bars.iter().map(|bar| bar[1]).sum::<u64>(), 10_000);
        assert_eq!(found.week.iter().flatten().sum::<u64>(), 10_000);
    }

    /// Calls by day of the week and hour.
    #[test]
    fn the_week() {
        let found =
            bars([begin("2026-11-30T07:59:59Z").unwrap(), begin("2026-11-29T23:00:00Z").unwrap()]);
        assert_eq!((found.week[0][7], found.week[6][23]), (1, 1));
    }
}

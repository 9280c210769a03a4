//! The lines of a log, one after the other, into counts.

use super::call::{Call, Head, Outcome};
use super::events::Events;
use super::recent::{Names, Recent};
use super::table::{Counts, Rows, Span, Table};
use super::tables::{Group, Row, TABLES};
use super::time::{Clock, Period};
use super::timeline::{Bars, Timeline};

/// Counts under way.
pub(super) struct Collector {
    period: Period,
    clock: Clock,
    row: Row,
    names: Names,
    who: Recent<4>,
    how: Recent<9>,
    refused: Recent<6>,
    tables: [Table; TABLES.len()],
    timeline: Timeline,
    events: Events,
    calls: Counts,
    lines: Lines,
}

/// Numbers of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Those of the period.
    pub(super) counted: u64,
    /// Those outside of it.
    pub(super) outside: u64,
    /// Those that this version cannot read: without a time, or calls of another form.
    pub(super) unreadable: u64,
    /// First and last time in the period.
    pub(super) span: Option<Span>,
}

/// Finished counts.
pub(super) struct Collected {
    /// In the order of [`TABLES`].
    pub(super) tables: [Rows; TABLES.len()],
    pub(super) bars: Bars,
    pub(super) events: Events,
    /// All calls.
    pub(super) calls: Counts,
    pub(super) lines: Lines,
}

impl Collector {
    pub(super) fn new(period: Period) -> Self {
        Self {
            period,
            clock: Clock::default(),
            row: Row::default(),
            names: Names::default(),
            who: Recent::default(),
            how: Recent::default(),
            refused: Recent::default(),
            tables: Default::default(),
            timeline: Timeline::default(),
            events: Events::default(),
            calls: Counts::default(),
            lines: Lines::default(),
        }
    }

    /// Takes a line without its end.
    pub(super) fn line(&mut self, line: &[u8]) {
        let call = Call::parse(line);
        // Events of another version may have members of these names, but of other types.
        let head = call.as_ref().map(Call::head);
        let other = if head.is_none() { Call::parse_head(line) } else { None };
        let Some(Head { seq, event, time }) = head.or(other.as_ref().map(Call::head)) else {
            self.lines.unreadable += 1;
            return;
        };
        let Some(micros) = self.clock.read(time) else {
            self.lines.unreadable += 1;
            return;
        };
        let at = self.events.at(micros, seq, &self.period);
        self.events.time(at, event == "open");
        if event != "call" {
            self.events.event(at, event, line);
        }
        if !at.is_in_period {
            self.lines.outside += 1;
            return;
        }
        self.lines.counted += 1;
        let span = Span::at(micros);
        self.lines.span.get_or_insert(span).extend(span);
        match &call {
            _ if event != "call" => {}
            Some(call) => self.call(call, micros),
            None => self.lines.unreadable += 1,
        }
    }

    fn call(&mut self, call: &Call<'_>, micros: u64) {
        let outcome = call.outcome();
        self.timeline.add(micros, outcome);
        let counts = Counts::of(call, outcome, micros);
        self.calls.add(&counts);
        self.row.set(&mut self.names, call, outcome);
        self.who.add(self.row.who(), &counts);
        self.how.add(self.row.how(), &counts);
        if outcome != Outcome::Served {
            self.refused.add(self.row.refused(), &counts);
        }
        let are_rows_full = self.who.is_full() || self.how.is_full() || self.refused.is_full();
        if are_rows_full || self.names.is_full() {
            self.settle();
        }
    }

    /// Adds the recent rows to the tables.
    fn settle(&mut self) {
        let who: Vec<_> = self.who.drain().map(|(key, sum)| (Row::of_who(key), sum)).collect();
        let how: Vec<_> = self.how.drain().map(|(key, sum)| (Row::of_how(key), sum)).collect();
        let refused: Vec<_> =
            self.refused.drain().map(|(key, sum)| (Row::of_refused(key), sum)).collect();
        for (definition, table) in TABLES.iter().zip(&mut self.tables) {
            let rows = match definition.group {
                Group::Who => &who,
                Group::How => &how,
                Group::Refused => &refused,
            };
            let mut sums = Recent::default();
            for (row, counts) in rows {
                if let Some(key) = (definition.key_of)(row) {
                    sums.add(key, counts);
                }
            }
            for (key, counts) in sums.drain() {
                table.add(&self.names.key(&key), &counts);
            }
        }
        self.names.clear();
    }

    pub(super) fn finish(mut self) -> Collected {
        self.settle();
        Collected {
            tables: self.tables.map(Table::finish),
            bars: self.timeline.finish(),
            events: self.events,
            calls: self.calls,
            lines: self.lines,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::super::time::{MICROS_PER_SEC, begin};
    use super::*;
    use crate::limits::MAX_AUDIT_REPORT_ROWS;
    use crate::observe::timestamp::Rfc3339;

    fn line(seq: u64, members: &str) -> String {
        let micros = begin("2026-11-25").unwrap() + seq * MICROS_PER_SEC;
        let mut time = Rfc3339::default();
        let time = String::from_utf8_lossy(time.at(Duration::from_micros(micros))).into_owned();
        format!(r#"{{"seq":{seq},"time":"{time}",{members},"mac":"00"}}"#)
    }

    fn collected(lines: impl Iterator<Item = String>) -> Collected {
        let mut collector = Collector::new(Period::default());
        lines.for_each(|line| collector.line(line.as_bytes()));
        collector.finish()
    }

    fn table(id: &str) -> usize {
        TABLES.iter().position(|definition| definition.id == id).unwrap()
    }

    /// Far more principals and keys than there is space for: no call is lost, and the rows are the
    /// same each time.
    #[test]
    fn many_names() {
        const CALLS: u64 = 150_000;
        let all = || {
            collected((0..CALLS).map(|seq| {
                let status = if seq % 3 == 0 { 403 } else { 200 };
                line(seq, &format!(
                    r#""event":"call","operation":"decrypt","store":"/s","externalKeyId":"k{}","awsPrincipalArn":"p{seq}","status":{status}"#,
                    seq % 7
                ))
            }))
        };
        let found = all();
        assert_eq!((found.calls.calls, found.lines.counted), (CALLS, CALLS));
        for (definition, rows) in TABLES.iter().zip(&found.tables) {
            let sum: u64 = rows.rows.iter().map(|(_, counts)| counts.calls).sum();
            let expected = match definition.id {
                "keyVersions" => 0,
                "refusals" => CALLS / 3,
                _ => CALLS,
            };
            assert_eq!(sum + rows.others.calls, expected, "{}", definition.id);
            assert!(rows.rows.len() <= 2 * MAX_AUDIT_REPORT_ROWS, "{}", definition.id);
        }
        assert!(found.tables[table("principals")].others.calls > 0);
        assert_eq!(found.tables[table("keys")].rows.len(), 7);
        for (one, other) in found.tables.iter().zip(&all().tables) {
            assert!(one.rows == other.rows && one.others == other.others);
        }
    }

    /// Lines of unknown forms are counted as such, and nothing is lost on their account.
    #[test]
    fn unknown_forms() {
        let found = collected(
            [
                line(1, r#""event":"call","operation":"health","status":200"#),
                line(2, r#""event":"call","operation":"health","status":"fine""#),
                line(3, r#""event":"laser","status":"on""#),
                "rubbish".to_owned(),
                r#"{"seq":4,"time":"noon","event":"call"}"#.to_owned(),
            ]
            .into_iter(),
        );
        let Lines { counted, outside, unreadable, .. } = found.lines;
        assert_eq!((counted, outside, unreadable, found.calls.calls), (3, 0, 3, 1));
        assert_eq!(found.events.changes.events.len(), 1);
    }
}

//! Calls counted by names, in bounded memory.

use std::collections::HashMap;

use super::call::{Call, Name, Outcome};
use crate::limits::{MAX_AUDIT_REPORT_NAME_BYTES, MAX_AUDIT_REPORT_ROWS};

/// Largest number of names that make a row.
pub(super) const MAX_NAMES: usize = 6;

/// The names of a row; unused ones are `None`.
pub(super) type Key = [Name; MAX_NAMES];

/// First and last moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn at(micros: u64) -> Self {
        Self { first: micros, last: micros }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Counts of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    /// By outcome, in the order of [`Outcome::ALL`].
    pub(super) outcomes: [u64; 4],
    /// Encryptions that were served.
    pub(super) encryptions: u64,
    /// Decryptions that were served.
    pub(super) decryptions: u64,
    /// Of all calls.
    pub(super) span: Option<Span>,
    /// Of those that were served: the uses.
    pub(super) use_span: Option<Span>,
}

impl Counts {
    /// Returns the counts of one call.
    pub(super) fn of(call: &Call<'_>, outcome: Outcome, micros: u64) -> Self {
        let is_served = outcome == Outcome::Served;
        let span = Span::at(micros);
        let served = |operation| u64::from(is_served && call.is(operation));
        Self {
            calls: 1,
            outcomes: Outcome::ALL.map(|one| u64::from(one == outcome)),
            encryptions: served("encrypt"),
            decryptions: served("decrypt"),
            span: Some(span),
            use_span: is_served.then_some(span),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        for (sum, number) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += number;
        }
        self.encryptions += other.encryptions;
        self.decryptions += other.decryptions;
        join(&mut self.span, other.span);
        join(&mut self.use_span, other.use_span);
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> u64 {
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        at.and_then(|at| self.outcomes.get(at)).copied().unwrap_or(0)
    }
}

fn join(span: &mut Option<Span>, other: Option<Span>) {
    match (span.as_mut(), other) {
        (Some(span), Some(other)) => span.extend(other),
        (None, other) => *span = other,
        (Some(_), None) => {}
    }
}

/// Rows up to a number and a size.
#[derive(Default)]
struct Pool {
    rows: HashMap<Key, Counts>,
    name_bytes: usize,
}

impl Pool {
    /// Adds to a row that exists, or to a new one if there is space.
    fn add(&mut self, key: &Key, counts: &Counts) -> bool {
        if let Some(row) = self.rows.get_mut(key) {
            row.add(counts);
            return true;
        }
        let bytes = name_bytes(key);
        let is_room = self.rows.len() < MAX_AUDIT_REPORT_ROWS
            && self.name_bytes + bytes <= MAX_AUDIT_REPORT_NAME_BYTES;
        if is_room {
            self.name_bytes += bytes;
            self.rows.insert(key.clone(), *counts);
        }
        is_room
    }

    fn take(&mut self, key: &Key) -> Option<Counts> {
        let counts = self.rows.remove(key)?;
        self.name_bytes -= name_bytes(key);
        Some(counts)
    }
}

fn name_bytes(key: &Key) -> usize {
    key.iter().flatten().map(|name| name.len()).sum()
}

/// A table of calls.
///
/// Names that were never served have rows of their own number: whoever can only be refused cannot
/// fill the table with made-up names and so have those of others summed up.
#[derive(Default)]
pub(super) struct Table {
    served: Pool,
    refused: Pool,
    others: Counts,
}

/// A finished table.
pub(super) struct Rows {
    /// Those with most calls first.
    pub(super) rows: Vec<(Key, Counts)>,
    /// The sum of the calls whose names have no row.
    pub(super) others: Counts,
}

impl Table {
    pub(super) fn add(&mut self, key: &Key, counts: &Counts) {
        if let Some(row) = self.served.rows.get_mut(key) {
            return row.add(counts);
        }
        let mut counts = *counts;
        let is_added = if counts.use_span.is_none() {
            self.refused.add(key, &counts)
        } else {
            if let Some(before) = self.refused.take(key) {
                counts.add(&before);
            }
            self.served.add(key, &counts)
        };
        if !is_added {
            self.others.add(&counts);
        }
    }

    pub(super) fn finish(self) -> Rows {
        let mut rows: Vec<_> = self.served.rows.into_iter().chain(self.refused.rows).collect();
        // By name where the numbers are equal, so that the same log always has the same report.
        rows.sort_unstable_by(|(one, of_one), (other, of_other)| {
            of_other.calls.cmp(&of_one.calls).then_with(|| one.cmp(other))
        });
        Rows { rows, others: self.others }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn add(table: &mut Table, principal: &str, status: u16, at: u64) {
        let line = format!(
            r#"{{"seq":1,"time":"","event":"call","operation":"decrypt","status":{status}}}"#
        );
        let call = Call::parse(line.as_bytes()).unwrap();
        let mut key = Key::default();
        key[0] = Some(principal.into());
        table.add(&key, &Counts::of(&call, call.outcome(), at));
    }

    fn name(row: &(Key, Counts)) -> &str {
        row.0[0].as_deref().unwrap()
    }

    /// A row counts by outcome, and knows the first and last call and use.
    #[test]
    fn counts() {
        let mut table = Table::default();
        for (status, at) in [(403, 1), (200, 5), (200, 3), (503, 9)] {
            add(&mut table, "alice", status, at);
        }
        add(&mut table, "bob", 200, 4);
        let Rows { rows, others } = table.finish();
        assert_eq!(rows.iter().map(name).collect::<Vec<_>>(), ["alice", "bob"]);
        let alice = rows[0].1;
        assert_eq!((alice.calls, alice.outcomes, alice.decryptions), (4, [2, 1, 1, 0], 2));
        assert_eq!(alice.span, Some(Span { first: 1, last: 9 }));
        assert_eq!(alice.use_span, Some(Span { first: 3, last: 5 }));
        assert_eq!(others, Counts::default());
    }

    /// The number of rows is bounded, no call is lost, and names that are only refused take no row
    /// from those that are served.
    #[test]
    fn many_names() {
        let mut table = Table::default();
        for number in 0..2 * MAX_AUDIT_REPORT_ROWS {
            add(&mut table, &format!("made-up {number}"), 403, 1);
        }
        for number in 0..MAX_AUDIT_REPORT_ROWS + 7 {
            add(&mut table, &format!("user {number}"), 200, 2);
        }
        // One of those refused before is now served, but there is no row left.
        add(&mut table, "made-up 3", 200, 3);
        let Rows { rows, others } = table.finish();
        let users = rows.iter().filter(|row| name(row).starts_with("user ")).count();
        assert_eq!((users, rows.len()), (MAX_AUDIT_REPORT_ROWS, 2 * MAX_AUDIT_REPORT_ROWS - 1));
        assert_eq!(others.outcome(Outcome::Served), 8);
        let calls: u64 = rows.iter().map(|row| row.1.calls).sum();
        assert_eq!(calls + others.calls, 3 * MAX_AUDIT_REPORT_ROWS as u64 + 8);
    }

    /// Long names are bounded by their bytes.
    #[test]
    fn long_names() {
        let mut table = Table::default();
        let long = "x".repeat(2_000);
        for number in 0..MAX_AUDIT_REPORT_ROWS {
            add(&mut table, &format!("{number}{long}"), 200, 1);
        }
        let Rows { rows, others } = table.finish();
        let bytes: usize = rows.iter().map(|row| name(row).len()).sum();
        assert!(bytes <= MAX_AUDIT_REPORT_NAME_BYTES && bytes > MAX_AUDIT_REPORT_NAME_BYTES / 2);
        assert_eq!(rows.len() as u64 + others.calls, MAX_AUDIT_REPORT_ROWS as u64);
    }
}

//! The lines of a log, one after the other, into counts.

use super::call::{Call, Name, Outcome};
use super::events::{At, Events};
use super::kinds::Kinds;
use super::table::{Counts, Key, Rows, Span, Table, key};
use super::time::{Clock, Period};
use super::timeline::{Bars, Timeline};
use crate::observe::audit::line::string;

/// A table by the names that make its rows.
pub(super) struct Definition {
    /// Name in CSV and JSON.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    /// Names of the columns in CSV and JSON, and their titles.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// True if rows say how keys were used, and not only how often they occurred.
    pub(super) has_uses: bool,
    /// Returns the names of a call's row; `None` if the call is not of this table.
    key_of: fn(&Call) -> Option<Key>,
}

const STORE: (&str, &str) = ("store", "Key store");
const KEY: (&str, &str) = ("externalKeyId", "External key");
const PRINCIPAL: (&str, &str) = ("awsPrincipalArn", "Principal");
const ERROR: (&str, &str) = ("errorName", "Error");
const REASON: (&str, &str) = ("reason", "Reason");
const OPERATION: (&str, &str) = ("operation", "Operation");

/// The tables of a report.
pub(super) const TABLES: [Definition; 9] = [
    Definition {
        id: "keys",
        title: "Keys",
        note: "Calls by external key.",
        names: &[STORE, KEY],
        has_uses: true,
        key_of: |call| call.key_id.is_some().then(|| key([&call.store, &call.key_id])),
    },
    Definition {
        id: "keyVersions",
        title: "Key versions",
        note: "Calls by version, for keys that have versions. The first use of a version is the \
               rotation.",
        names: &[STORE, KEY, ("keyVersion", "Version")],
        has_uses: true,
        key_of: |call| {
            let version: Name = Some(call.key_version?.to_string().into());
            Some(key([&call.store, &call.key_id, &version]))
        },
    },
    Definition {
        id: "principals",
        title: "Principals",
        note: "Calls by the AWS principal on whose behalf KMS called. Calls without a valid \
               signature, and KMS's own health checks, have none.",
        names: &[PRINCIPAL],
        has_uses: true,
        key_of: |call| Some(key([&call.principal])),
    },
    Definition {
        id: "access",
        title: "Who used which key",
        note: "Calls by principal and external key.",
        names: &[PRINCIPAL, STORE, KEY],
        has_uses: true,
        key_of: |call| {
            call.key_id.is_some().then(|| key([&call.principal, &call.store, &call.key_id]))
        },
    },
    Definition {
        id: "viaServices",
        title: "Services",
        note: "Calls by the AWS service through which the principal used the key; none if it called \
               KMS itself.",
        names: &[("kmsViaService", "Via service")],
        has_uses: true,
        key_of: |call| Some(key([&call.via_service])),
    },
    Definition {
        id: "credentials",
        title: "Credentials",
        note: "Calls by the access key id with which KMS signed. First and last use show a rotation.",
        names: &[STORE, ("accessKeyId", "Access key id")],
        has_uses: true,
        key_of: |call| Some(key([&call.store, &call.access_key_id])),
    },
    Definition {
        id: "operations",
        title: "Operations",
        note: "Calls by the proxy's operation and by that of KMS which led to it.",
        names: &[OPERATION, ("kmsOperation", "KMS operation")],
        has_uses: true,
        key_of: |call| Some(key([&call.operation, &call.kms_operation])),
    },
    Definition {
        id: "outcomes",
        title: "Outcomes",
        note: "Calls by status, error and reason. Refused: status 4xx. Failed: any other error. \
               Abandoned: the peer had disconnected before there was an answer.",
        names: &[("outcome", "Outcome"), ("status", "Status"), ERROR, REASON],
        has_uses: false,
        key_of: |call| {
            let outcome: Name = Some(call.outcome.name().into());
            let status: Name = call.status.map(|status| status.to_string().into());
            Some(key([&outcome, &status, &call.error_name, &call.reason]))
        },
    },
    Definition {
        id: "refusals",
        title: "Refused calls",
        note: "Who was refused what, and why: calls that were not served.",
        names: &[ERROR, REASON, OPERATION, KEY, PRINCIPAL],
        has_uses: false,
        key_of: |call| {
            let names =
                [&call.error_name, &call.reason, &call.operation, &call.key_id, &call.principal];
            (call.outcome != Outcome::Served).then(|| key(names))
        },
    },
];

/// Counts under way.
pub(super) struct Collector {
    period: Period,
    clock: Clock,
    kinds: Kinds,
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
            kinds: Kinds::default(),
            tables: Default::default(),
            timeline: Timeline::default(),
            events: Events::default(),
            calls: Counts::default(),
            lines: Lines::default(),
        }
    }

    /// Takes a line without its end.
    pub(super) fn line(&mut self, line: &[u8]) {
        let event = string(line, "event").unwrap_or_default();
        let Some(micros) = string(line, "time").and_then(|text| self.clock.read(text)) else {
            self.lines.unreadable += 1;
            return;
        };
        let at = At { micros, seq: seq(line), is_in_period: self.period.contains(micros) };
        self.events.time(at, event == "open");
        if !at.is_in_period {
            self.lines.outside += 1;
            return;
        }
        self.lines.counted += 1;
        let span = Span::at(micros);
        self.lines.span.get_or_insert(span).extend(span);
        if event != "call" {
            self.events.event(at, event, line);
            return;
        }
        match self.kinds.count(line, micros) {
            Some(outcome) => self.timeline.add(micros, outcome),
            None => self.lines.unreadable += 1,
        }
        if self.kinds.is_full() {
            self.settle();
        }
    }

    /// Adds the kinds of calls to the tables.
    fn settle(&mut self) {
        for kind in self.kinds.take() {
            let counts = Counts::of(&kind.call, kind.calls, kind.span);
            self.calls.add(&counts);
            for (table, definition) in self.tables.iter_mut().zip(&TABLES) {
                if let Some(key) = (definition.key_of)(&kind.call) {
                    table.add(&key, &counts);
                }
            }
        }
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

/// Returns a line's number.
fn seq(line: &[u8]) -> u64 {
    let digits = line.iter().skip("{\"seq\":".len()).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

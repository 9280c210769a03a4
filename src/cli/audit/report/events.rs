//! Changes and interruptions: the lines of a log that are not calls, and the times between lines.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::time::{Period, length};
use crate::limits::{
    MAX_AUDIT_REPORT_EVENTS, MIN_AUDIT_REPORT_SILENCE, MIN_AUDIT_REPORT_STEP_BACK,
};

/// Members that are in every line, or say nothing to people.
const COMMON_MEMBERS: [&str; 6] = ["seq", "previous", "time", "event", "chain", "mac"];

/// A change or an interruption.
pub(super) struct Event {
    pub(super) micros: u64,
    /// Number of the line.
    pub(super) seq: u64,
    pub(super) kind: String,
    pub(super) detail: String,
}

/// The first events; the others are only counted.
#[derive(Default)]
pub(super) struct EventList {
    pub(super) events: Vec<Event>,
    pub(super) omitted: u64,
}

impl EventList {
    fn push(&mut self, event: Event) {
        if self.events.len() < MAX_AUDIT_REPORT_EVENTS {
            self.events.push(event);
        } else {
            self.omitted += 1;
        }
    }
}

/// Sums over the lines of a period.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) starts: u64,
    pub(super) reloads: u64,
    pub(super) crashes: u64,
    pub(super) lost_lines: u64,
    pub(super) refused_calls: u64,
    pub(super) left_out_calls: u64,
    pub(super) clock_steps: u64,
}

#[derive(Default)]
pub(super) struct Events {
    pub(super) changes: EventList,
    pub(super) interruptions: EventList,
    pub(super) sums: Sums,
    /// Time of the first line of the log.
    pub(super) first_micros: Option<u64>,
    /// Time of the line before.
    pub(super) last_micros: Option<u64>,
}

/// Place and time of a line.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) micros: u64,
    pub(super) seq: u64,
    /// Time of the line before.
    last: Option<u64>,
    /// True if the line is of the period that the report is about.
    pub(super) is_in_period: bool,
    /// True if a part of the time since the line before is of the period.
    reaches_period: bool,
}

impl Events {
    /// Takes the time of any line, which comes after those taken before.
    pub(super) fn at(&mut self, micros: u64, seq: u64, period: &Period) -> At {
        let last = self.last_micros.replace(micros);
        self.first_micros.get_or_insert(micros);
        let since = last.unwrap_or(micros);
        At {
            micros,
            seq,
            last,
            is_in_period: period.contains(micros),
            reaches_period: period.touches(since.min(micros), since.max(micros)),
        }
    }

    /// Lists the time since the line before if it tells of an interruption. `is_open` says that a
    /// process begins with the line.
    pub(super) fn time(&mut self, at: At, is_open: bool) {
        let Some(last) = at.last.filter(|_| at.reaches_period) else { return };
        let back = last.saturating_sub(at.micros);
        let forward = at.micros.saturating_sub(last);
        let is_back = u128::from(back) >= MIN_AUDIT_REPORT_STEP_BACK.as_micros();
        if is_back {
            self.sums.clock_steps += 1;
            let detail = format!("the line is {} older than the one before", length(back));
            self.interrupt(at, "clock set back", detail);
        }
        if is_open {
            let detail = match is_back {
                true => "an unknown time after the line before".to_owned(),
                false => format!("{} after the line before", length(forward)),
            };
            self.interrupt(at, "restart", detail);
        } else if u128::from(forward) >= MIN_AUDIT_REPORT_SILENCE.as_micros() {
            let detail = format!(
                "no line for {}: nobody called, or the clock was set forward",
                length(forward)
            );
            self.interrupt(at, "silence", detail);
        }
    }

    /// Takes a line that is not a call.
    pub(super) fn event(&mut self, at: At, name: &str, line: &[u8]) {
        if !at.reaches_period || matches!(name, "checkpoint" | "rotate" | "continue" | "reopen") {
            return;
        }
        let members: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| members.get(name).and_then(Value::as_u64).unwrap_or(0);
        match name {
            "start" => {
                self.sums.starts += u64::from(at.is_in_period);
                let detail = format!("version {}, settings {}", text("version"), text("settings"));
                self.change(at, name, detail);
            }
            "stop" if members.contains_key("handedOver") => {
                self.change(at, name, "a process that had handed the log over".to_owned());
            }
            "settings" => {
                self.sums.reloads += u64::from(at.is_in_period);
                self.change(
                    at,
                    "reload",
                    reload(text("outcome"), text("needsRestart"), text("reasons")),
                );
            }
            "handover" => {
                let detail = "the new process of an upgrade writes the log from here on";
                self.change(at, name, detail.to_owned());
            }
            "open" => match text("previousEnd") {
                "crash" => {
                    self.sums.crashes += 1;
                    let detail = format!(
                        "the process before did not end in good order: lines not yet written are \
                         lost; {} lines recovered, {} bytes of an incomplete one removed",
                        number("recoveredLines"),
                        number("tornBytes")
                    );
                    self.interrupt(at, "crash", detail);
                }
                "none" => self.change(at, "new chain", format!("chain {}", text("chain"))),
                _ => {}
            },
            "gap" => self.gap(at, &members),
            "handoverLost" => {
                let detail = "a process that had handed the log over ended before it had sent all \
                              of its lines: those are lost";
                self.interrupt(at, "lines lost", detail.to_owned());
            }
            _ => self.change(at, name, plain(&members)),
        }
    }

    fn gap(&mut self, at: At, members: &Map<String, Value>) {
        let number = |name: &str| members.get(name).and_then(Value::as_u64).unwrap_or(0);
        let counts = [
            (&mut self.sums.lost_lines, "droppedLines", "lines lost"),
            (&mut self.sums.refused_calls, "refusedCalls", "calls refused for want of their line"),
            (
                &mut self.sums.left_out_calls,
                "leftOutUnauthenticatedCalls",
                "calls with a wrong signature left out",
            ),
        ];
        let mut parts = Vec::new();
        for (sum, member, text) in counts {
            *sum = sum.saturating_add(number(member));
            if number(member) > 0 {
                parts.push(format!("{} {text}", number(member)));
            }
        }
        self.interrupt(at, "gap", parts.join(", "));
    }

    /// Lists a change: it is of the moment of its line.
    fn change(&mut self, at: At, kind: &str, detail: String) {
        let At { micros, seq, is_in_period, .. } = at;
        if !is_in_period {
            return;
        }
        self.changes.push(Event { micros, seq, kind: kind.to_owned(), detail });
    }

    /// Lists an interruption: it is of the time between its line and the one before.
    fn interrupt(&mut self, at: At, kind: &str, detail: String) {
        let At { micros, seq, .. } = at;
        self.interruptions.push(Event { micros, seq, kind: kind.to_owned(), detail });
    }
}

/// Describes a reload.
fn reload(outcome: &str, needs_restart: &str, reasons: &str) -> String {
    match outcome {
        "taken_up" if needs_restart.is_empty() => "the settings were taken up".to_owned(),
        "taken_up" => {
            format!("the settings were taken up; without effect until a restart: {needs_restart}")
        }
        _ => format!("the settings were refused, {reasons} mistakes; those in use stayed"),
    }
}

/// Describes an event of another version by its members.
fn plain(members: &Map<String, Value>) -> String {
    let own: BTreeMap<_, _> =
        members.iter().filter(|(name, _)| !COMMON_MEMBERS.contains(&name.as_str())).collect();
    let shown = own.into_iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name} {text}"),
        value => format!("{name} {value}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SEC: u64 = 1_000_000;

    fn at(events: &mut Events, secs: u64) -> At {
        events.at(secs * SEC, secs, &Period::default())
    }

    fn told(list: &EventList) -> Vec<(u64, &str, &str)> {
        list.events.iter().map(|it| (it.seq, it.kind.as_str(), it.detail.as_str())).collect()
    }

    /// Restarts, silence, and a clock that is set back; not a line a little late.
    #[test]
    fn times() {
        let mut events = Events::default();
        for (secs, is_open) in [
            (9_000, true),
            (9_100, false),
            (9_095, false),
            (12_695, false),
            (12_000, false),
            (20_000, true),
            (15_000, true),
        ] {
            let at = at(&mut events, secs);
            events.time(at, is_open);
        }
        assert_eq!(
            told(&events.interruptions),
            [
                (12_695, "silence", "no line for 1 h: nobody called, or the clock was set forward"),
                (12_000, "clock set back", "the line is 11 min 35 s older than the one before"),
                (20_000, "restart", "2 h 13 min after the line before"),
                (15_000, "clock set back", "the line is 1 h 23 min older than the one before"),
                (15_000, "restart", "an unknown time after the line before"),
            ]
        );
        assert_eq!(events.sums.clock_steps, 2);
    }

    /// An interruption that begins or ends outside of the period is listed, as is one that is longer
    /// than the period: no line of the period would tell of it. A change is not.
    #[test]
    fn across_the_ends() {
        let told_of = |from: u64, to: u64| {
            let period = Period { from: Some(from * SEC), to: Some(to * SEC) };
            let mut events = Events::default();
            let crash = r#""chain":"00","previousEnd":"crash","recoveredLines":1,"tornBytes":0"#;
            let gap = r#""droppedLines":3,"refusedCalls":0,"leftOutUnauthenticatedCalls":0"#;
            for (secs, name, members) in [
                (10_000, "start", r#""version":"1","settings":"s""#),
                (20_000, "open", crash),
                (20_001, "start", r#""version":"1","settings":"s""#),
                (30_000, "gap", gap),
            ] {
                let at = events.at(secs * SEC, secs, &period);
                events.time(at, name == "open");
                events.event(at, name, format!("{{{members}}}").as_bytes());
            }
            let kinds = |list: &EventList| {
                list.events.iter().map(|it| it.kind.clone()).collect::<Vec<_>>().join(" ")
            };
            let Sums { starts, crashes, lost_lines, .. } = events.sums;
            (kinds(&events.interruptions), kinds(&events.changes), starts, crashes, lost_lines)
        };
        let is = |told: (String, String, u64, u64, u64), one: &str, other: &str, sums| {
            assert_eq!((&*told.0, &*told.1, (told.2, told.3, told.4)), (one, other, sums));
        };
        is(told_of(0, 10_000), "", "", (0, 0, 0));
        is(told_of(0, 10_001), "restart crash", "start", (1, 1, 0));
        is(told_of(12_000, 13_000), "restart crash", "", (0, 1, 0));
        is(told_of(20_000, 20_001), "restart crash", "", (0, 1, 0));
        is(told_of(25_000, 26_000), "silence gap", "", (0, 0, 3));
        is(told_of(30_001, 40_000), "", "", (0, 0, 0));
    }

    /// Each event of the log, and one of a version to come.
    #[test]
    fn what_is_said() {
        let mut events = Events::default();
        for (name, members) in [
            ("open", r#""chain":"00ff","previousEnd":"none","recoveredLines":0,"tornBytes":0"#),
            ("start", r#""version":"1.2.3","settings":"/etc/s.toml""#),
            ("settings", r#""outcome":"taken_up","needsRestart":"server.port""#),
            ("settings", r#""outcome":"refused","reasons":"2""#),
            ("checkpoint", r#""key":"k""#),
            ("gap", r#""droppedLines":3,"refusedCalls":0,"leftOutUnauthenticatedCalls":7"#),
            ("open", r#""chain":"00ff","previousEnd":"crash","recoveredLines":4,"tornBytes":5"#),
            ("open", r#""chain":"00ff","previousEnd":"clean","recoveredLines":0,"tornBytes":0"#),
            ("stop", r#""handedOver":"true""#),
            ("handoverLost", ""),
            ("laser", r#""power":"full","level":9"#),
        ] {
            let line = format!("{{\"seq\":1,\"event\":\"{name}\",\"x\":0,{members}}}");
            let line = line.replace("\"x\":0,}", "\"x\":0}").replace("\"x\":0,", "");
            let at = at(&mut events, 1);
            events.event(at, name, line.as_bytes());
        }
        let outside = At { is_in_period: false, reaches_period: false, ..at(&mut events, 1) };
        events.event(outside, "stop", b"{}");
        assert_eq!(
            told(&events.changes).iter().map(|it| (it.1, it.2)).collect::<Vec<_>>(),
            [
                ("new chain", "chain 00ff"),
                ("start", "version 1.2.3, settings /etc/s.toml"),
                (
                    "reload",
                    "the settings were taken up; without effect until a restart: server.port"
                ),
                ("reload", "the settings were refused, 2 mistakes; those in use stayed"),
                ("stop", "a process that had handed the log over"),
                ("laser", "level 9, power full"),
            ]
        );
        let kinds: Vec<&str> = told(&events.interruptions).iter().map(|it| it.1).collect();
        assert_eq!(kinds, ["gap", "crash", "lines lost"]);
        assert_eq!(
            events.interruptions.events.first().unwrap().detail,
            "3 lines lost, 7 calls with a wrong signature left out"
        );
        let Sums { starts, reloads, crashes, lost_lines, left_out_calls, .. } = events.sums;
        assert_eq!((starts, reloads, crashes, lost_lines, left_out_calls), (1, 2, 1, 3, 7));
    }

    /// The list is bounded, and says how many are missing.
    #[test]
    fn many_events() {
        let mut events = Events::default();
        for _ in 0..MAX_AUDIT_REPORT_EVENTS + 5 {
            let at = at(&mut events, 1);
            events.event(at, "stop", b"{}");
        }
        let EventList { events, omitted } = events.changes;
        assert_eq!((events.len(), omitted), (MAX_AUDIT_REPORT_EVENTS, 5));
    }
}

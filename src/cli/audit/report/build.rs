//! Counts and the verification's outcome into tables.

use super::call::Outcome;
use super::collect::Collected;
use super::events::{Event, EventList};
use super::sheet::{Cell, Column, Fact, Kind, Report, Sheet, Verdict};
use super::table::{Counts, Key, Rows};
use super::tables::{Definition, TABLES};
use super::text::grouped;
use super::time::{Period, length, shown};
use super::timeline::Bars;
use crate::cli::audit::verify::Judgement;
use crate::exit::EXIT_TAMPERED;
use crate::limits::{MAX_AUDIT_REPORT_NAME_BYTES, MAX_AUDIT_REPORT_ROWS};
use crate::observe::audit::verify::{Finding, Summary};

/// Findings of tampering, up to a number.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) listed: Vec<Finding>,
    pub(super) omitted: u64,
}

/// The sources of a report.
pub(super) struct Sources<'s> {
    pub(super) period: Period,
    pub(super) summary: &'s Summary,
    pub(super) judgement: &'s Judgement,
    pub(super) findings: &'s Findings,
    pub(super) collected: Collected,
    /// Rows of each table to show; all of them if `None`.
    pub(super) shown_rows: Option<usize>,
}

pub(super) fn report(sources: Sources<'_>) -> Report {
    let facts = facts(&sources);
    let Sources { judgement, findings, collected, shown_rows, period, .. } = sources;
    let verdict = match &judgement.failure {
        None => Verdict::Good,
        Some(failed) if failed.exit_code == EXIT_TAMPERED => Verdict::Tampered,
        Some(_) => Verdict::Unverified,
    };
    let mut statements = judgement.statements.clone();
    statements.extend(judgement.failure.as_ref().map(|failed| failed.message.clone()));
    if verdict == Verdict::Tampered {
        let text = "Only lines that are as they were written are counted below.";
        statements.push(text.to_owned());
    }
    statements.extend(remarks(&period, &collected));
    let Collected { tables, bars, events, .. } = collected;
    let mut sheets = vec![findings_sheet(findings)];
    sheets.push(events_sheet(
        "interruptions",
        "Interruptions",
        "Restarts, crashes, lines that the proxy had to leave out, and jumps of the clock. Missing \
         numbers are among the findings.",
        events.interruptions,
    ));
    sheets.push(events_sheet(
        "changes",
        "Changes",
        "Starts, stops and reloads of the settings, which include policies, keys and credentials. \
         The tables of credentials and key versions show when each was first used.",
        events.changes,
    ));
    for (definition, rows) in TABLES.iter().zip(tables) {
        sheets.push(table_sheet(definition, rows, shown_rows));
    }
    sheets.push(timeline_sheet(&bars));
    Report { verdict, statements, facts, sheets, week: bars.week }
}

/// Returns what the figures leave out, if anything.
fn remarks(period: &Period, collected: &Collected) -> Vec<String> {
    let Collected { lines, events, .. } = collected;
    let mut remarks = Vec::new();
    if lines.unreadable > 0 {
        remarks.push(format!(
            "Not counted: {} lines of a form that this version cannot read.",
            grouped(lines.unreadable)
        ));
    }
    if let (Some(from), Some(first)) = (period.from, events.first_micros)
        && first > from
    {
        remarks.push(format!(
            "These files begin at {} UTC, after the period does: the report has nothing before that.",
            shown(first)
        ));
    }
    if let (Some(to), Some(last)) = (period.to, events.last_micros)
        && last < to
    {
        remarks.push(format!(
            "These files end at {} UTC, before the period does: the report has nothing after that.",
            shown(last)
        ));
    }
    remarks
}

fn facts(sources: &Sources<'_>) -> Vec<Fact> {
    let Sources { period, summary, collected, .. } = sources;
    let Collected { calls, lines, events, .. } = collected;
    let fact = |id, title, value| Fact { id, title, value };
    let number = |id, title, number| fact(id, title, Cell::Number(number));
    let outcome = |outcome: Outcome| calls.outcome(outcome);
    let sums = &events.sums;
    let mut facts = vec![
        fact("from", "Period from", Cell::time(period.from)),
        fact("to", "Period to, exclusive", Cell::time(period.to)),
        fact("firstLine", "First line in it", Cell::time(lines.span.map(|span| span.first))),
        fact("lastLine", "Last line in it", Cell::time(lines.span.map(|span| span.last))),
        number("files", "Files", summary.files),
        number("goodLines", "Lines that are as written", summary.good_lines),
        fact(
            "firstNumber",
            "Number of the first line",
            summary.first_seq.map_or(Cell::None, Cell::Number),
        ),
        number("nextNumber", "Number after the last line", summary.next_seq),
        number("findings", "Findings of tampering", summary.tampered),
        number("linesInPeriod", "Lines in the period", lines.counted),
        number("linesOutside", "Lines outside of it", lines.outside),
        number("linesUnreadable", "Lines of an unknown form", lines.unreadable),
        number("calls", "Calls", calls.calls),
        number("served", "Served", outcome(Outcome::Served)),
        number("refused", "Refused", outcome(Outcome::Refused)),
        number("failed", "Failed", outcome(Outcome::Failed)),
        number("abandoned", "Abandoned", outcome(Outcome::Abandoned)),
    ];
    facts.extend(distinct(&collected.tables));
    facts.extend([
        number("starts", "Starts", sums.starts),
        number("reloads", "Reloads", sums.reloads),
        number("crashes", "Crashes", sums.crashes),
        number("lostLines", "Lines lost", sums.lost_lines),
        number("refusedForWantOfLine", "Calls refused for want of their line", sums.refused_calls),
        number("leftOutUnauthenticatedCalls", "Wrong signatures left out", sums.left_out_calls),
        number("clockSetBack", "Times the clock was set back", sums.clock_steps),
    ]);
    facts
}

/// Returns how many names there are in tables.
fn distinct(tables: &[Rows; TABLES.len()]) -> impl Iterator<Item = Fact> {
    let of_table = [
        ("keys", "externalKeys", "External keys", "External keys, at least"),
        ("principals", "principals", "Principals", "Principals, at least"),
    ];
    of_table.into_iter().filter_map(|(table, id, exact, at_least)| {
        let at = TABLES.iter().position(|definition| definition.id == table)?;
        let Rows { rows, others } = tables.get(at)?;
        let named = rows.iter().filter(|(key, _)| key.iter().any(Option::is_some)).count();
        let title = if others.calls > 0 { at_least } else { exact };
        Some(Fact { id, title, value: Cell::Number(named as u64) })
    })
}

fn findings_sheet(findings: &Findings) -> Sheet {
    let row = |finding: &Finding| {
        vec![
            Cell::text(finding.position.file.display().to_string()),
            Cell::Number(finding.position.line),
            Cell::text(finding.text.clone()),
        ]
    };
    Sheet {
        id: "findings",
        title: "Findings of tampering",
        note: with_omitted(
            "Lines that are missing or are not as the proxy wrote them.",
            findings.omitted,
        ),
        columns: vec![
            Column::new("file", "File", Kind::Text),
            Column::new("lineOfFile", "Line", Kind::Number),
            Column::new("detail", "Finding", Kind::Text),
        ],
        rows: findings.listed.iter().map(row).collect(),
        others: None,
    }
}

fn with_omitted(note: &str, omitted: u64) -> String {
    match omitted {
        0 => note.to_owned(),
        _ => format!("{note} {omitted} more are not listed."),
    }
}

fn events_sheet(id: &'static str, title: &'static str, note: &str, list: EventList) -> Sheet {
    let row = |event: Event| {
        vec![
            Cell::Time(event.micros),
            Cell::Number(event.seq),
            Cell::text(event.kind),
            if event.detail.is_empty() { Cell::None } else { Cell::text(event.detail) },
        ]
    };
    Sheet {
        id,
        title,
        note: with_omitted(note, list.omitted),
        columns: vec![
            Column::new("time", "Time", Kind::Time),
            Column::new("number", "Number", Kind::Number),
            Column::new("kind", "Event", Kind::Text),
            Column::new("detail", "Detail", Kind::Text),
        ],
        rows: list.events.into_iter().map(row).collect(),
        others: None,
    }
}

fn table_sheet(definition: &Definition, rows: Rows, shown_rows: Option<usize>) -> Sheet {
    let Rows { mut rows, mut others } = rows;
    let (total, has_nameless) = (rows.len(), others.calls > 0);
    for (_, counts) in rows.drain(shown_rows.unwrap_or(total).min(total)..) {
        others.add(&counts);
    }
    let mut note = definition.note.to_owned();
    if rows.len() < total {
        let text = format!(
            " The {} rows with most calls, of {}; others has the rest.",
            rows.len(),
            grouped(total as u64)
        );
        note.push_str(&text);
    }
    if has_nameless {
        let text = format!(
            " There are more names than are counted one by one ({}, or {} MiB of them): others has \
             the calls of the rest, and calls not served that a name had before it got its row.",
            grouped(MAX_AUDIT_REPORT_ROWS as u64),
            MAX_AUDIT_REPORT_NAME_BYTES >> 20
        );
        note.push_str(&text);
    }
    let names = definition.names.iter().map(|(id, title)| Column::new(id, title, Kind::Name));
    let columns = names.chain(count_columns(definition.has_uses)).collect();
    let width = definition.names.len();
    let row = |(key, counts): (Key, Counts)| {
        let names = key.into_iter().take(width);
        let names = names.map(|name| name.map_or(Cell::None, Cell::Text));
        names.chain(count_cells(&counts, definition.has_uses)).collect()
    };
    let others = (others.calls > 0).then(|| row((Key::default(), others)));
    let rows = rows.into_iter().map(row).collect();
    Sheet { id: definition.id, title: definition.title, note, columns, rows, others }
}

fn count_columns(has_uses: bool) -> Vec<Column> {
    use Kind::{Number, Time};
    let mut columns = vec![Column::new("calls", "Calls", Number)];
    if has_uses {
        columns.extend([
            Column::new("served", "Served", Number),
            Column::new("refused", "Refused", Number),
            Column::new("failed", "Failed", Number),
            Column::new("abandoned", "Abandoned", Number),
            Column::new("encryptions", "Encryptions", Number),
            Column::new("decryptions", "Decryptions", Number),
            Column::new("firstUse", "First use", Time),
            Column::new("lastUse", "Last use", Time),
            Column::minor("firstCall", "First call", Time),
            Column::minor("lastCall", "Last call", Time),
        ]);
    } else {
        columns.extend([
            Column::new("firstCall", "First call", Time),
            Column::new("lastCall", "Last call", Time),
        ]);
    }
    columns
}

fn count_cells(counts: &Counts, has_uses: bool) -> Vec<Cell> {
    let mut cells = vec![Cell::Number(counts.calls)];
    if has_uses {
        cells.extend(counts.outcomes.map(Cell::Number));
        cells.extend([counts.encryptions, counts.decryptions].map(Cell::Number));
        cells.push(Cell::time(counts.use_span.map(|span| span.first)));
        cells.push(Cell::time(counts.use_span.map(|span| span.last)));
    }
    cells.push(Cell::time(counts.span.map(|span| span.first)));
    cells.push(Cell::time(counts.span.map(|span| span.last)));
    cells
}

fn timeline_sheet(bars: &Bars) -> Sheet {
    let row = |(index, calls): (usize, &[u64; 4])| {
        let begin = bars.begin.saturating_add(bars.width.saturating_mul(index as u64));
        let mut cells = vec![Cell::Time(begin), Cell::Number(calls.iter().sum())];
        cells.extend(calls.map(Cell::Number));
        cells
    };
    Sheet {
        id: "timeline",
        title: "Calls over time",
        note: format!("Calls in intervals of {}.", length(bars.width)),
        columns: vec![
            Column::new("begin", "Begin", Kind::Time),
            Column::new("calls", "Calls", Kind::Number),
            Column::new("served", "Served", Kind::Number),
            Column::new("refused", "Refused", Kind::Number),
            Column::new("failed", "Failed", Kind::Number),
            Column::new("abandoned", "Abandoned", Kind::Number),
        ],
        rows: bars.bars.iter().enumerate().map(row).collect(),
        others: None,
    }
}

//! A report as text, and the form of values for people.

use std::fmt::Write as _;

use super::sheet::{Cell, Column, Kind, Report, Sheet};
use super::time::shown;
use crate::limits::{MAX_AUDIT_REPORT_COLUMN_CHARS, MAX_LOG_STRING_BYTES};
use crate::observe::escape::push_escaped;

/// Name of a row with a sum.
pub(super) const OTHERS: &str = "(others)";
const NOTHING: &str = "-";
const GAP: &str = "  ";
/// Characters that are not truncated when they are escaped, with 12 bytes each at most.
const UNCUT_CHARACTERS: usize = MAX_LOG_STRING_BYTES / 12;

/// Returns the report as text. Figures come before names, which may be long.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::from("Audit report of xks-proxy\n\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", report.verdict.headline());
    for statement in &report.statements {
        let _ = writeln!(out, "{}", printable(statement));
    }
    out.push('\n');
    let facts: Vec<_> = report.facts.iter().map(|fact| (fact.title, value(&fact.value))).collect();
    let titles = facts.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    let values = facts.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    for (title, value) in facts {
        let _ = writeln!(out, "{title:<titles$}{GAP}{value:>values$}");
    }
    for sheet in &report.sheets {
        render_sheet(&mut out, sheet);
    }
    let _ = write!(
        out,
        "\nTimes are UTC. Text is printed as in the log, with \\uXXXX for what is not ASCII.\n"
    );
    out
}

fn render_sheet(out: &mut String, sheet: &Sheet) {
    let _ = write!(out, "\n{}\n{}\n", sheet.title, "-".repeat(sheet.title.len()));
    let _ = writeln!(out, "{}", printable(&sheet.note));
    if sheet.rows.is_empty() && sheet.others.is_none() {
        out.push_str("None.\n");
        return;
    }
    let order = order(&sheet.columns);
    let cells = |row: &Vec<Cell>, is_sum: bool| -> Vec<String> {
        let first_name = order.iter().find(|at| is_name(&sheet.columns, **at));
        let cell = |at: &usize| match is_sum && Some(at) == first_name {
            true => OTHERS.to_owned(),
            false => row.get(*at).map(value).unwrap_or_default(),
        };
        order.iter().map(cell).collect()
    };
    let titles = order.iter().filter_map(|at| sheet.columns.get(*at));
    let mut lines: Vec<Vec<String>> = vec![titles.map(|column| column.title.to_owned()).collect()];
    lines.extend(sheet.rows.iter().map(|row| cells(row, false)));
    lines.extend(sheet.others.iter().map(|row| cells(row, true)));
    let widths: Vec<usize> = (0..order.len()).map(|at| width(&lines, at)).collect();
    for line in &lines {
        let mut text = String::new();
        for ((cell, width), at) in line.iter().zip(&widths).zip(&order) {
            let is_number = sheet.columns.get(*at).is_some_and(|it| it.kind == Kind::Number);
            let _ = match is_number {
                true => write!(text, "{cell:>width$}{GAP}"),
                false => write!(text, "{cell:<width$}{GAP}"),
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

/// Returns the width of a column. A longer name, which a caller can choose, displaces the rest of its
/// own line alone.
fn width(lines: &[Vec<String>], at: usize) -> usize {
    let lengths = lines.iter().filter_map(|line| line.get(at)).map(String::len);
    lengths.filter(|length| *length <= MAX_AUDIT_REPORT_COLUMN_CHARS).max().unwrap_or(0)
}

fn is_name(columns: &[Column], at: usize) -> bool {
    columns.get(at).is_some_and(|column| column.kind == Kind::Name)
}

/// Returns the indices of the columns for people: figures, then text.
fn order(columns: &[Column]) -> Vec<usize> {
    let shown = (0..columns.len()).filter(|at| columns.get(*at).is_some_and(|it| !it.is_minor));
    let (figures, text): (Vec<_>, Vec<_>) = shown.partition(|at| {
        columns.get(*at).is_some_and(|it| matches!(it.kind, Kind::Number | Kind::Time))
    });
    [figures, text].concat()
}

/// Returns a value for people: printable ASCII on one line.
pub(super) fn value(cell: &Cell) -> String {
    match cell {
        Cell::None => NOTHING.to_owned(),
        // A name that a caller chose to look like one of these is neither nothing nor a sum.
        Cell::Text(text) if matches!(&**text, "" | NOTHING | OTHERS) => format!("\"{text}\""),
        Cell::Text(text) => printable(text),
        Cell::Number(number) => grouped(*number),
        Cell::Time(micros) => shown(*micros),
    }
}

/// Returns text as the log has it: no control characters, nothing that changes the direction of
/// writing, and nothing that looks like another letter.
pub(super) fn printable(text: &str) -> String {
    let mut out = Vec::new();
    push_escaped(&mut out, text);
    // A quote needs no escape here.
    String::from_utf8_lossy(&out).replace("\\\"", "\"")
}

/// Returns text as the log has it, as [`printable`] does, but whole, however long it is.
pub(super) fn printable_whole(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, _)) = rest.char_indices().nth(UNCUT_CHARACTERS) {
        let (part, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(&printable(part));
        rest = after;
    }
    out.push_str(&printable(rest));
    out
}

/// Returns a number with commas: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    /// A caller chooses its name, and with it no more than the length of its own line.
    #[test]
    fn long_names() {
        let columns = vec![
            Column::new("principal", "Principal", Kind::Name),
            Column::new("key", "External key", Kind::Name),
        ];
        let long = "x".repeat(MAX_AUDIT_REPORT_COLUMN_CHARS + 1);
        let names = ["Alice", long.as_str()];
        let rows = names.map(|name| vec![Cell::text(name), Cell::text("foo")]).to_vec();
        let (note, others) = (String::new(), None);
        let sheet = Sheet { id: "access", title: "Access", note, columns, rows, others };
        let mut out = String::new();
        render_sheet(&mut out, &sheet);
        let lines: Vec<_> = out.lines().rev().take(3).collect();
        assert_eq!(lines, [&format!("{long}  foo"), "Alice      foo", "Principal  External key"]);
    }

    /// Whatever a caller has sent, a terminal shows text.
    #[test]
    fn hostile_text() {
        assert_eq!(printable("a\u{1b}[2J\n\u{202e}\"b\""), "a\\u001b[2J\\n\\u202e\"b\"");
        let long = "\u{1f600}".repeat(9_999);
        assert_eq!(printable_whole(&long), "\\ud83d\\ude00".repeat(9_999));
    }

    /// Neither nothing nor the sum of others can be imitated by a name.
    #[test]
    fn names_like_ours() {
        for name in ["", "-", "(others)"] {
            assert_eq!(value(&Cell::text(name)), format!("\"{name}\""));
        }
        assert_eq!(value(&Cell::None), "-");
    }
}

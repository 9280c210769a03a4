//! A report as CSV (RFC 4180): one table for all, whose first column names the part of the report.

use std::io::{self, Write};

use super::sheet::{Cell, Report};
use super::text::printable_whole;

/// Columns that all lines have in common.
const SECTION: &str = "section";
const KIND: &str = "row";

/// Writes the report as CSV.
///
/// The columns are those of all parts; a line leaves those of other parts empty. `row` is `row`, or
/// `others` for a sum.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut columns = vec!["item", "value"];
    for sheet in &report.sheets {
        for column in &sheet.columns {
            if !columns.contains(&column.id) {
                columns.push(column.id);
            }
        }
    }
    line(out, [SECTION, KIND].into_iter().chain(columns.iter().copied()).map(Some))?;
    let mut pair = |item: &str, value: &Cell| {
        let value = guarded(value);
        let blank = columns.iter().skip(2).map(|_| None);
        let cells = [Some("summary"), Some("row"), Some(item), value.as_deref()];
        line(out, cells.into_iter().chain(blank))
    };
    pair("verdict", &Cell::text(report.verdict.id()))?;
    for statement in &report.statements {
        pair("statement", &Cell::text(statement.as_str()))?;
    }
    for fact in &report.facts {
        pair(fact.id, &fact.value)?;
    }
    for sheet in &report.sheets {
        let kinds = sheet.rows.iter().map(|row| ("row", row));
        for (kind, row) in kinds.chain(sheet.others.iter().map(|row| ("others", row))) {
            let cells: Vec<Option<String>> = columns
                .iter()
                .map(|id| {
                    let at = sheet.columns.iter().position(|column| column.id == *id)?;
                    guarded(row.get(at)?)
                })
                .collect();
            let cells = cells.iter().map(Option::as_deref);
            line(out, [Some(sheet.id), Some(kind)].into_iter().chain(cells))?;
        }
    }
    Ok(())
}

/// Returns the value in a form that no spreadsheet takes for a formula. Text is printable ASCII, as in
/// the log. Numbers and times are the report's own.
fn guarded(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Text(text) => Some(without_formulas(&printable_whole(text))),
        other => other.exact(),
    }
}

/// Puts an apostrophe before each character that would begin a formula: the first one, and those after
/// a semicolon, which separates cells where the comma is the decimal separator, whatever the quotes.
fn without_formulas(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_begin = true;
    for character in text.chars() {
        if is_begin && matches!(character, '=' | '+' | '-' | '@') {
            out.push('\'');
        }
        out.push(character);
        is_begin = character == ';' || is_begin && matches!(character, ' ' | '"');
    }
    out
}

fn line<'c>(out: &mut dyn Write, cells: impl Iterator<Item = Option<&'c str>>) -> io::Result<()> {
    let mut separator = "";
    for cell in cells {
        let cell = cell.unwrap_or_default();
        out.write_all(separator.as_bytes())?;
        if cell.contains(['"', ',', ';', '\'']) {
            write!(out, "\"{}\"", cell.replace('"', "\"\""))?;
        } else {
            out.write_all(cell.as_bytes())?;
        }
        separator = ",";
    }
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that begins a cell, in whichever country, begins a formula.
    #[test]
    fn formulas() {
        for (text, safe) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("a=b-c", "a=b-c"),
            ("x;=cmd|' /C calc'!A0", "x;'=cmd|' /C calc'!A0"),
            ("x;\"=1\"", "x;\"'=1\""),
            (" =1", " '=1"),
            ("\t=1", "\\t=1"),
            ("\r\n=1", "\\r\\n=1"),
            ("\u{ff1d}1", "\\uff1d1"),
            ("\u{1b}[2J", "\\u001b[2J"),
        ] {
            assert_eq!(guarded(&Cell::text(text)).as_deref(), Some(safe));
        }
        assert_eq!(guarded(&Cell::Number(7)).as_deref(), Some("7"));
    }
}

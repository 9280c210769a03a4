//! A report as CSV (RFC 4180): one table for all, whose first column names the part of the report.

use super::sheet::{Cell, Report};

/// Columns that all lines have in common.
const SECTION: &str = "section";
const KIND: &str = "row";

/// Returns the report as CSV.
///
/// The columns are those of all parts; a line leaves those of other parts empty. `row` is `row`, or
/// `others` for a sum.
pub(super) fn render(report: &Report) -> String {
    let mut columns = vec!["item", "value"];
    for sheet in &report.sheets {
        for column in &sheet.columns {
            if !columns.contains(&column.id) {
                columns.push(column.id);
            }
        }
    }
    let mut out = String::new();
    line(&mut out, [SECTION, KIND].into_iter().chain(columns.iter().copied()).map(Some));
    let mut pair = |item: &str, value: &Cell| {
        let value = value.exact().map(|text| guarded(value, text));
        let blank = columns.iter().skip(2).map(|_| None);
        let cells = [Some("summary"), Some("row"), Some(item), value.as_deref()];
        line(&mut out, cells.into_iter().chain(blank));
    };
    pair("verdict", &Cell::text(report.verdict.id()));
    for statement in &report.statements {
        pair("statement", &Cell::text(statement));
    }
    for fact in &report.facts {
        pair(fact.id, &fact.value);
    }
    for sheet in &report.sheets {
        let kinds = sheet.rows.iter().map(|row| ("row", row));
        for (kind, row) in kinds.chain(sheet.others.iter().map(|row| ("others", row))) {
            let cells: Vec<Option<String>> = columns
                .iter()
                .map(|id| {
                    let at = sheet.columns.iter().position(|column| column.id == *id)?;
                    let cell = row.get(at)?;
                    cell.exact().map(|text| guarded(cell, text))
                })
                .collect();
            let cells = cells.iter().map(Option::as_deref);
            line(&mut out, [Some(sheet.id), Some(kind)].into_iter().chain(cells));
        }
    }
    out
}

/// Returns a text that no spreadsheet takes for a formula: an apostrophe goes before the characters
/// that begin one. Numbers and times are the report's own.
fn guarded(cell: &Cell, text: String) -> String {
    let begins_formula = text.starts_with([
        '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ]);
    match cell {
        Cell::Text(_) if begins_formula => format!("'{text}"),
        _ => text,
    }
}

fn line<'c>(out: &mut String, cells: impl Iterator<Item = Option<&'c str>>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.push(',');
        }
        let cell = cell.unwrap_or_default();
        if cell.contains(['"', ',', '\n', '\r', ';', '\t', '\'']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}

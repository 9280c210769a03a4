//! A report as JSON. Members may be added, but none is removed or changes its meaning while the
//! version stays the same.

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::sheet::{Cell, Fact, Report, Sheet};
use crate::exit::{EXIT_SOFTWARE, Failed};

const FORMAT: &str = "xks-proxy audit report";
const VERSION: u32 = 1;

/// Returns the report as JSON, in the order of the other formats.
///
/// # Errors
/// Never in practice: all names are valid texts.
pub(super) fn render(report: &Report) -> Result<String, Failed> {
    let mut text = serde_json::to_string_pretty(&Document(report))
        .map_err(|error| Failed::new(EXIT_SOFTWARE, error.to_string()))?;
    text.push('\n');
    Ok(text)
}

struct Document<'r>(&'r Report);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Report { verdict, statements, facts, sheets, week } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("format", FORMAT)?;
        map.serialize_entry("version", &VERSION)?;
        map.serialize_entry("verdict", verdict.id())?;
        map.serialize_entry("statements", statements)?;
        map.serialize_entry("summary", &Facts(facts))?;
        for sheet in sheets {
            map.serialize_entry(sheet.id, &Table(sheet))?;
        }
        map.serialize_entry("callsByHourOfWeek", week)?;
        map.end()
    }
}

struct Facts<'r>(&'r [Fact]);

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|fact| (fact.id, &fact.value)))
    }
}

struct Table<'r>(&'r Sheet);

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sheet = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("note", &sheet.note)?;
        map.serialize_entry("rows", &Rows(sheet))?;
        map.serialize_entry("others", &sheet.others.as_ref().map(|row| Row(sheet, row)))?;
        map.end()
    }
}

struct Rows<'r>(&'r Sheet);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.0.rows.len()))?;
        for row in &self.0.rows {
            rows.serialize_element(&Row(self.0, row))?;
        }
        rows.end()
    }
}

struct Row<'r>(&'r Sheet, &'r [Cell]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.columns.iter().map(|column| column.id).zip(self.1))
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number),
            other => other.exact().serialize(serializer),
        }
    }
}

//! A report as JSON. Members may be added, but none is removed or changes its meaning while the
//! version stays the same.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::sheet::{Cell, Fact, Report, Sheet};

const FORMAT: &str = "xks-proxy audit report";
const VERSION: u32 = 1;

/// Writes the report as JSON, in the order of the other formats.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(Ascii(&mut *out), &Document(report))?;
    out.write_all(b"\n")
}

/// Writes the same JSON in printable ASCII, for terminals: other characters occur in strings alone.
struct Ascii<'w>(&'w mut dyn Write);

impl Write for Ascii<'_> {
    /// Takes whole characters, as serde writes them.
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
        if json.iter().all(is_plain) {
            self.0.write_all(json)?;
            return Ok(json.len());
        }
        let text = str::from_utf8(json)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        for character in text.chars() {
            if matches!(character, ' '..='~' | '\n') {
                write!(self.0, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(self.0, "\\u{unit:04x}")?;
            }
        }
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The values stay the same, and a terminal shows text.
    #[test]
    fn in_ascii() {
        let text = "\u{1f600} \u{e9} \u{9b}31m \u{7f} \u{202e} \u{1b}[2J \"\\u0041";
        let mut out = Vec::new();
        serde_json::to_writer(Ascii(&mut out), text).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{out}");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}

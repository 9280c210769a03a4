//! Tables as they are shown, whatever the format.

use std::sync::Arc;

use super::time::exact;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// There is none.
    None,
    Text(Arc<str>),
    Number(u64),
    /// Microseconds since 1970.
    Time(u64),
}

impl Cell {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn time(micros: Option<u64>) -> Self {
        micros.map_or(Self::None, Self::Time)
    }

    /// Returns the value for programs; `None` if there is none.
    pub(super) fn exact(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Text(text) => Some(text.to_string()),
            Self::Number(number) => Some(number.to_string()),
            Self::Time(micros) => Some(exact(*micros)),
        }
    }
}

/// The kind of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text that identifies the row.
    Name,
    /// Other text.
    Text,
    Number,
    Time,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Name in CSV and JSON.
    pub(super) id: &'static str,
    /// Name for people.
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    /// True if only programs get it.
    pub(super) is_minor: bool,
}

impl Column {
    pub(super) const fn new(id: &'static str, title: &'static str, kind: Kind) -> Self {
        Self { id, title, kind, is_minor: false }
    }

    pub(super) const fn minor(id: &'static str, title: &'static str, kind: Kind) -> Self {
        Self { id, title, kind, is_minor: true }
    }
}

/// A table.
pub(super) struct Sheet {
    /// Name in CSV and JSON.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Explanation for people.
    pub(super) note: String,
    pub(super) columns: Vec<Column>,
    /// As many cells in each as there are columns.
    pub(super) rows: Vec<Vec<Cell>>,
    /// The sum of the rows that are not shown; its names are [`Cell::None`].
    pub(super) others: Option<Vec<Cell>>,
}

/// The verdict on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Tampered,
    Unverified,
}

impl Verdict {
    /// Returns the word in CSV and JSON.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Tampered => "tampered",
            Self::Unverified => "unverified",
        }
    }

    /// Returns the report's first sentence.
    pub(super) fn headline(self) -> &'static str {
        match self {
            Self::Good => "The log is what the proxy wrote.",
            Self::Tampered => "TAMPERED: the log is not what the proxy wrote.",
            Self::Unverified => "NOT VERIFIED: the HSM does not vouch for the log.",
        }
    }
}

/// A statement about the whole log.
pub(super) struct Fact {
    /// Name in CSV and JSON.
    pub(super) id: &'static str,
    /// Name for people.
    pub(super) title: &'static str,
    pub(super) value: Cell,
}

/// A finished report.
pub(super) struct Report {
    pub(super) verdict: Verdict,
    /// The facts about the verification, one sentence each.
    pub(super) statements: Vec<String>,
    pub(super) facts: Vec<Fact>,
    pub(super) sheets: Vec<Sheet>,
    /// Calls by day of the week, from Monday on, and hour.
    pub(super) week: [[u64; 24]; 7],
}

impl Report {
    pub(super) fn sheet(&self, id: &str) -> Option<&Sheet> {
        self.sheets.iter().find(|sheet| sheet.id == id)
    }

    pub(super) fn fact(&self, id: &str) -> Option<&Cell> {
        self.facts.iter().find(|fact| fact.id == id).map(|fact| &fact.value)
    }
}

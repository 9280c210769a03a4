//! The description of a section and its members.

use std::fmt;

/// A section of the settings file.
#[derive(Clone, Copy, Debug)]
pub struct SectionSchema {
    /// The section's name, preceded by those of the sections above it, for instance
    /// `server.tcp_keepalive`.
    pub path: &'static str,
    /// True if the section may be repeated, as `[[path]]`.
    pub is_list: bool,
    /// Purpose of the section, and the consequence of omitting it.
    pub meaning: &'static str,
    /// Its members, without the sections below it.
    pub members: &'static [MemberSchema],
}

/// A member of a section.
#[derive(Clone, Copy, Debug)]
pub struct MemberSchema {
    /// Its name in the file.
    pub name: &'static str,
    /// The values that it accepts.
    pub form: Form,
    /// The default.
    pub absent: Absent,
    /// Its purpose, in one or two sentences of Markdown.
    pub meaning: &'static str,
}

/// The values that a member accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`
    Boolean,
    /// A whole number.
    Integer {
        /// The smallest number allowed.
        low: u64,
        /// The largest number allowed.
        high: u64,
        /// The unit, in the plural; empty for a bare number.
        unit: &'static str,
    },
    /// Text in quotes.
    Text,
    /// One of a few words, in quotes.
    OneOf(&'static [&'static str]),
    /// The path of a file or directory, in quotes.
    Path,
    /// A list of texts.
    List,
    /// A date, without quotes.
    Date,
    /// Accepted for files of the sample proxy, and ignored.
    Ignored,
}

/// The default of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The file is refused.
    Required,
    /// Nothing is configured.
    None,
    /// This boolean.
    Boolean(bool),
    /// This number.
    Integer(u64),
    /// This text.
    Text(&'static str),
    /// A default described in Markdown.
    Described(&'static str),
}

impl Form {
    /// Returns the bounds and the unit, or the allowed words; empty for other forms.
    #[must_use]
    pub fn range(&self) -> String {
        match self {
            Self::Integer { low, high, unit: "" } => format!("{low} to {high}"),
            Self::Integer { low, high, unit } => format!("{low} to {high} {unit}"),
            Self::OneOf(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                quoted.join(", ")
            }
            _ => String::new(),
        }
    }
}

/// Shows the type, as in the page of all settings.
impl fmt::Display for Form {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Boolean => "boolean",
            Self::Integer { .. } => "integer",
            Self::Text => "string",
            Self::OneOf(_) => "word",
            Self::Path => "path",
            Self::List => "list of strings",
            Self::Date => "date",
            Self::Ignored => "ignored",
        })
    }
}

/// Shows the default, in Markdown.
impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => formatter.write_str("required"),
            Self::None => formatter.write_str("none"),
            Self::Boolean(value) => write!(formatter, "`{value}`"),
            Self::Integer(value) => write!(formatter, "`{value}`"),
            Self::Text(value) => write!(formatter, "`\"{value}\"`"),
            Self::Described(text) => formatter.write_str(text),
        }
    }
}

/// Describes a member that must be present.
pub(super) const fn required(
    name: &'static str,
    form: Form,
    meaning: &'static str,
) -> MemberSchema {
    MemberSchema { name, form, absent: Absent::Required, meaning }
}

/// Describes a member that may be missing.
pub(super) const fn optional(
    name: &'static str,
    form: Form,
    absent: Absent,
    meaning: &'static str,
) -> MemberSchema {
    MemberSchema { name, form, absent, meaning }
}

/// Describes a switch that is off if it is missing.
pub(super) const fn switch(name: &'static str, meaning: &'static str) -> MemberSchema {
    MemberSchema { name, form: Form::Boolean, absent: Absent::Boolean(false), meaning }
}

/// Describes a member that is accepted for files of the sample proxy.
pub(super) const fn ignored(name: &'static str, meaning: &'static str) -> MemberSchema {
    MemberSchema { name, form: Form::Ignored, absent: Absent::None, meaning }
}

/// Describes whole numbers from `low` to `high`.
pub(super) const fn integer(low: u64, high: u64, unit: &'static str) -> Form {
    Form::Integer { low, high, unit }
}

//! Sections and members of the file. Each accessor that finds a mistake reports it and returns
//! `None`.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroize as _;

use super::report::{Location, Report};
use super::unknown::{self, nearest};
pub(super) use crate::observe::redaction::{shown, shown_path};
use crate::observe::timestamp::{civil_from_days, days_from_civil};

/// A section that is present in the file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    /// The section's path in the schema.
    name: &'static str,
    /// The path in findings: `server`, `external_key_stores[1]`.
    path: String,
    offset: usize,
    table: &'a DeTable<'a>,
    report: &'a Report<'a>,
}

/// A member that is present in the file.
#[derive(Clone)]
pub(super) struct Member<'a> {
    location: Location,
    value: &'a DeValue<'a>,
    report: &'a Report<'a>,
}

impl<'a> Section<'a> {
    /// Returns the file itself as a section.
    pub(super) fn root(table: &'a DeTable<'a>, report: &'a Report<'a>) -> Self {
        Self { name: "", path: String::new(), offset: 0, table, report }.checked()
    }

    fn checked(self) -> Self {
        unknown::report_unknown(self.name, &self.path, self.table, self.report);
        self
    }

    pub(super) fn report(&self) -> &'a Report<'a> {
        self.report
    }

    /// Returns the location of the section's heading.
    pub(super) fn location(&self) -> Location {
        let offset = (!self.path.is_empty()).then_some(self.offset);
        Location { member: self.path.clone(), offset }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Returns the member's location, or that of the section's heading if the member is missing.
    pub(super) fn location_of(&self, name: &str) -> Location {
        let offset = match self.table.get_key_value(name) {
            Some((key, _)) => Some(key.span().start),
            None => self.location().offset,
        };
        Location { member: self.path_of(name), offset }
    }

    pub(super) fn get(&self, name: &str) -> Option<Member<'a>> {
        let value = self.table.get(name)?;
        Some(Member {
            location: self.location_of(name),
            value: value.get_ref(),
            report: self.report,
        })
    }

    /// Returns a member of the section `[name]`, without reporting that section's unknown members.
    pub(super) fn member_of(&self, name: &str, member: &str) -> Option<Member<'a>> {
        let table = self.table.get(name)?.get_ref().as_table()?;
        let (key, value) = table.get_key_value(member)?;
        let location =
            Location { member: format!("{name}.{member}"), offset: Some(key.span().start) };
        Some(Member { location, value: value.get_ref(), report: self.report })
    }

    /// Returns a member, or reports that it is missing.
    pub(super) fn require(&self, name: &str, remedy: &str) -> Option<Member<'a>> {
        let member = self.get(name);
        if member.is_none() {
            self.report.mistake(&self.location_of(name), "it is missing", remedy);
        }
        member
    }

    /// Reads a member; returns `default` if it is missing.
    pub(super) fn value_or<T>(
        &self,
        name: &str,
        default: T,
        read: impl FnOnce(&Member<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.get(name) {
            Some(member) => read(&member),
            None => Some(default),
        }
    }

    /// Reads a member; returns `Some(None)` if it is missing.
    pub(super) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Member<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.value_or(name, None, |member| read(member).map(Some))
    }

    /// Reads a member that may be missing unless `is_required`; returns `Some(None)` if it is
    /// missing.
    pub(super) fn required_if<T>(
        &self,
        is_required: bool,
        name: &str,
        remedy: &str,
        read: impl FnOnce(&Member<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        if is_required {
            return self.require(name, remedy).and_then(|member| read(&member)).map(Some);
        }
        self.optional(name, read)
    }

    /// Reads an integer, as [`Member::integer`] does; returns `default` if it is missing.
    pub(super) fn integer_or<T: TryFrom<u64>>(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
        what: &str,
        default: T,
    ) -> Option<T> {
        self.value_or(name, default, |member| member.integer(range, what))
    }

    /// Reads one of a few allowed words, in any case; returns `default` if it is missing.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> Option<T> {
        let Some(member) = self.get(name) else {
            return Some(default);
        };
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let remedy = format!("write one of {} in quotes", names.join(", "));
        let text = member.string(&remedy)?;
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        if found.is_none() {
            let remedy = match nearest(text, names.iter().copied()) {
                // The nearest word may mean another thing: the list is short enough to be told too.
                Some(nearest) => format!("did you mean {nearest}? Or {remedy}"),
                None => remedy,
            };
            member.mistake(format!("\"{}\" is not a valid value", shown(text)), remedy);
        }
        found.map(|(_, value)| *value)
    }

    /// Reads a boolean that defaults to false.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.value_or(name, false, Member::bool)
    }

    /// Returns the section `[name]` directly below this one; `path` is its whole path.
    pub(super) fn section(&self, path: &'static str) -> Option<Section<'a>> {
        let name = path.rsplit('.').next().unwrap_or(path);
        let value = self.table.get(name)?;
        let DeValue::Table(table) = value.get_ref() else {
            let (problem, remedy) = match value.get_ref() {
                DeValue::Array(_) => (
                    "it is a list, but only one is allowed".to_owned(),
                    format!("write [{path}], in single brackets, once"),
                ),
                other => (
                    format!("it is {}, not a section", kind(other)),
                    format!("write [{path}] on its own line, followed by its members"),
                ),
            };
            self.report.mistake(&self.location_of(name), problem, remedy);
            return None;
        };
        let section = Section {
            name: path,
            path: path.to_owned(),
            offset: value.span().start,
            table,
            report: self.report,
        };
        Some(section.checked())
    }

    /// Returns a section, or reports that it is missing.
    pub(super) fn require_section(&self, path: &'static str, remedy: &str) -> Option<Section<'a>> {
        let name = path.rsplit('.').next().unwrap_or(path);
        if !self.table.contains_key(name) {
            let location = Location { member: self.path_of(name), offset: None };
            self.report.mistake(&location, format!("the section [{path}] is missing"), remedy);
        }
        self.section(path)
    }

    /// Returns a section below this one, if there is one. Reports nothing.
    pub(super) fn peek(&self, name: &str) -> Option<Section<'a>> {
        let value = self.table.get(name)?;
        self.below(value)
    }

    /// Returns the list of sections below this one, if there is one. Reports nothing.
    pub(super) fn peek_all(&self, name: &str) -> Option<Vec<Section<'a>>> {
        let DeValue::Array(array) = self.table.get(name)?.get_ref() else { return None };
        array.iter().map(|item| self.below(item)).collect()
    }

    fn below(&self, value: &'a Spanned<DeValue<'a>>) -> Option<Section<'a>> {
        let DeValue::Table(table) = value.get_ref() else { return None };
        let (path, offset) = (String::new(), value.span().start);
        Some(Section { name: "", path, offset, table, report: self.report })
    }

    /// Returns the sections `[[path]]`, or reports a value of another form as a mistake.
    pub(super) fn sections(&self, path: &'static str) -> Option<Vec<Section<'a>>> {
        let name = path.rsplit('.').next().unwrap_or(path);
        let value = self.table.get(name)?;
        let remedy = || format!("write [[{path}]], in double brackets, before the members of each");
        let DeValue::Array(array) = value.get_ref() else {
            let problem = match value.get_ref() {
                DeValue::Table(_) => "it is a single section, not a list of sections".to_owned(),
                other => format!("it is {}, not a list of sections", kind(other)),
            };
            self.report.mistake(&self.location_of(name), problem, remedy());
            return None;
        };
        let sections = array.iter().enumerate().filter_map(|(index, item)| {
            // The path includes the indices of the enclosing lists.
            let location = format!("{}[{index}]", self.path_of(name));
            let offset = item.span().start;
            let DeValue::Table(table) = item.get_ref() else {
                let problem = format!("it is {}, not a section", kind(item.get_ref()));
                let location = Location { member: location, offset: Some(offset) };
                self.report.mistake(&location, problem, remedy());
                return None;
            };
            let section =
                Section { name: path, path: location, offset, table, report: self.report };
            Some(section.checked())
        });
        Some(sections.collect())
    }
}

impl<'a> Member<'a> {
    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    pub(super) fn report(&self) -> &'a Report<'a> {
        self.report
    }

    pub(super) fn mistake(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.report.mistake(&self.location, problem, remedy);
    }

    pub(super) fn warning(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.report.warning(&self.location, problem, remedy);
    }

    /// Returns the string. Messages never show the value.
    pub(super) fn string(&self, remedy: &str) -> Option<&'a str> {
        let string = self.value.as_str();
        if string.is_none() {
            self.mistake(format!("it is {}, not a string", kind(self.value)), remedy);
        }
        string
    }

    pub(super) fn bool(&self) -> Option<bool> {
        let bool = self.value.as_bool();
        if bool.is_none() {
            let problem = format!("it is {}, not a boolean", kind(self.value));
            self.mistake(problem, "write true or false, without quotes");
        }
        bool
    }

    /// Returns the integer if it is within `range`. `what` describes it in the message, with
    /// article and unit.
    pub(super) fn integer<T>(&self, range: RangeInclusive<u64>, what: &str) -> Option<T>
    where
        T: TryFrom<u64>,
    {
        let (low, high) = (range.start(), range.end());
        let remedy = format!("write {what} from {low} to {high}, without quotes");
        let Some(integer) = self.value.as_integer() else {
            self.mistake(format!("it is {}, not a whole number", kind(self.value)), remedy);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.mistake(format!("{} is out of range", shown(&integer.to_string())), remedy);
        }
        number.and_then(|number| T::try_from(number).ok())
    }

    /// Returns the beginning of the day (UTC) in seconds since 1970.
    pub(super) fn date(&self) -> Option<u64> {
        let remedy = "write a day without a time and without quotes, such as 2026-11-25";
        let Some(datetime) = self.value.as_datetime() else {
            self.mistake(format!("it is {}, not a date", kind(self.value)), remedy);
            return None;
        };
        let day = match (&datetime.date, &datetime.time, &datetime.offset) {
            (Some(date), None, None) => {
                let date = (i64::from(date.year), u32::from(date.month), u32::from(date.day));
                let days = days_from_civil(date.0, date.1, date.2);
                // A date that is not in the calendar converts back to a different one.
                (civil_from_days(days) == date).then_some(days)
            }
            _ => None,
        };
        let unix_secs = day.and_then(|days| u64::try_from(days * 86_400).ok());
        if unix_secs.is_none() {
            self.mistake(format!("{datetime} is not a day after 1969"), remedy);
        }
        unix_secs
    }

    /// Returns the strings of a list, each with its location.
    pub(super) fn strings(&self, remedy: &str) -> Option<Vec<(Location, &'a str)>> {
        let DeValue::Array(array) = self.value else {
            self.mistake(format!("it is {}, not a list", kind(self.value)), remedy);
            return None;
        };
        let mut strings = Vec::with_capacity(array.len());
        let mut is_right = true;
        for (index, item) in array.iter().enumerate() {
            let offset = Some(item.span().start);
            let location =
                Location { member: format!("{}[{index}]", self.location.member), offset };
            match item.get_ref() {
                DeValue::String(string) => strings.push((location, &**string)),
                other => {
                    let problem = format!("it is {}, not a string", kind(other));
                    self.report.mistake(&location, problem, remedy);
                    is_right = false;
                }
            }
        }
        is_right.then_some(strings)
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Zeroes the strings with escapes, which the parser copied from the text.
pub(super) fn wipe(table: &mut DeTable<'_>) {
    for (_, value) in table.iter_mut() {
        wipe_value(value);
    }
}

fn wipe_value(value: &mut Spanned<DeValue<'_>>) {
    match value.get_mut() {
        DeValue::String(Cow::Owned(string)) => string.zeroize(),
        DeValue::Array(array) => array.iter_mut().for_each(wipe_value),
        DeValue::Table(table) => wipe(table),
        _ => {}
    }
}

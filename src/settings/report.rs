//! Findings about a settings file: mistakes, warnings and notices, each with its location.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// The severity of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The proxy does not start with this file.
    Mistake,
    /// The proxy starts, but something is probably not as intended.
    Warning,
    /// The proxy starts and logs the finding.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mistake => "mistake",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

/// A mistake, a warning or a notice. Its texts never show a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// The file that contains it.
    pub file: PathBuf,
    /// Line and column from 1, the column in characters. `None` for the file as a whole.
    pub position: Option<(usize, usize)>,
    /// Dotted path, for instance `server.port` or `external_key_stores[1].xks_key_id_set`; stores
    /// are counted from 0. Empty if the finding does not concern a member.
    pub member: String,
    /// Description of the problem.
    pub problem: String,
    /// The way to fix it.
    pub remedy: String,
}

impl Finding {
    /// Returns a mistake about the file as a whole.
    pub(super) fn of_file(file: &Path, problem: String, remedy: String) -> Self {
        let severity = Severity::Mistake;
        let (file, position, member) = (file.to_owned(), None, String::new());
        Self { severity, file, position, member, problem, remedy }
    }
}

impl fmt::Display for Finding {
    /// Writes `FILE:LINE:COLUMN: SEVERITY: MEMBER: PROBLEM; REMEDY`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(formatter, ":{line}:{column}")?;
        }
        write!(formatter, ": {}: ", self.severity)?;
        if !self.member.is_empty() {
            write!(formatter, "{}: ", self.member)?;
        }
        formatter.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(formatter, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The location of a finding: the member, and its offset in the text.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) member: String,
    pub(super) offset: Option<usize>,
}

/// A collection of findings about one file.
pub(super) struct Report<'t> {
    file: &'t Path,
    text: &'t str,
    /// Offset at which each line begins.
    lines: Vec<usize>,
    is_strict: bool,
    /// `[security] strict_file_permissions`
    is_strict_about_files: Cell<bool>,
    /// Files that were read, the settings file first.
    files: RefCell<Vec<PathBuf>>,
    /// Directories that have been reported.
    directories: RefCell<BTreeSet<PathBuf>>,
    findings: RefCell<Vec<Finding>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str, is_strict: bool) -> Self {
        let line_ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(line_ends.map(|(at, _)| at + 1)).collect();
        Self {
            file,
            text,
            lines,
            is_strict,
            is_strict_about_files: Cell::new(false),
            files: RefCell::new(vec![file.to_owned()]),
            directories: RefCell::default(),
            findings: RefCell::default(),
        }
    }

    pub(super) fn set_strict_about_files(&self, is_strict: bool) {
        self.is_strict_about_files.set(is_strict);
    }

    /// Records a file that the settings name and that has been read.
    pub(super) fn add_file(&self, file: &Path) {
        self.files.borrow_mut().push(file.to_owned());
    }

    /// Returns all files that have been read so far.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// Records a directory that is to be reported; returns false if it has been before.
    pub(super) fn is_new_directory(&self, directory: &Path) -> bool {
        self.directories.borrow_mut().insert(directory.to_owned())
    }

    /// Reports a file with a secret that other users can access: a warning, or a mistake with
    /// `strict_file_permissions`.
    pub(super) fn exposed(&self, location: &Location, problem: String, remedy: String) {
        let is_strict = self.is_strict_about_files.get();
        let severity = if is_strict { Severity::Mistake } else { Severity::Warning };
        self.add(severity, location, problem, remedy);
    }

    pub(super) fn mistake(
        &self,
        location: &Location,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Mistake, location, problem.into(), remedy.into());
    }

    pub(super) fn warning(
        &self,
        location: &Location,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, location, problem.into(), remedy.into());
    }

    pub(super) fn notice(
        &self,
        location: &Location,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Notice, location, problem.into(), remedy.into());
    }

    /// Reports an unknown member: a warning, or a mistake if the check is strict.
    pub(super) fn unknown(&self, location: &Location, problem: String, remedy: String) {
        let severity = if self.is_strict { Severity::Mistake } else { Severity::Warning };
        self.add(severity, location, problem, remedy);
    }

    /// Reports a finding in another file that the settings name.
    pub(super) fn elsewhere(
        &self,
        severity: Severity,
        file: &Path,
        position: Option<(usize, usize)>,
        problem: String,
        remedy: String,
    ) {
        let (file, member) = (file.to_owned(), String::new());
        let finding = Finding { severity, file, position, member, problem, remedy };
        self.findings.borrow_mut().push(finding);
    }

    fn add(&self, severity: Severity, location: &Location, problem: String, remedy: String) {
        self.findings.borrow_mut().push(Finding {
            severity,
            file: self.file.to_owned(),
            position: location.offset.map(|offset| self.position(offset)),
            member: location.member.clone(),
            problem,
            remedy,
        });
    }

    /// Returns the line and column, from 1, of a byte of the text.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        let is_first_of_char = |byte: &&u8| (**byte & 0xc0) != 0x80;
        (line, 1 + before.iter().filter(is_first_of_char).count())
    }

    /// Returns the character at a byte of the text.
    pub(super) fn character(&self, offset: usize) -> Option<char> {
        self.text.get(offset..)?.chars().next()
    }

    pub(super) fn has_mistakes(&self) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Mistake)
    }

    /// Returns the findings in the order of the file, beginning with those about the file as a
    /// whole; those about other files follow.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings.into_inner();
        findings
            .sort_by_key(|finding| (finding.file != self.file, finding.position, finding.severity));
        findings
    }
}

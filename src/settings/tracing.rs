//! `[tracing]`

use std::path::PathBuf;

use super::section::{Member, Section, shown};
use super::unknown::nearest;
use crate::observe::log::{JournalForm, LogConfig, LogFile, LogFormat, Rotation};

const DEFAULT_LEVEL: tracing::Level = tracing::Level::INFO;
const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
const ROTATIONS: [(&str, Rotation); 4] = [
    ("MINUTELY", Rotation::Minutely),
    ("HOURLY", Rotation::Hourly),
    ("DAILY", Rotation::Daily),
    ("NEVER", Rotation::Never),
];

const JOURNAL_FORMS: [(&str, JournalForm); 3] = [
    ("priority", JournalForm::Priority),
    ("fields", JournalForm::Fields),
    ("plain", JournalForm::Plain),
];

const MODES: [(&str, u32); 3] = [("0600", 0o600), ("0640", DEFAULT_MODE), ("0644", 0o644)];
const DEFAULT_MODE: u32 = 0o640;

/// Reads the section. By default, the log goes to standard output, at level INFO and above.
pub(super) fn read(root: &Section<'_>) -> Option<LogConfig> {
    let Some(section) = root.section("tracing") else {
        // The section is missing, or has the wrong form, which has been reported.
        return Some(LogConfig {
            stdout: true,
            file: None,
            level: DEFAULT_LEVEL,
            format: LogFormat::Text,
            journal: JournalForm::default(),
        });
    };
    let switch = |name| {
        let remedy = format!("write {name} = true or {name} = false");
        section.require(name, &remedy).and_then(|member| member.bool())
    };
    let stdout = switch("is_stdout_writer_enabled");
    let is_file_enabled = switch("is_file_writer_enabled");
    if stdout == Some(false) && is_file_enabled == Some(false) {
        let problem = "nothing is logged: both writers are off";
        let remedy = "set is_stdout_writer_enabled or is_file_writer_enabled to true";
        section.report().warning(&section.location(), problem, remedy);
        let (level, format, journal) = (DEFAULT_LEVEL, LogFormat::Text, JournalForm::default());
        return Some(LogConfig { stdout: false, file: None, level, format, journal });
    }
    let level = level(&section);
    let format = format(&section);
    let journal = section.choice("journal", &JOURNAL_FORMS, JournalForm::default());
    let file = match is_file_enabled {
        Some(true) => file(&section).map(Some),
        _ => Some(None),
    };
    is_file_enabled?;
    Some(LogConfig {
        stdout: stdout?,
        file: file?,
        level: level?,
        format: format?,
        journal: journal?,
    })
}

fn level(section: &Section<'_>) -> Option<tracing::Level> {
    let Some(member) = section.get("level") else {
        return Some(DEFAULT_LEVEL);
    };
    let remedy = format!("write one of {} in quotes", LEVELS.join(", "));
    let text = member.string(&remedy)?;
    let level = text.parse().ok();
    if level.is_none() {
        let remedy = match nearest(text, LEVELS) {
            Some(nearest) => format!("did you mean {nearest}? Or {remedy}"),
            None => remedy,
        };
        member.mistake(format!("\"{}\" is not a level", shown(text)), remedy);
    }
    level
}

fn format(section: &Section<'_>) -> Option<LogFormat> {
    let Some(member) = section.get("format") else {
        return Some(LogFormat::Text);
    };
    let remedy = "write \"text\" or \"json\"";
    match member.string(remedy)? {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        other => {
            member.mistake(format!("\"{}\" is not a format", shown(other)), remedy);
            None
        }
    }
}

fn file(section: &Section<'_>) -> Option<LogFile> {
    let directory_remedy = "write the directory for log files, such as \"/var/log/xks-proxy\", \
                            or set is_file_writer_enabled to false";
    let directory = section.require("directory", directory_remedy).and_then(|member| {
        let text = member.string(directory_remedy)?;
        if text.is_empty() {
            member.warning("it is empty: files go to the working directory", directory_remedy);
            return Some(PathBuf::from("."));
        }
        Some(PathBuf::from(text))
    });
    let prefix_remedy = "write the beginning of the files' names, such as \"xks-proxy.log\"";
    let prefix = section.require("file_prefix", prefix_remedy).and_then(|member| {
        let text = member.string(prefix_remedy)?;
        if text.is_empty() || text.contains(['/', '\0']) {
            member.mistake("it cannot be the beginning of a file name", prefix_remedy);
            return None;
        }
        Some(text.to_owned())
    });
    let names: Vec<&str> = ROTATIONS.iter().map(|(name, _)| *name).collect();
    let rotation_remedy = format!("write one of {} in quotes", names.join(", "));
    let rotation = section.require("rotation_kind", &rotation_remedy).and_then(|member| {
        let text = member.string(&rotation_remedy)?;
        let found = ROTATIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        if found.is_none() {
            let remedy = match nearest(text, names.iter().copied()) {
                Some(nearest) => format!("did you mean {nearest}? Or {rotation_remedy}"),
                None => rotation_remedy.clone(),
            };
            member.mistake(format!("\"{}\" is not a kind of rotation", shown(text)), remedy);
        }
        found.map(|(_, rotation)| *rotation)
    });
    let mode = section.value_or("file_mode", DEFAULT_MODE, file_mode);
    Some(LogFile { directory: directory?, prefix: prefix?, rotation: rotation?, mode: mode? })
}

fn file_mode(member: &Member<'_>) -> Option<u32> {
    let remedy = "write \"0600\", \"0640\" or \"0644\": who else may read the log files";
    let text = member.string(remedy)?;
    let found = MODES.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        member.mistake(format!("\"{}\" is not one of these modes", shown(text)), remedy);
    }
    found.map(|(_, mode)| *mode)
}

//! Members that `[pkcs11]` and `[[pkcs11.tokens]]` share.

use std::path::{Path, PathBuf};

use super::file;
use super::report::{Location, Report};
use super::secret;
use super::section::{Member, Section, shown_path};
use crate::limits::MAX_SESSIONS_PER_TOKEN;
use crate::observe::redaction::Secret;

pub(super) const MODULE_REMEDY: &str = "write the path of the HSM vendor's PKCS#11 library, or set the \
                             environment variable PKCS11_HSM_MODULE, which overrides it";
const PIN_REMEDY: &str = "write the PIN in quotes, \"\" if there is none, or name its file in \
                          user_pin_file";
/// Reads `user_pin`, or the file that `user_pin_file` names; returns `Some(None)` if both are
/// missing and not required.
pub(super) fn pin_of(section: &Section<'_>, is_required: bool) -> Option<Option<Secret<String>>> {
    let is_there = ["user_pin", "user_pin_file"].into_iter().any(|it| section.get(it).is_some());
    if !is_there && !is_required {
        return Some(None);
    }
    secret::read(section, "user_pin", "user_pin_file", PIN_REMEDY).map(|(_, pin)| Some(pin))
}

pub(super) fn sessions_of(member: &Member<'_>) -> Option<usize> {
    member.integer(1..=MAX_SESSIONS_PER_TOKEN as u64, "a number of sessions")
}

pub(super) fn parameters_of(member: &Member<'_>) -> Option<String> {
    let remedy = "write the string that the module takes at C_Initialize, in quotes";
    let text = member.string(remedy)?;
    if text.contains('\0') {
        member.mistake("it has a NUL character", remedy);
        return None;
    }
    Some(text.to_owned())
}

/// Reads the path of a module. The file must exist.
pub(super) fn module_of(member: &Member<'_>) -> Option<PathBuf> {
    let text = member.string(MODULE_REMEDY)?;
    if text.is_empty() {
        member.mistake("it is empty", MODULE_REMEDY);
        return None;
    }
    let path = PathBuf::from(text);
    is_module(&path, "it names", member.location(), member.report()).then_some(path)
}

pub(super) fn is_module(
    path: &Path,
    origin: &str,
    location: &Location,
    report: &Report<'_>,
) -> bool {
    let name = shown_path(path);
    if !path.to_string_lossy().contains('/') {
        // dlopen(3) searches for a name without a slash, but not in the working directory.
        let problem = format!("{origin} {name}, which the system's loader must search for");
        report.warning(location, problem, "write the library's full path");
        return true;
    }
    let problem = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            file::check_unread(path, location, report);
            return true;
        }
        Ok(_) => format!("{origin} {name}, which is not a file"),
        Err(error) => format!("{origin} {name}, which cannot be read: {error}"),
    };
    report.mistake(location, problem, MODULE_REMEDY);
    false
}

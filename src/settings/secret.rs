//! A secret in the settings, or in a separate file (`..._file`).

use std::path::Path;

use zeroize::Zeroize as _;

use super::file;
use super::section::{Member, Section, shown_path};
use crate::limits::MAX_SECRET_FILE_BYTES;
use crate::observe::redaction::Secret;

/// Editors of some systems put this at the beginning of a UTF-8 file, where it is invisible.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Returns the secret in the member `name`, or in the file that `file_name` names, together with
/// the member from which it comes. Exactly one of the two must be present.
pub(super) fn read<'a>(
    section: &Section<'a>,
    name: &str,
    file_name: &str,
    remedy: &str,
) -> Option<(Member<'a>, Secret<String>)> {
    let Some(file_member) = section.get(file_name) else {
        let member = section.require(name, remedy)?;
        let text = member.string(remedy)?;
        inline(&member, text, remedy)?;
        return Some((member, Secret::new(text.to_owned())));
    };
    if section.get(name).is_some() {
        let problem = format!("{name} is there as well: it is not clear which one counts");
        file_member.mistake(problem, format!("remove {name} or {file_name}"));
        return None;
    }
    let secret = from_file(&file_member)?;
    Some((file_member, secret))
}

/// Reads the file's text without its final line end, which editors and `echo` add.
fn from_file(member: &Member<'_>) -> Option<Secret<String>> {
    let remedy = "name a file with the secret in one line, which the proxy can read";
    let path = Path::new(member.string(remedy)?);
    let (mut bytes, ownership) = match file::read(path, MAX_SECRET_FILE_BYTES) {
        Ok(read) => read,
        Err(error) => {
            member.mistake(format!("{} cannot be read: {error}", shown_path(path)), remedy);
            return None;
        }
    };
    member.report().add_file(path);
    file::check(&ownership, path, true, member.location(), member.report());
    let text = String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
        error.into_bytes().zeroize();
        ("is not UTF-8", remedy)
    });
    let secret = text.map(|mut text| {
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Secret::new(text)
    });
    match secret.and_then(|secret| in_one_line(secret.expose(), remedy).map(|()| secret)) {
        Ok(secret) => Some(secret),
        Err((problem, remedy)) => {
            member.mistake(format!("{} {problem}", shown_path(path)), remedy);
            None
        }
    }
}

/// Refuses a text that cannot be the secret that was meant: a PIN would be sent to the HSM, which
/// locks after a few wrong ones. Returns problem and remedy.
fn in_one_line<'r>(text: &str, remedy: &'r str) -> Result<(), (&'static str, &'r str)> {
    if text.is_empty() {
        Err(("is empty", remedy))
    } else if text.contains('\0') {
        Err(("has a NUL character (UTF-16 has them)", "save the file in UTF-8, or write it again"))
    } else if text.contains(['\n', '\r']) {
        Err(("has more than one line", remedy))
    } else if text.contains(BYTE_ORDER_MARK) {
        Err((
            "has a byte order mark (U+FEFF), which would be sent as a part of the secret",
            "save the file in UTF-8 without a byte order mark",
        ))
    } else {
        Ok(())
    }
}

/// Refuses a NUL or a byte order mark in a secret in the settings themselves.
fn inline(member: &Member<'_>, text: &str, remedy: &str) -> Option<()> {
    let problem = if text.contains('\0') {
        "it has a NUL character"
    } else if text.contains(BYTE_ORDER_MARK) {
        "it has a byte order mark (U+FEFF), which would be sent as a part of the secret"
    } else {
        return Some(());
    };
    member.mistake(problem, remedy);
    None
}

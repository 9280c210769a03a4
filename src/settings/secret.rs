//! A secret in the settings, or in a separate file (`..._file`).

use std::path::Path;

use zeroize::Zeroize as _;

use super::file;
use super::section::{Member, Section, shown};
use crate::limits::MAX_SECRET_FILE_BYTES;
use crate::observe::redaction::Secret;

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
    let name = member.string(remedy)?;
    let path = Path::new(name);
    let (mut bytes, ownership) = match file::read(path, MAX_SECRET_FILE_BYTES) {
        Ok(read) => read,
        Err(error) => {
            member.mistake(format!("\"{}\" cannot be read: {error}", shown(name)), remedy);
            return None;
        }
    };
    member.report().add_file(path);
    file::check(&ownership, path, true, member.location(), member.report());
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(mut text) => {
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            let secret = Secret::new(text);
            if secret.expose().is_empty() {
                // An empty PIN would be sent to the HSM, and HSMs lock after a few wrong PINs.
                member.mistake(format!("\"{}\" is empty", shown(name)), remedy);
                return None;
            }
            if secret.expose().contains(['\n', '\r', '\0']) {
                member.mistake(format!("\"{}\" has more than one line", shown(name)), remedy);
                return None;
            }
            Some(secret)
        }
        Err(error) => {
            error.into_bytes().zeroize();
            member.mistake(format!("\"{}\" is not UTF-8", shown(name)), remedy);
            None
        }
    }
}

//! `[pkcs11_logger]`

use std::path::Path;

use super::environment::Environment;
use super::file;
use super::section::Section;

/// The module that the logger loads into this process.
const LIBRARY: &str = "PKCS11_LOGGER_LIBRARY_PATH";

/// Reads the variables that the environment does not already set. Empty ones are left out, which
/// makes no difference to the logger.
pub(super) fn read(
    root: &Section<'_>,
    environment: Environment<'_>,
) -> Option<Vec<(String, String)>> {
    let Some(section) = root.section("pkcs11_logger") else {
        return Some(Vec::new());
    };
    let names = [LIBRARY, "PKCS11_LOGGER_LOG_FILE_PATH", "PKCS11_LOGGER_FLAGS"];
    let mut variables = Vec::new();
    let mut is_right = true;
    for name in names {
        let Some(member) = section.get(name) else {
            continue;
        };
        let remedy = format!("write the value of the environment variable {name}, in quotes");
        match member.string(&remedy) {
            Some(text) if text.contains('\0') => {
                member.mistake("it has a NUL character", remedy);
                is_right = false;
            }
            Some("") => {}
            Some(text) if environment(name).is_none() => {
                if name == LIBRARY {
                    file::check_unread(Path::new(text), member.location(), section.report());
                }
                variables.push((name.to_owned(), text.to_owned()));
            }
            Some(_) => {}
            None => is_right = false,
        }
    }
    is_right.then_some(variables)
}

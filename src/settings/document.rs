//! The settings file as TOML, before its sections are read.

use toml::de::DeTable;

use super::report::{Location, Report};

/// Reports syntax errors. Returns whether this makes the members unreliable: a duplicate key does
/// not affect other members, but any other error can turn one member into another.
pub(super) fn report_syntax(report: &Report<'_>, errors: &[toml::de::Error]) -> bool {
    /// Maximum number of reports: a missing quote or bracket can make every later line an error.
    const MAX_SYNTAX_ERRORS: usize = 20;
    let mut is_garbled = false;
    for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
        let location =
            Location { member: String::new(), offset: error.span().map(|span| span.start) };
        if error.message().starts_with("duplicate key") {
            let problem = "this member or section is a duplicate";
            report.mistake(&location, problem, "keep one of the two");
        } else {
            is_garbled = true;
            let character = location.offset.and_then(|offset| report.character(offset));
            let problem = format!("invalid TOML: {}{}", error.message(), named(character));
            let remedy = "check quotes, brackets and '=' here and on the line before";
            report.mistake(&location, problem, remedy);
        }
    }
    is_garbled
}

/// Names a character that cannot be seen, or that looks like another one: quotes and spaces of a
/// word processor. Others are not shown: they could be a part of a secret.
fn named(character: Option<char>) -> String {
    let Some(character) = character else { return String::new() };
    let code = u32::from(character);
    match character {
        '\n' | '\r' | ' '..='~' => String::new(),
        _ if character.is_alphanumeric() => String::new(),
        _ if character.is_control() => format!(" (here is the control character U+{code:04X})"),
        _ => format!(" (here is {character}, U+{code:04X})"),
    }
}

/// Returns whether the text contains a PIN or a secret access key.
pub(super) fn holds_secret(document: &DeTable<'_>) -> bool {
    let is_there = |table: &DeTable<'_>, name: &str| {
        table.get(name).is_some_and(|value| value.get_ref().as_str() != Some(""))
    };
    let pkcs11 = document.get("pkcs11").and_then(|section| section.get_ref().as_table());
    let stores = document.get("external_key_stores").and_then(|list| list.get_ref().as_array());
    pkcs11.is_some_and(|section| is_there(section, "user_pin"))
        || stores.into_iter().flat_map(|list| list.iter()).any(|store| {
            let Some(store) = store.get_ref().as_table() else { return false };
            let listed = store.get("credentials").and_then(|list| list.get_ref().as_array());
            let listed = listed.into_iter().flat_map(|list| list.iter());
            listed
                .filter_map(|credential| credential.get_ref().as_table())
                .chain([store])
                .any(|section| is_there(section, "sigv4_secret_access_key"))
        })
}

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
            let problem = format!("invalid TOML: {}", error.message());
            let remedy = "check quotes, brackets and '=' here and on the line before";
            report.mistake(&location, problem, remedy);
        }
    }
    is_garbled
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

//! Loading of the settings for a command.

use std::env;
use std::path::Path;

use crate::exit::{EXIT_SETTINGS, Failed};
use crate::settings::{self, Finding, Settings};

/// Loads `file`, or the settings file that serving would use.
///
/// # Errors
/// [`Failed`] with every mistake in the file, a line each.
pub(super) fn load(
    file: Option<&Path>,
    is_strict: bool,
) -> Result<(Settings, Vec<Finding>), Failed> {
    let environment = |name: &str| env::var_os(name);
    let told = |findings: Vec<Finding>| {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failed::new(EXIT_SETTINGS, lines.join("\n"))
    };
    let file = match file {
        Some(file) => file.to_owned(),
        None => settings::locate(&environment).map_err(told)?,
    };
    settings::load(&file, is_strict, &environment).map_err(told)
}

/// Loads settings that lack only `[hsm_capabilities]`.
pub(super) fn load_to_probe(file: Option<&Path>) -> Option<Settings> {
    let environment = |name: &str| env::var_os(name);
    let file =
        file.map_or_else(|| settings::locate(&environment).ok(), |it| Some(it.to_owned()))?;
    settings::load_to_probe(&file, &environment).ok().map(|(settings, _)| settings)
}

//! The location of the settings file.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::document::report_syntax;
use super::environment::{Environment, XKS_PROXY_SETTINGS_TOML, settings_file};
use super::file;
use super::report::{Finding, Location, Report};
use crate::limits::MAX_SETTINGS_BYTES;

/// File that contains the path of the settings file if the environment does not.
pub const BOOTSTRAP_TOML: &str = "configuration/bootstrap.toml";

/// Returns the settings file's path, from `XKS_PROXY_SETTINGS_TOML` in the environment, or else
/// from [`BOOTSTRAP_TOML`]. Does not read the settings file itself.
///
/// # Errors
/// Findings that describe what was tried; at least one.
pub fn locate(environment: Environment<'_>) -> Result<PathBuf, Vec<Finding>> {
    locate_by(environment, Path::new(BOOTSTRAP_TOML))
}

/// Does the same as [`locate`] with another bootstrap file.
///
/// # Errors
/// The same as those of [`locate`].
pub fn locate_by(environment: Environment<'_>, bootstrap: &Path) -> Result<PathBuf, Vec<Finding>> {
    if let Some(file) = settings_file(environment) {
        return Ok(file);
    }
    let not_set = format!("{XKS_PROXY_SETTINGS_TOML} is not set in the environment");
    let remedy =
        format!("set {XKS_PROXY_SETTINGS_TOML} to the settings file's path, there or here");
    let (bytes, _) = file::read(bootstrap, MAX_SETTINGS_BYTES).map_err(|error| {
        let problem = format!("{not_set}, and this file cannot be read: {error}");
        vec![Finding::of_file(bootstrap, problem, remedy.clone())]
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let report = Report::new(bootstrap, &text, false);
    let (document, errors) = DeTable::parse_recoverable(&text);
    report_syntax(&report, &errors);
    let member = document.get_ref().get(XKS_PROXY_SETTINGS_TOML);
    match member.and_then(|value| value.get_ref().as_str()) {
        Some(file) if !file.is_empty() && !report.has_mistakes() => return Ok(file.into()),
        _ if report.has_mistakes() => {}
        _ => {
            let offset = member.map(|value| value.span().start);
            let location = Location { member: XKS_PROXY_SETTINGS_TOML.to_owned(), offset };
            let problem = format!("{not_set}, and here it is not a path in quotes");
            report.mistake(&location, problem, remedy);
        }
    }
    Err(report.into_findings())
}

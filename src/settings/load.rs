//! From a file to [`Settings`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::report::{Finding, Location, Report, Severity};
use super::section::{Section, wipe};
use super::{Settings, admin, audit, file, pkcs11, security, server, state, stores, tracing};
use crate::limits::MAX_SETTINGS_BYTES;

/// Names the settings file.
pub const XKS_PROXY_SETTINGS_TOML: &str = "XKS_PROXY_SETTINGS_TOML";
/// Names the PKCS#11 module, in place of the member of that name.
pub const PKCS11_HSM_MODULE: &str = "PKCS11_HSM_MODULE";
/// Names the settings file where the environment does not.
pub const BOOTSTRAP_TOML: &str = "configuration/bootstrap.toml";

/// Looks up an environment variable: [`std::env::var_os`], or a test's own. A variable that is
/// set to nothing counts as one that is not set.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// The variable's value, if there is one and it is not empty.
pub(super) fn variable(environment: Environment<'_>, name: &str) -> Option<OsString> {
    environment(name).filter(|value| !value.is_empty())
}

/// Reads and checks a settings file. Relative paths in it are relative to the process's working
/// directory. Under `is_strict`, a member that nobody knows is a mistake and not a warning.
///
/// With the settings come the warnings and notices, in the order of the file.
///
/// # Errors
/// All findings, at least one of which is a [`Severity::Mistake`], in the order of the file.
pub fn load(
    path: &Path,
    is_strict: bool,
    environment: Environment<'_>,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    load_with(path, is_strict, environment, "")
}

/// Loads a settings file for those who find out what belongs into `[hsm_capabilities]`: where it is
/// missing, it stands as for an HSM that makes no initialization vectors.
///
/// # Errors
/// All mistakes.
pub fn load_to_probe(
    path: &Path,
    environment: Environment<'_>,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let missing = "[hsm_capabilities]\ncan_generate_iv = false\nis_zero_iv_required = false\n";
    load_with(path, false, environment, missing)
}

/// `missing`: sections that stand where the file has none of that name.
fn load_with(
    path: &Path,
    is_strict: bool,
    environment: Environment<'_>,
    missing: &'static str,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let (bytes, status) = file::read(path, MAX_SETTINGS_BYTES).map_err(|error| {
        let problem = format!("it cannot be read: {error}");
        let remedy = format!("name a readable file in {XKS_PROXY_SETTINGS_TOML}");
        vec![whole_file(path, problem, remedy)]
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        let problem = format!("line {line} is not UTF-8");
        vec![whole_file(path, problem, "save the file in UTF-8".to_owned())]
    })?;
    let report = Report::new(path, text, is_strict);
    let (mut document, errors) = DeTable::parse_recoverable(text);
    let (others, _) = DeTable::parse_recoverable(missing);
    for (name, section) in others.into_inner() {
        document.get_mut().entry(name).or_insert(section);
    }
    let settings = if report_syntax(&report, &errors) {
        None
    } else {
        read_settings(path, &status, document.get_ref(), &report, environment)
    };
    wipe(document.get_mut());
    let has_mistakes = report.has_mistakes();
    let findings = report.into_findings();
    match settings {
        Some(settings) if !has_mistakes => Ok((settings, findings)),
        _ => Err(findings),
    }
}

/// Reports what TOML's grammar forbids. Gives whether the members can't be trusted either: a
/// doubled key leaves them as they are, anything else can turn one into another.
fn report_syntax(report: &Report<'_>, errors: &[toml::de::Error]) -> bool {
    /// A missing quote or bracket can make an error of each line after it.
    const MAX_SYNTAX_ERRORS: usize = 20;
    let mut is_garbled = false;
    for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
        let location =
            Location { member: String::new(), offset: error.span().map(|span| span.start) };
        if error.message().starts_with("duplicate key") {
            let problem = "this member or section is there a second time";
            report.mistake(&location, problem, "keep one of the two");
        } else {
            is_garbled = true;
            let problem = format!("this is not TOML: {}", error.message());
            let remedy = "check quotes, brackets and '=' here and on the line before";
            report.mistake(&location, problem, remedy);
        }
    }
    is_garbled
}

fn read_settings(
    path: &Path,
    status: &file::Status,
    document: &DeTable<'_>,
    report: &Report<'_>,
    environment: Environment<'_>,
) -> Option<Settings> {
    let root = Section::root(document, report);
    // Before any file with a secret is read.
    let strict = security::strict_file_permissions(&root);
    report.set_strict_about_files(strict == Some(true));
    let server = server::read(&root);
    let tracing = tracing::read(&root);
    let security = security::read(&root);
    let is_sigv4_auth_enabled = security.as_ref().is_none_or(|it| it.is_sigv4_auth_enabled);
    let stores = stores::read(&root, is_sigv4_auth_enabled);
    let pkcs11 = pkcs11::read(&root, environment);
    let limits = super::limits::read(&root);
    let admin = admin::read(&root, server.as_ref());
    let audit = audit::read(&root, stores.as_deref());
    let state_directory = state::read(&root);
    let holds_secret = holds_secret(document);
    file::check(
        status,
        path,
        holds_secret,
        &Location { member: String::new(), offset: None },
        report,
    );
    strict?;
    let mut security = security?;
    if let Some(landlock) = &mut security.confinement.landlock {
        landlock.reload = file::directories(&report.files());
    }
    Some(Settings {
        file: path.to_owned(),
        server: server?,
        tracing: tracing?,
        is_sigv4_auth_enabled: security.is_sigv4_auth_enabled,
        tls: security.tls,
        policy: security.policy,
        confinement: security.confinement,
        stores: stores?,
        pkcs11: pkcs11?,
        limits: limits?,
        admin: admin?,
        audit: audit?,
        state_directory: state_directory?,
    })
}

/// Whether the text itself has a PIN or a secret access key.
fn holds_secret(document: &DeTable<'_>) -> bool {
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

/// The settings file's path: what `XKS_PROXY_SETTINGS_TOML` says in the environment, else in
/// [`BOOTSTRAP_TOML`]. Whether it can be read is for [`load`] to say.
///
/// # Errors
/// Findings that say what was tried; at least one.
pub fn locate(environment: Environment<'_>) -> Result<PathBuf, Vec<Finding>> {
    locate_by(environment, Path::new(BOOTSTRAP_TOML))
}

/// [`locate`] with another bootstrap file.
///
/// # Errors
/// As [`locate`].
pub fn locate_by(environment: Environment<'_>, bootstrap: &Path) -> Result<PathBuf, Vec<Finding>> {
    if let Some(file) = variable(environment, XKS_PROXY_SETTINGS_TOML) {
        return Ok(file.into());
    }
    let not_set = format!("{XKS_PROXY_SETTINGS_TOML} is not set in the environment");
    let remedy =
        format!("set {XKS_PROXY_SETTINGS_TOML} to the settings file's path, there or here");
    let (bytes, _) = file::read(bootstrap, MAX_SETTINGS_BYTES).map_err(|error| {
        let problem = format!("{not_set}, and this file cannot be read: {error}");
        vec![whole_file(bootstrap, problem, remedy.clone())]
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
            let problem = format!("{not_set}, and here it is not a string with a path");
            report.mistake(&location, problem, remedy);
        }
    }
    Err(report.into_findings())
}

fn whole_file(file: &Path, problem: String, remedy: String) -> Finding {
    Finding {
        severity: Severity::Mistake,
        file: file.to_owned(),
        position: None,
        member: String::new(),
        problem,
        remedy,
    }
}

//! Loading of a file into [`Settings`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::admin::{self, Admin};
use super::document::{holds_secret, report_syntax};
use super::environment::{Environment, XKS_PROXY_SETTINGS_TOML};
use super::limits::{self, Limits};
use super::memory::MemoryLimit;
use super::pkcs11::{self, Pkcs11};
use super::report::{Finding, Location, Report};
use super::section::{Section, wipe};
use super::security::{self, Confinement};
use super::server::{self, Server};
use super::stores::{self, Store};
use super::tls::Tls;
use super::{audit, encryption_count, file, key_checks, otlp, state, syslog, tracing};
use crate::hsm::usage::Limit;
use crate::limits::MAX_SETTINGS_BYTES;
use crate::observe::audit::AuditConfig;
use crate::observe::log::LogConfig;
use crate::observe::otlp::config::OtlpConfig;
use crate::observe::syslog::SyslogConfig;
use crate::policy::Policy;

/// All settings. Sections that are switched off are `None`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that the settings come from.
    pub file: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[tracing]`
    pub tracing: LogConfig,
    /// `[security] is_sigv4_auth_enabled`
    pub is_sigv4_auth_enabled: bool,
    /// `[tls]`, if `[security] is_tls_enabled`.
    pub tls: Option<Tls>,
    /// `[security] secondary_auth`: the policy for all calls but health.
    pub policy: Option<Arc<Policy>>,
    /// Restrictions of the process itself, of `[security]`.
    pub confinement: Confinement,
    /// `[[external_key_stores]]`
    pub stores: Vec<Store>,
    /// `[pkcs11]`, with `[pkcs11_logger]` and `[hsm_capabilities]`
    pub pkcs11: Pkcs11,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`; without it, metrics and status are not served.
    pub admin: Option<Admin>,
    /// `[audit]`; without it, there is no audit log.
    pub audit: Option<AuditConfig>,
    /// `[otlp]`; without it, nothing is exported.
    pub otlp: Option<OtlpConfig>,
    /// `[[syslog]]`; without one, nothing is forwarded.
    pub syslog: Vec<SyslogConfig>,
    /// `[state] directory`; without it, no state survives a restart.
    pub state_directory: Option<PathBuf>,
    /// `[encryption_count]`: the limit of encryptions per key.
    pub encryption_limit: Limit,
}

/// Reads and checks a settings file. Relative paths in it are relative to the process's working
/// directory. With `is_strict`, an unknown member is a mistake instead of a warning.
///
/// Returns the settings with warnings and notices in the order of the file.
///
/// # Errors
/// All findings in the order of the file, among them at least one
/// [`Severity::Mistake`](super::Severity).
pub fn load(
    path: &Path,
    is_strict: bool,
    environment: Environment<'_>,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    load_with(path, is_strict, environment, "")
}

/// Loads a settings file for a command that finds out the values of `[hsm_capabilities]`. If that
/// section is missing, the HSM is assumed to generate no initialization vectors.
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

/// Loads a file, adding those sections of `missing` that it lacks.
fn load_with(
    path: &Path,
    is_strict: bool,
    environment: Environment<'_>,
    missing: &'static str,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let (bytes, ownership) = file::read(path, MAX_SETTINGS_BYTES).map_err(|error| {
        let problem = format!("it cannot be read: {error}");
        let remedy = format!("name a readable file in {XKS_PROXY_SETTINGS_TOML}");
        vec![Finding::of_file(path, problem, remedy)]
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        let problem = match bytes.get(..2).unwrap_or_default() {
            [0xff, 0xfe] | [0xfe, 0xff] => "it is UTF-16".to_owned(),
            _ => format!("line {line} is not UTF-8: it has the byte 0x{byte:02x}"),
        };
        vec![Finding::of_file(path, problem, "save the file in UTF-8".to_owned())]
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
        read_settings(path, &ownership, document.get_ref(), &report, environment)
    };
    wipe(document.get_mut());
    let has_mistakes = report.has_mistakes();
    let findings = report.into_findings();
    match settings {
        Some(settings) if !has_mistakes => Ok((settings, findings)),
        _ => Err(findings),
    }
}

fn read_settings(
    path: &Path,
    ownership: &file::Ownership,
    document: &DeTable<'_>,
    report: &Report<'_>,
    environment: Environment<'_>,
) -> Option<Settings> {
    let root = Section::root(document, report);
    // This must be known before any file with a secret is read.
    let strict = security::strict_file_permissions(&root);
    report.set_strict_about_files(strict == Some(true));
    let server = server::read(&root, environment);
    let tracing = tracing::read(&root);
    let security = security::read(&root, server.as_ref().map(|server| server.region.as_str()));
    let is_sigv4_auth_enabled = security.as_ref().is_none_or(|it| it.is_sigv4_auth_enabled);
    let stores = stores::read(&root, is_sigv4_auth_enabled);
    if let (Some(server), Some(stores)) = (&server, &stores) {
        key_checks::report_shared(&root, stores);
        key_checks::check_metadata(&root, server, stores);
    }
    let pkcs11 = pkcs11::read(&root, environment);
    let admin = admin::read(&root, server.as_ref());
    let audit = audit::read(&root, stores.as_deref());
    let otlp = otlp::read(&root);
    let mut syslog = syslog::read(&root);
    let mut memory = MemoryLimit::of_process();
    if let Some(memory) = &mut memory {
        let collectors = syslog.as_deref_mut().unwrap_or_default();
        memory.count_exports(collectors, matches!(otlp, Some(Some(_))));
    }
    let limits = limits::read(&root, memory.as_ref());
    let state_directory = state::read(&root);
    let tokens = pkcs11.as_ref().map(|it| it.tokens.as_slice());
    let encryption_limit = encryption_count::read(&root, tokens);
    let holds_secret = holds_secret(document);
    file::check(
        ownership,
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
        otlp: otlp?,
        syslog: syslog?,
        state_directory: state_directory?,
        encryption_limit: encryption_limit?,
    })
}

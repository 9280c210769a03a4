//! Differences between settings that need a restart or new sessions.

use crate::hsm::config::TokenConfig;
use crate::observe::syslog::SyslogConfig;
use crate::settings::{Admin, Settings};

/// Returns the members and sections of `new` that need a restart and that differ from the settings
/// with which the process `started`.
pub(super) fn members(started: &Settings, new: &Settings) -> Vec<&'static str> {
    let (server, other) = (&started.server, &new.server);
    let (log, other_log) = (&started.tracing, &new.tracing);
    let (security, other_security) = (&started.confinement, &new.confinement);
    let landlock = |settings: &Settings| {
        let paths = settings.confinement.landlock.clone();
        paths.map(|paths| (paths.read, paths.write))
    };
    let address = |admin: &Option<Admin>| admin.as_ref().map(|admin| admin.address);
    let has_tls = |admin: &Option<Admin>| admin.as_ref().map(|admin| admin.tls.is_some());
    let changed = [
        ("server.ip", server.ip != other.ip),
        ("server.port", server.port != other.port),
        ("server.port_http_ping", server.port_http_ping != other.port_http_ping),
        ("server.event_loops", server.event_loops != other.event_loops),
        ("server.tcp_keepalive", server.tcp_keepalive != other.tcp_keepalive),
        ("server.pid_file", server.pid_file != other.pid_file),
        ("tracing.is_stdout_writer_enabled", log.stdout != other_log.stdout),
        ("tracing.is_file_writer_enabled", log.file.is_some() != other_log.file.is_some()),
        (
            "tracing.directory, file_prefix, rotation_kind or file_mode",
            log.file.is_some() && other_log.file.is_some() && log.file != other_log.file,
        ),
        ("tracing.format", log.format != other_log.format),
        ("tracing.journal", log.journal != other_log.journal),
        ("security.allow_core_dumps", security.allow_core_dumps != other_security.allow_core_dumps),
        ("security.landlock, landlock_read or landlock_write", landlock(started) != landlock(new)),
        ("pkcs11.exit_when_wedged", started.pkcs11.exit_when_wedged != new.pkcs11.exit_when_wedged),
        ("pkcs11.initialize_parameters", is_initialized_otherwise(started, new)),
        ("pkcs11_logger", started.pkcs11.environment != new.pkcs11.environment),
        ("audit", started.audit != new.audit),
        ("otlp", started.otlp != new.otlp),
        ("syslog", !is_same_syslog(&started.syslog, &new.syslog)),
        ("state", started.state_directory != new.state_directory),
        ("admin.ip or port", address(&started.admin) != address(&new.admin)),
        (
            "admin.tls_cert_pem",
            started.admin.is_some()
                && new.admin.is_some()
                && has_tls(&started.admin) != has_tls(&new.admin),
        ),
    ];
    changed.into_iter().filter_map(|(name, is_changed)| is_changed.then_some(name)).collect()
}

/// Returns whether the same forwarders can go on, if with other certificates and keys.
fn is_same_syslog(started: &[SyslogConfig], new: &[SyslogConfig]) -> bool {
    started.len() == new.len() && started.iter().zip(new).all(|(one, other)| one.is_same(other))
}

/// Returns whether a module that is in use would need different parameters. A module is initialised
/// only once.
fn is_initialized_otherwise(started: &Settings, new: &Settings) -> bool {
    new.pkcs11.tokens.iter().any(|token| {
        let same = started.pkcs11.tokens.iter().find(|known| known.module == token.module);
        same.is_some_and(|known| known.initialize_parameters != token.initialize_parameters)
    })
}

/// Returns whether the same sessions with the same tokens can serve both settings.
pub(super) fn is_same_fleet(one: &Settings, other: &Settings) -> bool {
    let (one, other) = (&one.pkcs11, &other.pkcs11);
    one.tokens.len() == other.tokens.len()
        && one.tokens.iter().zip(&other.tokens).all(|(one, other)| is_same_token(one, other))
        && one.allow_ambiguous_labels == other.allow_ambiguous_labels
        && one.require_private_keys == other.require_private_keys
        && one.hedging == other.hedging
        && one.health_key == other.health_key
}

fn is_same_token(one: &TokenConfig, other: &TokenConfig) -> bool {
    // Destructured in full, so that a new member cannot be forgotten here.
    let TokenConfig {
        module,
        select,
        user_pin,
        max_sessions,
        weight,
        priority,
        iv_mode,
        rules,
        initialize_parameters: _,
    } = one;
    *module == other.module
        && *select == other.select
        && user_pin.expose() == other.user_pin.expose()
        && *max_sessions == other.max_sessions
        && *weight == other.weight
        && *priority == other.priority
        && *iv_mode == other.iv_mode
        && *rules == other.rules
}
